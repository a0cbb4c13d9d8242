"""Brings one SGLang server up: what must be true before, the process, and the facts it gives afterwards."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil
import structlog

from services.contracts.chats import KvBits
from services.contracts.devices import CPU, gpu
from services.contracts.engine_kinds import SGLANG
from services.contracts.engines import EngineFacts
from services.devices.telemetry import GpuSource, process_tree_bytes
from services.engines.base import EngineStartError, EngineUnavailable, Progress
from services.engines.http import EngineHttp, HttpStatusError
from services.engines.kvplanes_site import plugin_environment
from services.engines.server import ServerProcess
from services.engines.sglang_flags import VERSION, SglangPlan, kv_dtype_for
from services.engines.sglang_memory import memory_shortfall, overhead_bytes
from services.kvplanes import layout
from services.kvplanes.config import KVPlanesConfig
from services.kvplanes.control import ControlClient
from services.model_files.model_config import ModelConfigError, read_model_config
from services.model_files.shape import ModelShape
from services.process.children import interpreter_environment, stop
from services.process.ports import free_port

_WORDS = {
    "launch_server": "loading SGLang",
    "Load weight begin": "loading weights",
    "KV Cache is allocated": "allocating the KV cache",
    "CUDA graph begin": "capturing graphs",
    "Application startup complete": "warming up",
}
_VERSION_S = 30.0
_INFO_S = 10.0
_READY_POLL_S = 0.25
_PORT_TAKEN = "address already in use"
_GIB = 1 << 30

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class SglangOptions:
    """How one model is served. `context_tokens` is of one chat, prompt and answer; the rest as in SglangPlan."""

    weights: Path
    log_path: Path
    kv_bits: KvBits = KvBits.EIGHT  # with KV planes: of requests that do not say
    context_tokens: int = 4096
    chats_max: int = 8
    port: int = 0  # 0: any free one
    python: Path = field(default_factory=lambda: Path(sys.executable))
    device: Literal["cuda", "cpu"] = "cuda"
    gpu: int = 0
    kv_tokens: int | None = None
    memory_fraction: float | None = None
    quantization: str | None = None
    adapters: dict[str, str] = field(default_factory=dict)
    attention_backend: str | None = None
    can_sleep: bool = False
    kvplanes: bool = False
    flags: tuple[str, ...] = ()
    start_s_max: float = 900.0
    first_token_s_max: float = 300.0
    token_s_max: float = 60.0
    stop_grace_s: float = 10.0


class SglangServer:
    """The process and its address. Raises EngineStartError and KvBitsUnsupported."""

    def __init__(self, model: str, options: SglangOptions) -> None:
        self.name, self.model, self.options = f"SGLang ({model})", model, options
        self._process = ServerProcess(self.name, options.log_path, _WORDS, options.stop_grace_s)
        self._gpu = GpuSource(options.gpu) if options.device == "cuda" else None
        self._folder: Path | None = None  # config file and control socket; for this user only
        self.http: EngineHttp | None = None
        self.control: ControlClient | None = None

    @property
    def running(self) -> bool:
        return self._process.running

    @property
    def can_sleep(self) -> bool:
        return self.options.can_sleep and self.options.device == "cuda"

    def check_bits(self, bits: KvBits) -> tuple[str, str]:
        """SGLang's format for these bits and why. Raises KvBitsUnsupported."""
        reading = self._gpu.read() if self._gpu is not None else None
        capability = reading.capability if reading is not None else None
        return kv_dtype_for(bits, self.options.device, capability, self.options.kvplanes)

    async def start(self, bits: KvBits, progress: Progress) -> EngineFacts:
        """Bring it up at `bits`. The message of an error says what is missing and ends with the last log lines."""
        await self.stop()
        options = self.options
        kv_dtype, why = self.check_bits(bits)
        log.info("engine.kv_format", model=self.model, kv_bits=int(bits), format=kv_dtype, why=why)
        model = self._shape()
        per_token = self._bytes_per_token(model)
        await self._check_version()
        self._check_room(model, per_token, bits)
        port = self._free_port()
        plan = SglangPlan(
            weights=options.weights,
            port=port,
            kv_dtype=kv_dtype,
            context_tokens=options.context_tokens,
            chats_max=options.chats_max,
            kv_tokens=options.kv_tokens,
            memory_fraction=options.memory_fraction,
            device=options.device,
            quantization=options.quantization,
            adapters=options.adapters,
            attention_backend=options.attention_backend,
            can_sleep=self.can_sleep,
            kvplanes=options.kvplanes,
            has_states=model.state_bytes > 0,
            flags=options.flags,
        )
        progress("starting SGLang")
        key = secrets.token_hex()
        self._folder = Path(tempfile.mkdtemp(prefix="bunkhouse-sglang-"))
        config_file = self._folder / "options.yaml"
        config_file.write_text(f"api-key: '{key}'\n")
        http = EngineHttp("127.0.0.1", port, key, keep=True)
        environment = self._environment(plan, bits)
        argv = plan.argv(options.python, config_file)

        async def ready(lines: list[str]) -> bool | None:
            if any(_PORT_TAKEN in line for line in lines):  # SGLang's other threads live on for ever
                raise self._process.failure(f"port {port} was taken by another process meanwhile")
            await asyncio.sleep(_READY_POLL_S)
            try:
                await http.get("/health", 1.0)
            except (EngineUnavailable, HttpStatusError):
                return None
            return True

        base = interpreter_environment(options.python)
        await self._process.start(argv, environment, ready, progress, options.start_s_max, base=base)
        self.http = http
        return await self._facts(http, model, bits, per_token)

    async def stop(self) -> None:
        """End the process group and remove its files. Safe to call twice."""
        if self.http is not None:
            self.http.close()
        self.http = self.control = None
        await self._process.stop()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _shape(self) -> ModelShape:
        try:
            return read_model_config(self.options.weights)
        except ModelConfigError as error:
            raise EngineStartError(f"{self.name}: {error}") from error

    def _bytes_per_token(self, model: ModelShape) -> dict[int, int]:
        """KV bytes of a token at each precision that this server can be started with."""
        if not self.options.kvplanes:
            return {
                bits: model.kv_bytes_per_token(width, SGLANG.window_part) for bits, width in SGLANG.value_bytes.items()
            }
        try:
            planes = layout.PlaneShape(model.layers, model.kv_heads, model.head_dim)
        except ValueError as error:
            raise EngineStartError(f"{self.name}: {error}") from error
        return {4: planes.slot_bytes, 8: 2 * planes.slot_bytes}

    async def _check_version(self) -> None:
        """Asks the engine's own interpreter, without importing SGLang there."""
        python = self.options.python
        code = "from importlib.metadata import version; print(version('sglang'))"
        advice = f"install it with: {python} -m pip install sglang=={VERSION}"
        try:
            asked = await asyncio.create_subprocess_exec(
                str(python),
                "-c",
                code,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
                env=interpreter_environment(python),
            )
        except OSError as error:
            raise EngineStartError(f"{self.name}: cannot run {python}: {error.strerror}") from error
        try:
            async with asyncio.timeout(_VERSION_S):
                output, _ = await asked.communicate()
        except TimeoutError:
            raise EngineStartError(f"{self.name}: {python} did not answer in {_VERSION_S:g} s") from None
        finally:
            if asked.returncode is None:
                await stop(asked, 0.0)
        found = output.decode().strip()
        if asked.returncode != 0:
            raise EngineStartError(f"{self.name}: {python} has no SGLang; {advice}")
        if found != VERSION:
            raise EngineStartError(
                f"{self.name}: {python} has SGLang {found}; this host works with {VERSION} only; {advice}"
            )

    def _check_room(self, model: ModelShape, per_token: dict[int, int], bits: KvBits) -> None:
        """Raises EngineStartError where the pool, or one chat where SGLang chooses the pool, does not fit."""
        if self._gpu is None:
            return
        reading = self._gpu.read()
        if reading is None:
            raise EngineStartError(
                f"{self.name}: no GPU was found ({self._gpu.why}). Set device: cpu for a small model, "
                "or engine: llamacpp"
            )
        tokens, size = self.options.kv_tokens, per_token[int(bits)]
        if tokens is None:
            tokens = self.options.context_tokens
        elif self.options.kvplanes:
            size = min(per_token.values())  # the pool is of slots, and a token at 8 bits takes two of them
        states = SGLANG.states_a_chat * self.options.chats_max * model.state_bytes
        missing = memory_shortfall(model, reading, tokens, size, states_bytes=states)
        if missing is not None:
            raise EngineStartError(f"{self.name}: {missing}")

    def _free_port(self) -> int:
        try:
            return free_port("127.0.0.1", self.options.port)
        except OSError as error:
            raise EngineStartError(
                f"{self.name}: port {self.options.port} of 127.0.0.1 cannot be used: {error.strerror}"
            ) from error

    def _environment(self, plan: SglangPlan, bits: KvBits) -> dict[str, str]:
        base = interpreter_environment(self.options.python)
        environment = plan.environment(base)
        if self.options.device == "cuda" and self.options.gpu:
            environment["CUDA_VISIBLE_DEVICES"] = str(self.options.gpu)
        if self.options.kvplanes and self._folder is not None:
            control = str(self._folder / "planes.sock")
            config = KVPlanesConfig(bits=int(bits), control=control)
            environment = plugin_environment(config, self._folder / "site", {**base, **environment})
            self.control = ControlClient(control)
        return environment

    async def _facts(self, http: EngineHttp, model: ModelShape, bits: KvBits, per_token: dict[int, int]) -> EngineFacts:
        try:
            info = await http.get_json("/server_info", _INFO_S)
            pool_tokens = int(info["max_total_num_tokens"])
            weight_bytes = self._weight_bytes(model, info)
        except (HttpStatusError, EngineUnavailable, KeyError, TypeError, ValueError, IndexError) as error:
            await self.stop()
            raise self._process.failure(f"gave no facts in /server_info ({error})") from error
        held = per_token if self.options.kvplanes else {int(bits): per_token[int(bits)]}
        budget = pool_tokens * min(held.values())
        return EngineFacts(
            model=self.model,
            engine=SGLANG.name,
            weight_bytes=weight_bytes,
            overhead_bytes=self._overhead_bytes(model, weight_bytes + budget),
            kv_budget_bytes=budget,
            kv_bytes_per_token=held,
            context_tokens=min(self.options.context_tokens, pool_tokens),
            chats_max=self.options.chats_max,
            kv_bits=bits,
            live_kv_bits=self.options.kvplanes,
            device=gpu(self.options.gpu) if self.options.device == "cuda" else CPU,
            routed_bytes=min(weight_bytes, model.experts.bytes) if model.experts else 0,
            routed_part=model.experts.part if model.experts else 1.0,
            layers=model.layers,
        )

    def _overhead_bytes(self, model: ModelShape, known_bytes: int) -> int:
        held = self.memory_bytes()
        return max(0, held - known_bytes) if self.options.device == "cpu" else overhead_bytes(model, held, known_bytes)

    def _weight_bytes(self, model: ModelShape, info: dict[str, Any]) -> int:
        """As in the files, unless they are quantized as they are loaded.

        SGLang's own figure is the free memory that went meanwhile: what its neighbours took counts, too.
        """
        if self.options.device == "cpu" or not self.options.quantization:
            return model.weight_bytes
        return min(model.weight_bytes, int(float(info["internal_states"][0]["memory_usage"]["weight"]) * _GIB))

    def memory_bytes(self) -> int:
        """Memory that the server's processes hold: the GPU's (0 where NVML does not say), or the machine's."""
        root = self._process.pid
        if root is None:
            return 0
        reading = self._gpu.read() if self._gpu is not None else None
        if reading is not None:
            return process_tree_bytes(reading, root) or 0
        tree = [psutil.Process(root), *psutil.Process(root).children(recursive=True)]
        return sum(process.memory_info().rss for process in tree)
