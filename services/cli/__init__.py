"""The `bunkhouse` command."""

from __future__ import annotations


def main() -> None:
    """Entry point of the console script."""
    from services.cli.app import app  # noqa: PLC0415  (`bunkhouse --help` need not wait for it twice)

    app()
