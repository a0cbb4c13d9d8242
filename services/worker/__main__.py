"""`python -m services.worker CONFIG MODEL`: serve one model until SIGTERM."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from functools import partial
from pathlib import Path

import structlog
import uvloop

from services.config.host_secrets import SecretsError
from services.config.schema import Config, ConfigError, ModelConfig
from services.contracts.chats import KvBits
from services.contracts.devices import gpu_index
from services.devices.bandwidth import PROBE_S_MAX, measure
from services.devices.card import device_of
from services.devices.machine import machine
from services.devices.memory_speed import measure_memory
from services.devices.mps import MpsControl, pipe_folder
from services.engines.base import Engine
from services.engines.factory import build_engine, engine_log
from services.model_files.weights import WeightsError, resolve
from services.planner.plan import settled
from services.process import garbage
from services.process.children import raise_open_files_limit
from services.process.log_files import rotated_logs
from services.process.logs import setup
from services.store.bandwidth import ensure_measured
from services.store.commands import Commands
from services.store.connection import Connection, QueueUnavailable
from services.store.runtime import PATIENCE_S, Runtime, open_runtime
from services.store.work import WorkConsumer
from services.tokenizer.chat_template import TemplateRejected
from services.tokenizer.tokenizer import Tokenizer, TokenizerError, load_tokenizer
from services.worker.command_runner import CommandDependencies, bits_to_start
from services.worker.engine_supervisor import EngineGone
from services.worker.gpu_sharing import GpuSharing
from services.worker.worker import Worker, probe_prompt

ENGINE_ERROR_CODE = 3

log = structlog.get_logger()


async def serve(runtime: Runtime, model: str) -> None:
    """Run the worker. Raises EngineGone, QueueUnavailable, WeightsError."""
    settings = settled(runtime.config, model)
    weights = resolve(settings.weights)
    tokenizer = load_tokenizer(weights, settings.chat_template)
    try_prompts(runtime.config, model, tokenizer)

    def build(bits: KvBits | None) -> Engine:
        changed = settings if bits is None else settings.model_copy(update={"kv_bits": int(bits)})
        return build_engine(model, changed, weights, runtime.config.data_dir)

    async with runtime.connect(PATIENCE_S) as connection:
        await measure_device(connection, runtime.config, settings)
        commands = Commands(connection)
        configured = settings.kv_bits
        verified = bits_to_start(await commands.desired(model), configured)
        worker = Worker(
            model,
            build(None if configured == "mixed" else verified),
            tokenizer,
            WorkConsumer(connection, model, consumer=f"{model}@0"),
            reply_keep_s=runtime.config.gateway.reply_keep_s,
            drain_s=runtime.config.gateway.drain_s,
            clock=time.time,
            dependencies=CommandDependencies(
                commands,
                probe_prompt(tokenizer),
                configured=configured,
                build=build,
                idle_after_s=settings.idle_after_s,
            ),
            gpu_sharing=GpuSharing(MpsControl(pipe_folder())) if gpu_index(device_of(settings)) is not None else None,
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, worker.stop)
        garbage.freeze_heap()
        log_path = engine_log(model, runtime.config.data_dir)
        async with rotated_logs(log_path.parent, log_path.name):
            await worker.run()


async def measure_device(connection: Connection, config: Config, model: ModelConfig) -> None:
    """See that the bandwidth of the model's device is known. Raises QueueUnavailable."""
    if config.memory.bandwidth_bytes_per_s is not None:
        return
    index = gpu_index(device := device_of(model))
    if index is None:
        await ensure_measured(connection, device, partial(asyncio.to_thread, measure_memory), PROBE_S_MAX, machine())
    else:
        await ensure_measured(connection, device, partial(measure, index, model.python), PROBE_S_MAX)


def try_prompts(config: Config, model: str, tokenizer: Tokenizer) -> None:
    """Render a first prompt of each of the model's bots. Raises ConfigError that names the bot."""
    if not tokenizer.template_source:
        raise ConfigError(f"models.{model}: the model brings no chat template; name a file with chat_template")
    bots = {
        f"tenants.{tenant}.bots.{name}": bot
        for tenant, settings in config.tenants.items()
        for name, bot in settings.bots.items()
        if bot.model == model
    }
    for where, bot in bots.items():
        system = [{"role": "system", "content": bot.system}] if bot.system else []
        try:
            tokenizer.render([*system, {"role": "user", "content": "Hello"}])
        except TemplateRejected as error:
            raise ConfigError(f"{where}: {model}'s chat template refuses this bot's prompt: {error}") from error


def main() -> int:
    """Exit status 1 when the worker should be tried again, 2 when the configuration is wrong, 3 when the engine did not
    come up in all of the worker's own tries; the last line of the log is the cause then."""
    config_path, model = Path(sys.argv[1]), sys.argv[2]
    setup(f"worker:{model}")
    raise_open_files_limit()
    try:
        runtime = open_runtime(config_path)
        if model not in runtime.config.models:
            raise ConfigError(f"{config_path}: there is no model {model!r}")
        uvloop.run(serve(runtime, model))
    except (ConfigError, SecretsError, WeightsError, TokenizerError) as error:
        log.error("worker.cannot_start", model=model, why=str(error))
        return 2
    except (EngineGone, QueueUnavailable) as error:
        log.error("worker.ended", model=model, why=str(error))
        if isinstance(error, EngineGone) and error.never_up:
            print(error.cause, file=sys.stderr, flush=True)  # noqa: T201  (read by services.host.child)
            return ENGINE_ERROR_CODE
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
