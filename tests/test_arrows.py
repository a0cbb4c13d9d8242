"""Which package may import which. docs/ARCHITECTURE.md shows the same table.

A package is the second level of `services`, else the top: `services.store`, `gateway`.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator, Mapping, Set
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOPS = ("gateway", "scheduler", "services")
ARROWS = {
    "contracts": "",
    "config": "contracts",
    "process": "",
    "http_stream": "",
    "kvplanes": "",
    "model_files": "",
    "knowledge": "contracts",
    "devices": "contracts config process",
    "tokenizer": "model_files",
    "store": "contracts config process",
    "engines": "contracts config process devices model_files kvplanes http_stream",
    "scheduler": "contracts store",
    "planner": "contracts config devices model_files store kvplanes",
    "worker": "contracts config process devices model_files tokenizer store engines planner",
    "evidence": "contracts config process model_files tokenizer engines kvplanes planner http_stream worker",
    "jobs": "contracts config process model_files tokenizer store engines planner evidence http_stream",
    "host": "contracts config process store devices",
    "gateway": "contracts config process devices model_files tokenizer store planner knowledge",
    "cli": "contracts config process model_files store planner evidence jobs host http_stream",
}
# A process is put together in its main module, which may import more than its package.
MAIN = {"scheduler.__main__": "config process devices"}


def package_of(module: str) -> str:
    """The short name that `ARROWS` uses."""
    parts = module.split(".")
    return parts[1] if parts[0] == "services" and len(parts) > 1 else parts[0]


def imported(tree: ast.AST, module: str, *, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """Line and full name of each module of ours that `module` imports, wherever it does."""
    inside = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = inside[: len(inside) - node.level + 1] if node.level else []
            name = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{name}.{alias.name}" for alias in node.names] if name == "services" else [name]
        else:
            continue
        yield from ((node.lineno, name) for name in names if name.partition(".")[0] in TOPS)


def arrows(root: Path) -> Iterator[tuple[str, str, str]]:
    """Importing module, imported module, and where, of every import that leaves its package."""
    for top in TOPS:
        for file in sorted((root / top).rglob("*.py")):
            parts = file.relative_to(root).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            module = ".".join(parts[:-1] if is_package else parts)
            for line, name in imported(ast.parse(file.read_text()), module, is_package=is_package):
                if module != "services" and package_of(name) != package_of(module):
                    yield module, name, f"{file.relative_to(root)}:{line}"


def undrawn(root: Path, drawn: Mapping[str, str], main: Mapping[str, str]) -> list[str]:
    """A message for each import that no arrow allows."""
    return [
        f"{where} imports {name}: no arrow from {package_of(module)} to {package_of(name)}"
        for module, name, where in arrows(root)
        if package_of(name) not in f"{drawn.get(package_of(module), '')} {main.get(module, '')}".split()
    ]


def circle(root: Path) -> list[str]:
    """The imports that close a circle of packages, or nothing."""
    graph: dict[str, dict[str, str]] = {}
    for module, name, where in arrows(root):
        graph.setdefault(package_of(module), {}).setdefault(package_of(name), f"{where} imports {name}")
    try:
        TopologicalSorter({one: set(others) for one, others in graph.items()}).prepare()
    except CycleError as error:
        ring = list(reversed(error.args[1]))
        return [graph[one][other] for one, other in itertools.pairwise(ring)]
    return []


def _tree(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_every_import_follows_an_arrow() -> None:
    assert undrawn(ROOT, ARROWS, MAIN) == []


def test_no_packages_import_each_other_in_a_circle() -> None:
    assert circle(ROOT) == []


def test_the_manual_shows_the_same_arrows() -> None:
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    for package, allowed in ARROWS.items():
        assert f"| `{package}` | {allowed.replace(' ', ', ') or '-'} |" in text


def test_an_undrawn_import_is_named(tmp_path: Path) -> None:
    files = {"gateway/a.py": "def late():\n    from scheduler.core import X\n", "scheduler/core.py": "X = 1\n"}
    assert undrawn(_tree(tmp_path, files), {"gateway": "store"}, {}) == [
        "gateway/a.py:2 imports scheduler.core: no arrow from gateway to scheduler"
    ]


def test_a_main_module_may_import_more(tmp_path: Path) -> None:
    line = "from services import config\n"
    root = _tree(tmp_path, {"scheduler/__main__.py": line, "scheduler/core.py": line})
    assert [message.split()[0] for message in undrawn(root, {}, MAIN)] == ["scheduler/core.py:1"]


@pytest.mark.parametrize("back", ["import services.a.one\n", "from ..a import one\n", "from services.a.one import X\n"])
def test_a_circle_is_named_import_by_import(tmp_path: Path, back: str) -> None:
    files = {"services/a/one.py": "import services.b.two\n", "services/b/two.py": back}
    found = circle(_tree(tmp_path, files))
    assert sorted(message.partition(":")[0] for message in found) == ["services/a/one.py", "services/b/two.py"]


def test_all_packages_are_drawn() -> None:
    folders: Set[str] = {path.parent.name for path in (ROOT / "services").glob("*/__init__.py")}
    assert folders | {"gateway", "scheduler"} == set(ARROWS)
