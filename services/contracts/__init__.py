"""Frozen values that packages exchange. No I/O, and nothing of Bunkhouse's own below it."""
