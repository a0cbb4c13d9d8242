"""`python -m benchmarks.house`: the figures of issue 14, which say how easily this code base can be read.

`python -m benchmarks.house --quick` takes the static figures only, in two seconds, and writes no file. Both print what
each figure found, with file and line, and one JSON object as the last line. `--only any_dicts` lists the findings of
one figure. The full run (`make bench-house`) also traces one chat through a real host (`benchmarks/trace.py`, half a
minute) and writes docs/benchmarks/house.json. The seconds of the tests come from `--times FILE`, a JSON object with
`test_fast_s` and `test_s`, or stay as they were in house.json.
"""

from __future__ import annotations

import argparse
import ast
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

from benchmarks.output import keep

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "docs" / "benchmarks" / "house.json"
PRODUCT = ("gateway", "scheduler", "services")
ENGINE_NAMES = frozenset({"sglang", "llamacpp"})
TIMES = ("test_fast_s", "test_s")
WANTED = {
    "packages_in_cycles": 0,
    "gateway_imports_scheduler": 0,
    "class_names_twice": 0,
    "any_dicts": 45,
    "engine_name_comparisons": 0,
    "chat_path_files": 45,
    "python_lines": 35_500,
    "test_fast_s": 90,
    "test_s": 900,
}


class Module:
    """One Python file."""

    def __init__(self, path: Path) -> None:
        self.path = path.relative_to(ROOT)
        self.text = path.read_text()

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def package(self) -> str:
        """The second level of services, else the top: `services.store`, `gateway`."""
        parts = self.path.with_suffix("").parts
        return ".".join(parts[:2]) if parts[0] == "services" else parts[0]

    def imports(self) -> Iterator[tuple[int, str]]:
        """Line and dotted name of every import, those inside functions and for types included."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)

    def at(self, line: int) -> str:
        return f"{self.path}:{line}"


def modules(tops: Iterable[str]) -> list[Module]:
    return [Module(path) for top in tops for path in sorted((ROOT / top).rglob("*.py"))]


def package_imports(product: Iterable[Module]) -> dict[str, set[str]]:
    """Package -> the packages that it imports."""
    product = list(product)
    packages = {module.package for module in product}
    found: dict[str, set[str]] = {package: set() for package in packages}
    for module in product:
        for _, name in module.imports():
            parts = name.split(".")
            imported = ".".join(parts[:2]) if parts[0] == "services" else parts[0]
            if imported in packages and imported != module.package:
                found[module.package].add(imported)
    return found


def reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    """Everything that `start` imports, directly or not."""
    seen: set[str] = set()
    ahead = list(graph[start])
    while ahead:
        package = ahead.pop()
        if package not in seen:
            seen.add(package)
            ahead += graph[package]
    return seen


def packages_in_cycles(product: list[Module]) -> list[str]:
    graph = package_imports(product)
    reach = {package: reachable(graph, package) for package in graph}
    found = []
    for package in sorted(package for package in graph if package in reach[package]):
        back = sorted(other for other in graph[package] if package in reach[other])
        found.append(f"{package} imports {', '.join(back)}, which import it again")
    return found


def gateway_imports_scheduler(product: list[Module]) -> list[str]:
    return [
        module.at(line)
        for module in product
        if module.package == "gateway"
        for line, name in list(module.imports())
        if name.split(".")[0] == "scheduler"
    ]


def class_names_twice(product: list[Module]) -> list[str]:
    places: dict[str, list[str]] = defaultdict(list)
    for module in product:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(module.at(node.lineno))
    return [f"{name}: {', '.join(where)}" for name, where in sorted(places.items()) if len(where) > 1]


def any_dicts(product: list[Module]) -> list[str]:
    return [
        module.at(number)
        for module in product
        for number, line in enumerate(module.text.splitlines(), 1)
        for _ in range(line.count("dict[str, Any]"))
    ]


def _names_engine(node: ast.AST) -> bool:
    return any(isinstance(part, ast.Constant) and part.value in ENGINE_NAMES for part in ast.walk(node))


def engine_name_comparisons(product: list[Module]) -> list[str]:
    return [
        module.at(node.lineno)
        for module in product
        if module.package != "services.engines"
        for node in ast.walk(module.tree)
        if (isinstance(node, ast.Compare) and any(map(_names_engine, [node.left, *node.comparators])))
        or (isinstance(node, ast.MatchValue) and _names_engine(node))
    ]


def static_figures() -> dict[str, list[str] | int]:
    """Figure -> what was found, or a number where there is nothing to list."""
    product = modules(PRODUCT)
    return {
        "packages_in_cycles": packages_in_cycles(product),
        "gateway_imports_scheduler": gateway_imports_scheduler(product),
        "class_names_twice": class_names_twice(product),
        "any_dicts": any_dicts(product),
        "engine_name_comparisons": engine_name_comparisons(product),
        "python_lines": sum(module.text.count("\n") for module in [*product, *modules(["benchmarks"])]),
    }


def count(figure: str, found: list[str] | int) -> int:
    if isinstance(found, int):
        return found
    return len({place.rpartition(":")[0] for place in found} if figure == "gateway_imports_scheduler" else found)


def show(found: Mapping[str, list[str] | int], only: str | None) -> None:
    for figure, places in found.items():
        if only in (None, figure):
            print(f"{figure}: {count(figure, places)}, wanted {'<= ' if WANTED[figure] else ''}{WANTED[figure]}")
            for place in places if isinstance(places, list) else []:
                print(f"    {place}")


def test_times(path: Path | None) -> dict[str, float | None]:
    """The seconds of the last measured runs: those of `path` win over those in house.json."""
    known: dict[str, float | None] = dict.fromkeys(TIMES)
    for source in (OUTPUT, path):
        if source is not None and source.exists():
            kept = json.loads(source.read_text())
            known.update({name: kept[name] for name in TIMES if kept.get(name) is not None})
    return known


def main() -> None:
    parser = argparse.ArgumentParser(description="How easily this code base can be read, in figures.")
    parser.add_argument("--quick", action="store_true", help="static figures only; writes no file")
    parser.add_argument("--only", choices=WANTED, help="print the findings of one figure")
    parser.add_argument("--times", type=Path, help="JSON file with test_fast_s and test_s")
    options = parser.parse_args()
    found = static_figures()
    if not options.quick:
        from benchmarks.trace import chat_path_files  # the quick part needs no host

        found["chat_path_files"] = chat_path_files()
    show(found, options.only)
    figures: dict[str, float | None] = {figure: count(figure, places) for figure, places in found.items()}
    if not options.quick:
        figures |= test_times(options.times)
        keep(OUTPUT, figures)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
