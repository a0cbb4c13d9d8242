"""The figures of the house find what they name."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import house


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str] | int]:
    """Of a small tree with one fault of each kind."""
    files = {
        "gateway/a.py": "from typing import Any\nimport scheduler.b\nclass Twin: ...\nx: dict[str, Any] = {}\n",
        "scheduler/b.py": "class Twin: ...\n",
        "services/store/c.py": "def late() -> None:\n    from services.host.d import run\n",
        "services/host/d.py": "import services.store.c\ndef run(kind: str) -> bool:\n    return kind in ('sglang',)\n",
        "services/engines/e.py": "def ours(kind: str) -> bool:\n    return kind == 'sglang'\n",
        "benchmarks/f.py": "\n\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(house, "ROOT", tmp_path)
    return house.static_figures()


def test_each_fault_is_found_with_its_place(found: dict[str, list[str] | int]) -> None:
    assert found["gateway_imports_scheduler"] == ["gateway/a.py:2"]
    assert found["class_names_twice"] == ["Twin: gateway/a.py:3, scheduler/b.py:1"]
    assert found["any_dicts"] == ["gateway/a.py:4"]
    assert found["engine_name_comparisons"] == ["services/host/d.py:3"]
    assert found["python_lines"] == 14
    cycles = found["packages_in_cycles"]
    assert isinstance(cycles, list)
    assert [line.split(" imports ")[0] for line in cycles] == ["services.host", "services.store"]


def test_what_is_counted_stays_where_it_must_be_none() -> None:
    found = house.static_figures()
    assert found["packages_in_cycles"] == []
    assert found["gateway_imports_scheduler"] == []
    assert found["class_names_twice"] == []
