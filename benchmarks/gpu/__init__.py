"""Programmes for a machine with a GPU. Each prints its figures as JSON and writes them to docs/benchmarks/."""
