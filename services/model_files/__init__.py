"""Weights on disk: where they lie, their metadata and shapes."""
