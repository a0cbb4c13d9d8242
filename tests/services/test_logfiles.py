"""Logs of children stay short while they write."""

from __future__ import annotations

from pathlib import Path

from services.supervisor.logfiles import shorten


def test_a_log_that_is_open_for_appending_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "gateway.log"
    with path.open("ab", buffering=0) as child:
        child.write(b"x" * 100)
        assert not shorten(path, 100)
        child.write(b"y")
        assert shorten(path, 100)
        child.write(b"after\n")
    assert path.read_bytes() == b"after\n"
    assert (tmp_path / "gateway.log.1").stat().st_size == 101
