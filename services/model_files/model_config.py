"""A model's shape from its Hugging Face folder: config.json and the headers of its safetensors files."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from services.model_files.layer_caches import config_caches
from services.model_files.shape import Experts, ModelShape

INDEX = "model.safetensors.index.json"  # names the shard of each tensor
_NUMBERED = re.compile(r"(.+-)\d{5}-of-(\d{5})\.safetensors")
_JSON_BYTES_MAX = 64 << 20
_HALF_BYTES = 2


class ModelConfigError(ValueError):
    """A folder that is missing, or whose config.json does not describe a model. The message names the file."""


def read_model_config(folder: Path) -> ModelShape:
    """Raises ModelConfigError. Weights are counted in the files; a folder that lacks any gets an estimate."""
    if not folder.is_dir():
        raise ModelConfigError(f"{folder}: no such folder")
    file = folder / "config.json"
    config = _read_json(file)
    text = config.get("text_config")
    model = {**config, **text} if isinstance(text, dict) else {**config}
    try:
        blocks = model.get("layers_block_type")  # Nemotron's says its number of layers so
        layers = _count(model, "num_hidden_layers", len(blocks) if isinstance(blocks, list) and blocks else None)
        model["num_hidden_layers"] = layers
        heads = _count(model, "num_attention_heads")
        kv_heads = _count(model, "num_key_value_heads", heads)
        head_dim = _count(model, "head_dim", _count(model, "hidden_size") // heads)
        value_dim = _count(model, "v_head_dim", head_dim)
        caches = config_caches(model, layers)
        latent = bool(model.get("kv_lora_rank"))
        method = _quantization(config)
        return ModelShape(
            architecture=str(model.get("model_type", "unknown")),
            layers=layers,
            kv_values_per_token=caches.kv_values_per_token,
            context_tokens=_count(model, "max_position_embeddings"),
            weight_bytes=_weight_bytes(folder) or _estimate(model, _weight_bits(config)),
            vocabulary=_count(model, "vocab_size"),
            kv_heads=0 if latent else kv_heads,
            head_dim=head_dim if head_dim == value_dim and caches.heads_alike else 0,
            hidden=_count(model, "hidden_size", 0),
            intermediate=_count(model, "intermediate_size", 0),
            quantization=method,
            window_values_per_token=caches.window_values_per_token,
            window_tokens=caches.window_tokens,
            state_bytes=caches.state_bytes,
            latent=latent,
            experts=_experts(model, _weight_bits(config)),
        )
    except KeyError as error:
        raise ModelConfigError(f"{file}: {error.args[0]}") from None


def missing_shards(folder: Path) -> list[str]:
    """Names of safetensors files that the folder should have, by its index or, where that is not there either, by the
    numbers of the others. Raises ModelConfigError for an index that is corrupt.
    """
    there = {file.name for file in folder.glob("*.safetensors")}
    index = folder / INDEX
    if not index.exists():
        return sorted(_numbered(there) - there)
    places = _read_json(index).get("weight_map")
    if not isinstance(places, dict):
        raise ModelConfigError(f"{index}: weight_map must be an object (got {places!r:.40})")
    return sorted(set(map(str, places.values())) - there)


def _numbered(names: Iterable[str]) -> set[str]:
    """All of model-00001-of-00003.safetensors and its like, where one of them is among the names."""
    found = filter(None, map(_NUMBERED.fullmatch, names))
    return {f"{each[1]}{number:05}-of-{each[2]}.safetensors" for each in found for number in range(1, int(each[2]) + 1)}


def _weight_bytes(folder: Path) -> int:
    """Bytes of all tensors in the folder's safetensors files; 0 where there are none, or not all, as in the midst of a
    download.

    Raises ModelConfigError for a file that is cut short or no safetensors file.
    """
    if missing_shards(folder):
        return 0
    return sum(_tensor_bytes(file) for file in sorted(folder.glob("*.safetensors")))


def _tensor_bytes(file: Path) -> int:
    """https://huggingface.co/docs/safetensors: 8 bytes of header length, JSON, then the data."""
    size = file.stat().st_size
    with file.open("rb") as data:
        start = data.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length < min(size, _JSON_BYTES_MAX):
            raise ModelConfigError(f"{file}: not a safetensors file")
        try:
            header = json.loads(data.read(length))
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
            end = max(ends, default=0)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise ModelConfigError(f"{file}: the header is corrupt ({error})") from error
    if 8 + length + end > size:
        raise ModelConfigError(f"{file}: the file is cut short by {8 + length + end - size} bytes")
    return int(end)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > _JSON_BYTES_MAX:
            raise ModelConfigError(f"{file}: larger than {_JSON_BYTES_MAX} bytes")
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelConfigError(f"{file}: no such file") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelConfigError(f"{file}: cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ModelConfigError(f"{file}: not a JSON object")
    return value


def _count(model: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = model.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise KeyError(f"{key} must be a whole number above 0 (got {value!r})")
    return value


def _quantization(config: Mapping[str, Any]) -> str | None:
    found = config.get("quantization_config")
    return str(found.get("quant_method", "unknown")) if isinstance(found, dict) else None


def _weight_bits(config: Mapping[str, Any]) -> float:
    """Bits a weight, scales and zero points included; compressed-tensors keeps them one level down."""
    found = config.get("quantization_config")
    if not isinstance(found, dict):
        return 16
    groups = found.get("config_groups")
    if isinstance(groups, dict) and groups:
        first = next(iter(groups.values()))
        found = first.get("weights", {}) if isinstance(first, dict) else {}
    bits = found.get("bits", found.get("num_bits", 8 if found.get("quant_method") == "fp8" else 16))
    group = found.get("group_size", -1)
    scales = (16 + bits) / group if isinstance(group, int) and group > 0 else 0
    return float(bits + scales)


def _estimate(model: Mapping[str, Any], bits: float) -> int:
    """Weights of a decoder with gated feed-forward layers; embeddings stay at 16 bits."""
    hidden, heads = _count(model, "hidden_size"), _count(model, "num_attention_heads")
    head_dim = _count(model, "head_dim", hidden // heads)
    kv_heads = _count(model, "num_key_value_heads", heads)
    attention = hidden * head_dim * (2 * heads + 2 * kv_heads)
    experts = _experts(model, bits)
    dense = 0 if experts else 3 * hidden * _count(model, "intermediate_size", 4 * hidden)
    layers_bytes = int(_count(model, "num_hidden_layers") * (attention + dense) * bits / 8)
    embeddings = _count(model, "vocab_size") * hidden * (1 if model.get("tie_word_embeddings") else 2)
    return layers_bytes + (experts.bytes if experts else 0) + embeddings * _HALF_BYTES


def _experts(model: Mapping[str, Any], bits: float) -> Experts | None:
    """The routed experts, gated as all of these models' are; None for a dense model."""
    count = next((model[key] for key in ("num_local_experts", "num_experts", "n_routed_experts") if model.get(key)), 1)
    if count <= 1:
        return None
    width = _count(model, "moe_intermediate_size", _count(model, "intermediate_size", 4 * _count(model, "hidden_size")))
    matrices = 2 if model.get("mlp_hidden_act") == "relu2" else 3  # Nemotron's have no gate
    expert = matrices * _count(model, "hidden_size") * width
    used = _count(model, "num_experts_per_tok", _count(model, "top_k_experts", 1))
    return Experts(count, min(used, count), int(_sparse_layers(model) * expert * count * bits / 8))


def _sparse_layers(model: Mapping[str, Any]) -> int:
    """Layers that have experts."""
    layers = _count(model, "num_hidden_layers")
    letters, blocks = model.get("hybrid_override_pattern"), model.get("layers_block_type")
    if isinstance(letters, str):
        return letters.count("E") or layers
    if isinstance(blocks, list):
        return blocks.count("moe") or layers
    dense = model.get("first_k_dense_replace")
    return max(1, layers - dense) if isinstance(dense, int) else layers
