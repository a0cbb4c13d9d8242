"""What an installed wheel needs beside Python files is listed for it."""

from __future__ import annotations

import tomllib
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_file_of_the_packages_is_packaged() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = ["*.py", "*.pyc", *settings["package-data"]["*"]]
    files = [path for top in ("gateway", "scheduler", "services") for path in (ROOT / top).rglob("*") if path.is_file()]
    missing = [path for path in files if not any(fnmatch(path.name, pattern) for pattern in patterns)]
    assert missing == []
