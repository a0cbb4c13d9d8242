"""What a running `bunkhouse up` writes beside its data, for `bunkhouse ps` and `chat`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import orjson
import psutil
from pydantic import TypeAdapter, ValidationError

from services.host.child import ChildStatus

STATE_FILE = "host.json"


@dataclass(frozen=True, slots=True)
class HostState:
    """One running host. `config` is its file's path; `started_s` is Unix time."""

    pid: int
    url: str
    config: str
    started_s: float
    children: tuple[ChildStatus, ...]


_ADAPTER = TypeAdapter(HostState)


def write_state(data_dir: Path, state: HostState) -> None:
    """Replace the file. Raises OSError."""
    path = data_dir / STATE_FILE
    fresh = path.with_suffix(".new")
    fresh.write_bytes(orjson.dumps(state))
    fresh.replace(path)


def read_state(data_dir: Path) -> HostState | None:
    """The host that runs on this folder; None where none does."""
    try:
        state = _ADAPTER.validate_json((data_dir / STATE_FILE).read_bytes())
    except (OSError, ValidationError):
        return None
    return state if psutil.pid_exists(state.pid) else None
