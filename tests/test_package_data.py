"""What an installed wheel needs beside Python files is listed for it."""

from __future__ import annotations

import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_file_of_the_packages_is_packaged() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = ["*.py", *settings["package-data"]["*"]]
    listed = subprocess.run(
        ["git", "ls-files", "gateway", "scheduler", "services"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    missing = [name for name in listed if not any(fnmatch(Path(name).name, pattern) for pattern in patterns)]
    assert missing == []
