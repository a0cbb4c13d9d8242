"""The lock files and scripts: what pyproject.toml asks for is pinned, hashed, and names no host."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCKS = sorted(ROOT.glob("requirements*.lock"))
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


def pinned(name: str) -> dict[str, str]:
    """Package -> version of one lock file."""
    lines = (ROOT / name).read_text().splitlines()
    return {
        canonicalize_name(found[1]): found[2] for line in lines if (found := re.match(r"([\w.-]+)==(\S+) \\", line))
    }


@pytest.mark.parametrize(
    ("lock", "wanted"),
    [
        ("requirements.lock", [*PYPROJECT["project"]["dependencies"], *PYPROJECT["build-system"]["requires"]]),
        ("requirements-dev.lock", PYPROJECT["dependency-groups"]["dev"]),
    ],
)
def test_what_is_asked_for_is_pinned(lock: str, wanted: list[str]) -> None:
    found = {**pinned("requirements.lock"), **pinned(lock)}
    for text in wanted:
        asked = Requirement(text)
        assert found.get(canonicalize_name(asked.name), "nothing") in asked.specifier, f"{lock}: {text}; run make lock"


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_every_package_has_a_hash_and_no_host_is_named(path: Path) -> None:
    text = path.read_text()
    assert "://" not in text
    assert not re.search(r"^-", text, re.MULTILINE)
    for block in re.split(r"\n(?=\S)", text):
        assert block.startswith("#") or "--hash=sha256:" in block, block


@pytest.mark.parametrize("other", ["requirements-dev.lock", "requirements-overflow.lock"])
def test_locks_agree(other: str) -> None:
    """Whoever installs several of them gets one version of each package, whatever the order."""
    for first, second in (("requirements.lock", other), ("requirements-dev.lock", other)):
        one, two = pinned(first), pinned(second)
        assert {name: two[name] for name in one.keys() & two.keys()} == {
            name: one[name] for name in one.keys() & two.keys()
        }


def test_overflow_needs_nothing_but_the_host() -> None:
    """Without the tools of `make dev`, LiteLLM could not be imported: openai was locked with those only."""
    found = {**pinned("requirements.lock"), **pinned("requirements-overflow.lock")}
    wanted = ["litellm"]
    seen: set[str] = set()
    while wanted:
        name = canonicalize_name(wanted.pop())
        assert name in found, f"{name} is in neither lock; run make lock"
        if name not in seen:
            seen.add(name)
            asked = [Requirement(text) for text in requires(name) or ()]
            wanted += [each.name for each in asked if each.marker is None or each.marker.evaluate({"extra": ""})]
    assert "openai" in seen


@pytest.mark.parametrize(
    "path",
    [*(ROOT / "scripts").glob("*"), ROOT / ".ci" / "run", ROOT / "docker" / "make-secrets"],
    ids=lambda p: p.name,
)
def test_scripts_can_be_run(path: Path) -> None:
    if path.suffix == ".txt":
        assert "://" not in path.read_text()
    else:
        assert os.access(path, os.X_OK)
        subprocess.run(["bash", "-n", str(path)], check=True)


def test_make_knows_its_targets() -> None:
    shown = subprocess.run(["make", "-C", str(ROOT), "help"], check=True, capture_output=True, text=True).stdout
    for target in ("up", "test", "test-fast", "lint", "lock", "clean", "sglang-env"):
        assert re.search(rf"^{target} ", shown, re.MULTILINE)
