"""What each layer of a model keeps of a chat, from its config.json or its GGUF metadata.

A layer that neither names is taken for full attention, so that the memory is never planned too small.
Sources: the configuration classes of Transformers 5, llama.cpp's `load_arch_hparams` and SGLang 0.5.17's `mamba_utils`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

CONVOLUTION_BYTES = 2  # of one value, and
STATE_VALUE_BYTES = 4  # as SGLang keeps them by default
_LINEAR_PERIOD = 4  # of gated delta nets, each fourth layer is full attention


class LayerCache(StrEnum):
    """What one layer keeps."""

    FULL = "full"  # keys and values of every token
    WINDOW = "window"  # of the last tokens
    STATE = "state"  # a state of one size
    NOTHING = "nothing"  # feed-forward alone, or another layer's keys and values


@dataclass(frozen=True, slots=True)
class CacheSizes:
    """Over all layers. Values are keys and values a token."""

    kv_values_per_token: int
    window_values_per_token: int = 0
    window_tokens: int = 0
    state_bytes: int = 0
    heads_alike: bool = True  # the layers with keys and values have heads of one number and size

    @classmethod
    def of(
        cls, layers: Sequence[LayerCache], values: Callable[[int], int], window_tokens: int, state_bytes: int
    ) -> CacheSizes:
        """`values` gives one layer's keys and values a token; `state_bytes` is of one layer."""
        full = [values(place) for place, kind in enumerate(layers) if kind is LayerCache.FULL]
        window = [values(place) for place, kind in enumerate(layers) if kind is LayerCache.WINDOW]
        return cls(
            kv_values_per_token=sum(full),
            window_values_per_token=sum(window),
            window_tokens=window_tokens if window else 0,
            state_bytes=layers.count(LayerCache.STATE) * state_bytes,
            heads_alike=len({*full, *window}) <= 1,
        )


# --- config.json

_TYPES = {
    "full_attention": LayerCache.FULL,
    "attention": LayerCache.FULL,
    "sliding_attention": LayerCache.WINDOW,
    "chunked_attention": LayerCache.WINDOW,
    "linear_attention": LayerCache.STATE,
    "mamba": LayerCache.STATE,
    "mamba2": LayerCache.STATE,
    "mlp": LayerCache.NOTHING,
    "moe": LayerCache.NOTHING,
}
_LETTERS = {"*": LayerCache.FULL, "M": LayerCache.STATE, "-": LayerCache.NOTHING, "E": LayerCache.NOTHING}
# Every so many layers one keeps all tokens, where the configuration does not say it.
_WINDOW_PERIODS = {"gemma2": 2, "gemma3_text": 6, "gemma3": 6, "cohere2": 4, "gpt_oss": 2, "gemma4_text": 6}


def config_caches(model: Mapping[str, Any], layers: int) -> CacheSizes:
    """Of a model with `layers` layers, as its config.json (the text part) describes it."""
    kinds = _config_layers(model, layers)
    return CacheSizes.of(
        kinds, lambda place: _config_values(model, kinds[place]), _number(model, "sliding_window"), _state_bytes(model)
    )


def _config_layers(model: Mapping[str, Any], layers: int) -> list[LayerCache]:
    named = model.get("layer_types") or model.get("layers_block_type")
    letters = model.get("hybrid_override_pattern")
    interval = _number(model, "full_attention_interval") or _LINEAR_PERIOD
    period = _number(model, "sliding_window_pattern") or _WINDOW_PERIODS.get(str(model.get("model_type")), 0)
    if isinstance(named, list) and len(named) == layers:
        found = [_TYPES.get(str(kind), LayerCache.FULL) for kind in named]
    elif isinstance(letters, str) and len(letters) == layers:
        found = [_LETTERS.get(letter, LayerCache.FULL) for letter in letters]
    elif model.get("linear_num_value_heads"):
        found = _each(layers, interval, LayerCache.STATE)
    elif period and _number(model, "sliding_window"):
        found = _each(layers, period, LayerCache.WINDOW)
    else:
        found = [LayerCache.FULL] * layers
    if not _number(model, "sliding_window"):
        found = [LayerCache.FULL if kind is LayerCache.WINDOW else kind for kind in found]
    return _last_shared(found, _number(model, "num_kv_shared_layers"))


def _config_values(model: Mapping[str, Any], kind: LayerCache) -> int:
    """Keys and values of one token in one layer."""
    if rank := _number(model, "kv_lora_rank"):  # one compressed vector for all heads
        return rank + _number(model, "qk_rope_head_dim")
    heads = _number(model, "num_attention_heads") or 1
    kv_heads = _number(model, "num_key_value_heads") or heads
    key = _number(model, "head_dim") or _number(model, "hidden_size") // heads
    value = _number(model, "v_head_dim") or key
    if kind is LayerCache.FULL:
        if wide := _number(model, "global_head_dim"):
            key = value = wide
        if model.get("attention_k_eq_v"):
            kv_heads = _number(model, "num_global_key_value_heads") or kv_heads
    return kv_heads * (key + value)


