"""From a model's configuration to its engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from services.config.schema import ConfigError, ModelConfig
from services.contracts.chats import KvBits
from services.contracts.engine_kinds import LLAMACPP, SGLANG
from services.engines.base import Engine
from services.engines.llamacpp import LlamaCppEngine, LlamaCppOptions
from services.engines.sglang import SglangEngine
from services.engines.sglang_flags import NO_FOUR_BITS
from services.engines.sglang_server import SglangOptions


def engine_log(model: str, data_dir: Path) -> Path:
    """The log file of a model's engine."""
    return data_dir / "logs" / f"engine-{model}.log"


def build_engine(model: str, settings: ModelConfig, weights: Path, data_dir: Path) -> Engine:
    """The engine of one model, not started. Raises ConfigError for what that engine cannot do."""
    return _ADAPTERS[settings.engine](model, settings, weights, engine_log(model, data_dir))


def _sglang(model: str, settings: ModelConfig, weights: Path, log_path: Path) -> SglangEngine:
    if settings.kv_bits == 4:
        raise ConfigError(f"models.{model}: {NO_FOUR_BITS}")
    options = SglangOptions(
        weights=weights,
        log_path=log_path,
        kv_bits=KvBits.EIGHT if settings.kv_bits == "mixed" else KvBits(settings.kv_bits),
        context_tokens=settings.context_tokens,
        chats_max=settings.chats_max,
        device=settings.device,
        kv_tokens=settings.kv_tokens,
        quantization=settings.quantization,
        adapters=dict(settings.adapters),
        # KV planes refuse SGLang's memory saver: such an engine rests by ending.
        can_sleep=settings.idle_after_s is not None and settings.kv_bits != "mixed",
        kvplanes=settings.kv_bits == "mixed",
        flags=settings.flags,
    )
    if settings.python is not None:
        options = replace(options, python=settings.python)
    return SglangEngine(model, options)


def _llamacpp(model: str, settings: ModelConfig, weights: Path, log_path: Path) -> LlamaCppEngine:
    if settings.kv_bits == "mixed":
        raise ConfigError(f"models.{model}: llama.cpp has one KV precision an engine; set kv_bits to 4, 8 or 16")
    cells = settings.context_tokens * settings.chats_max
    if settings.kv_tokens is not None and settings.kv_tokens != cells:
        raise ConfigError(
            f"models.{model}: llama.cpp gives every chat its own {settings.context_tokens} tokens, {cells} in all "
            f"for {settings.chats_max} chats; leave kv_tokens out, or change context_tokens or chats_max"
        )
    for name, given in {"quantization": settings.quantization, "adapters": settings.adapters}.items():
        if given:
            raise ConfigError(f"models.{model}: {name} works with SGLang only; the llama.cpp engine has no such option")
    if settings.flags:
        raise ConfigError(f"models.{model}: the llama.cpp engine takes no flags")
    return LlamaCppEngine(
        model,
        LlamaCppOptions(
            weights=weights,
            log_path=log_path,
            kv_bits=KvBits(settings.kv_bits),
            context_tokens=settings.context_tokens,
            chats_max=settings.chats_max,
            threads=settings.threads,
        ),
    )


_ADAPTERS: Mapping[str, Callable[[str, ModelConfig, Path, Path], Engine]] = {
    LLAMACPP.name: _llamacpp,
    SGLANG.name: _sglang,
}
