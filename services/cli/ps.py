"""`bunkhouse ps`: processes and models of a running host."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from rich.table import Table

from services.cli.errors import WRONG_INPUT, fail, out, reported_errors
from services.cli.running import DEFAULT_DATA_DIR
from services.contracts.decisions import Reservation
from services.contracts.devices import MpsState, Sharing, gpu_index
from services.contracts.engines import EngineFacts, EngineView
from services.host.child import ChildStatus
from services.host.state_file import read_state
from services.planner.words import size
from services.store.mps_states import read_mps_states
from services.store.runtime import Runtime, open_runtime
from services.store.scheduling import SchedulerStore


@dataclass(frozen=True, slots=True)
class ListedProcess:
    """One process of the host, with all that it started. `memory_bytes` is resident memory."""

    name: str
    pid: int | None
    state: str
    restarts: int
    memory_bytes: int | None
    for_s: float


@dataclass(frozen=True, slots=True)
class ListedModel:
    """One model. `running` chats are on the engine; `admitted` ones hold a reservation."""

    model: str
    engine: str
    state: str
    heard_s_ago: float
    kv_bits: int
    kv_budget_bytes: int
    kv_used_bytes: int
    kv_cached_bytes: int
    kv_reserved_bytes: int
    running: int
    admitted: int
    chats_max: int


@dataclass(frozen=True, slots=True)
class ListedDevice:
    """A GPU that models run on. `joined`: models whose engines its MPS daemon has among its clients."""

    device: str
    sharing: str
    why_not: str
    version: str
    joined: list[str]

    @property
    def words(self) -> str:
        """One line."""
        if self.sharing == Sharing.SPACE:
            return f"{self.device}: engines run side by side (MPS, driver {self.version or 'unknown'})"
        why = self.why_not or (f"only {', '.join(self.joined)} joined the MPS daemon" if self.joined else "")
        return f"{self.device}: engines take turns{f': {why}' if why else ''}"


def run(config_path: Path | None, as_json: bool) -> None:
    """Print what runs. Exit code 1 when Redis does not answer."""
    with reported_errors():
        if config_path is None:
            running = read_state(DEFAULT_DATA_DIR)
            if running is None:
                fail("no host runs here (no `bunkhouse up` on .bunkhouse); name its CONFIG", WRONG_INPUT)
            config_path = Path(running.config)
        _show(open_runtime(config_path), as_json)


def _show(runtime: Runtime, as_json: bool) -> None:
    now_s = time.time()
    running = read_state(runtime.config.data_dir)
    engines, held, mps = asyncio.run(_look(runtime))
    processes = [_process(child, now_s) for child in running.children] if running else []
    models = [_model(seen, held, now_s) for seen in sorted(engines, key=lambda seen: seen.facts.model)]
    gpus = _devices(engines, mps)
    if as_json:
        rows = {
            "processes": [asdict(row) for row in processes],
            "models": [asdict(row) for row in models],
            "devices": [asdict(row) for row in gpus],
        }
        out.print_json(data={"url": running.url if running else None, **rows})
        return
    if running:
        out.print(f"{running.url}, up for {_ago(now_s - running.started_s)}", highlight=False)
        out.print(_process_table(processes))
    out.print(_model_table(models))
    for each in gpus:
        out.print(each.words, highlight=False, markup=False)


async def _look(runtime: Runtime) -> tuple[list[EngineView], list[Reservation], dict[str, MpsState]]:
    async with runtime.connect() as connection:
        store = SchedulerStore(connection)
        return await store.engines(), await store.reservations(), await read_mps_states(connection)


def _devices(engines: list[EngineView], mps: Mapping[str, MpsState]) -> list[ListedDevice]:
    """GPUs alone: on a processor, programs share cores as they always do."""
    on: dict[str, list[EngineFacts]] = {}
    for seen in engines:
        if gpu_index(seen.facts.device) is not None:
            on.setdefault(seen.facts.device, []).append(seen.facts)
    found = []
    for device, facts in sorted(on.items()):
        joined = sorted(one.model for one in facts if one.sharing is Sharing.SPACE)
        sharing = Sharing.SPACE if len(joined) == len(facts) else Sharing.TURNS
        state = mps.get(device, MpsState())
        found.append(ListedDevice(device, sharing.value, state.why_not, state.version, joined))
    return found


def _process(child: ChildStatus, now_s: float) -> ListedProcess:
    memory = None
    if child.pid is not None:
        try:
            process = psutil.Process(child.pid)
            family = [process, *process.children(recursive=True)]
            memory = sum(each.memory_info().rss for each in family)
        except psutil.NoSuchProcess:
            pass
    for_s = round(now_s - child.since_s, 1)
    return ListedProcess(child.name, child.pid, child.state.value, child.restarts, memory, for_s)


def _model(seen: EngineView, held: list[Reservation], now_s: float) -> ListedModel:
    facts, report = seen.facts, seen.report
    mine = [each for each in held if each.model == facts.model]
    return ListedModel(
        model=facts.model,
        engine=facts.engine,
        state=report.state.value,
        heard_s_ago=round(now_s - report.at_s, 1),
        kv_bits=int(facts.kv_bits),
        kv_budget_bytes=facts.kv_budget_bytes,
        kv_used_bytes=report.kv_used_bytes,
        kv_cached_bytes=report.kv_cached_bytes,
        kv_reserved_bytes=sum(each.reserved_bytes for each in mine),
        running=report.running,
        admitted=len(mine),
        chats_max=facts.chats_max,
    )


def _process_table(rows: list[ListedProcess]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("process", "pid", "state", "for", "restarts", "memory"):
        table.add_column(name, justify="left" if name in ("process", "state") else "right")
    for each in rows:
        memory = size(each.memory_bytes) if each.memory_bytes is not None else "-"
        pid = str(each.pid or "-")
        table.add_row(each.name, pid, each.state, _ago(each.for_s), str(each.restarts), memory)
    return table


def _model_table(rows: list[ListedModel]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("model", "state", "reported", "KV bits", "chats", "KV used", "reserved", "budget"):
        table.add_column(name, justify="left" if name in ("model", "state") else "right")
    for each in rows:
        table.add_row(
            each.model,
            each.state,
            f"{_ago(each.heard_s_ago)} ago",
            str(each.kv_bits),
            f"{each.running}/{each.chats_max}",
            size(each.kv_used_bytes),
            size(each.kv_reserved_bytes),
            size(each.kv_budget_bytes),
        )
    return table


def _ago(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