def _state_bytes(model: Mapping[str, Any]) -> int:
    """One linear layer's state of one chat; 0 where there is none, or its kind is not known."""
    if heads := _number(model, "linear_num_value_heads"):
        key, value = _number(model, "linear_key_head_dim"), _number(model, "linear_value_head_dim")
        channels = 2 * _number(model, "linear_num_key_heads") * key + heads * value
        return _state(channels, _number(model, "linear_conv_kernel_dim"), heads * key * value)
    heads = _number(model, "mamba_n_heads") or _number(model, "mamba_num_heads")
    size = _number(model, "mamba_d_state") or _number(model, "ssm_state_size")
    if not heads or not size:
        return 0
    head = _number(model, "mamba_d_head") or _number(model, "mamba_head_dim")
    if not head:  # "auto"
        head = (_number(model, "mamba_expand") or 2) * _number(model, "hidden_size") // heads
    groups = _number(model, "mamba_n_groups") or _number(model, "n_groups") or 1
    kernel = _number(model, "mamba_d_conv") or _number(model, "conv_kernel")
    return _state(heads * head + 2 * groups * size, kernel, heads * head * size)


# --- GGUF

# llama.cpp's own periods, where a file names none (`load_arch_hparams` of each architecture).
_GGUF_WINDOW_PERIODS = {"gemma2": 2, "gemma3": 6, "gemma3n": 5, "cohere2": 4, "gpt-oss": 2, "exaone4": 4, "plamo3": 8}
_GGUF_LINEAR = ("qwen3next", "qwen35", "qwen35moe")


def gguf_caches(
    metadata: Mapping[str, Any], architecture: str, kv_heads: Sequence[int], key: int, value: int
) -> CacheSizes:
    """Of a model with `kv_heads` a layer (0: a layer without attention) and heads of `key` and `value` channels."""
    own = {name.removeprefix(f"{architecture}."): found for name, found in metadata.items()}
    window = _number(own, "attention.sliding_window")
    kinds = _gguf_layers(own, architecture, kv_heads, window)
    window_key = _number(own, "attention.key_length_swa") or key
    window_value = _number(own, "attention.value_length_swa") or value

    def values(place: int) -> int:
        width = window_key + window_value if kinds[place] is LayerCache.WINDOW else key + value
        return kv_heads[place] * width

    return CacheSizes.of(kinds, values, window, _gguf_state_bytes(own))


def _gguf_layers(own: Mapping[str, Any], architecture: str, kv_heads: Sequence[int], window: int) -> list[LayerCache]:
    layers = len(kv_heads)
    feed_forward = own.get("feed_forward_length")  # Nemotron's layers have one of attention, state and feed-forward
    alone = feed_forward if architecture.startswith("nemotron_h") and isinstance(feed_forward, list) else [0] * layers
    stateful = bool(own.get("ssm.state_size"))
    found = [
        LayerCache.FULL if heads else LayerCache.STATE if stateful and not width else LayerCache.NOTHING
        for heads, width in zip(kv_heads, alone, strict=True)
    ]
    pattern = own.get("attention.sliding_window_pattern")
    if architecture in _GGUF_LINEAR and all(kv_heads):
        found = _each(layers, _number(own, "full_attention_interval") or _LINEAR_PERIOD, LayerCache.STATE)
    elif window and isinstance(pattern, list) and len(pattern) == layers:
        found = [LayerCache.WINDOW if slides else LayerCache.FULL for slides in pattern]
    elif window and (
        period := _number(own, "attention.sliding_window_pattern") or _GGUF_WINDOW_PERIODS.get(architecture)
    ):
        found = _each(layers, period, LayerCache.WINDOW)
    return _last_shared(found, _number(own, "attention.shared_kv_layers"))


def _gguf_state_bytes(own: Mapping[str, Any]) -> int:
    """llama.cpp keeps states and convolutions in 32 bits."""
    inner, size = _number(own, "ssm.inner_size"), _number(own, "ssm.state_size")
    channels = inner + 2 * _number(own, "ssm.group_count") * size
    kernel = _number(own, "ssm.conv_kernel")
    return (max(0, kernel - 1) * channels + inner * size) * STATE_VALUE_BYTES


def _each(layers: int, period: int, others: LayerCache) -> list[LayerCache]:
    """Full attention in the last of each `period` layers, and the others between."""
    return [LayerCache.FULL if place % period == period - 1 else others for place in range(layers)]


def _last_shared(layers: Sequence[LayerCache], shared: int) -> list[LayerCache]:
    """The last `shared` layers use the keys and values of earlier ones."""
    own = len(layers) - shared
    return [*layers[:own], *[LayerCache.NOTHING] * (len(layers) - own)]


def _state(channels: int, kernel: int, values: int) -> int:
    return max(0, kernel - 1) * channels * CONVOLUTION_BYTES + values * STATE_VALUE_BYTES


def _number(model: Mapping[str, Any], key: str) -> int:
    value = model.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
