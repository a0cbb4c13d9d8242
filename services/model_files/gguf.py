"""Reads the header of a GGUF file: metadata and the sizes of its tensors. No weights are loaded.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little endian.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from services.model_files.layer_caches import gguf_caches
from services.model_files.shape import Experts, ModelShape

_MAGIC = b"GGUF"
_EXPERTS = "_exps."  # in the names of routed experts' tensors
_SHARD = re.compile(r"(.+-)(\d{5})-of-(\d{5})\.gguf")
_DIMENSIONS_MAX = 8
_ITEMS_MAX = 50_000_000  # an array or a table longer than this is a corrupt count
_ALIGNMENT_DEFAULT = 32

# value type -> struct format; 8 is a string, 9 an array
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9

# ggml_type -> (name, values in a block, bytes of a block); ggml/src/ggml-common.h
_TENSOR_TYPES = {
    0: ("f32", 1, 4),
    1: ("f16", 1, 2),
    2: ("q4_0", 32, 18),
    3: ("q4_1", 32, 20),
    6: ("q5_0", 32, 22),
    7: ("q5_1", 32, 24),
    8: ("q8_0", 32, 34),
    9: ("q8_1", 32, 36),
    10: ("q2_k", 256, 84),
    11: ("q3_k", 256, 110),
    12: ("q4_k", 256, 144),
    13: ("q5_k", 256, 176),
    14: ("q6_k", 256, 210),
    15: ("q8_k", 256, 292),
    16: ("iq2_xxs", 256, 66),
    17: ("iq2_xs", 256, 74),
    18: ("iq3_xxs", 256, 98),
    19: ("iq1_s", 256, 50),
    20: ("iq4_nl", 32, 18),
    21: ("iq3_s", 256, 110),
    22: ("iq2_s", 256, 82),
    23: ("iq4_xs", 256, 136),
    24: ("i8", 1, 1),
    25: ("i16", 1, 2),
    26: ("i32", 1, 4),
    27: ("i64", 1, 8),
    28: ("f64", 1, 8),
    29: ("iq1_m", 256, 56),
    30: ("bf16", 1, 2),
    34: ("tq1_0", 256, 54),
    35: ("tq2_0", 256, 66),
    39: ("mxfp4", 32, 17),
}


class GgufError(ValueError):
    """Not a GGUF file, or a broken one. The message names the file and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Gguf:
    """A header. `metadata` has arrays only when they were asked for; `tensors` maps name to ggml type."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, str]
    weight_bytes: int
    expert_bytes: int = 0  # of `weight_bytes`: routed experts' tensors

    def number(self, key: str) -> int | None:
        """An integer under the architecture's prefix, such as `block_count`. None where it is not given."""
        value = self.metadata.get(f"{self.metadata.get('general.architecture')}.{key}")
        return value if isinstance(value, int) else None

    def shape(self) -> ModelShape:
        """Raises GgufError for a file that does not describe a transformer with a KV cache."""
        architecture = self.metadata.get("general.architecture")
        if not isinstance(architecture, str):
            raise GgufError(f"{self.path}: no general.architecture")
        layers = self._need("block_count")
        heads = self.metadata.get(f"{architecture}.attention.head_count")
        heads = max(heads) if isinstance(heads, list) else heads
        kv_heads = self.metadata.get(f"{architecture}.attention.head_count_kv", heads)
        per_layer = kv_heads if isinstance(kv_heads, list) else [kv_heads] * layers
        if not heads or not all(isinstance(n, int) for n in per_layer):
            raise GgufError(f"{self.path}: no attention.head_count; {architecture} has no KV cache we can size")
        key = self.number("attention.key_length") or self._need("embedding_length") // heads
        value = self.number("attention.value_length") or self._need("embedding_length") // heads
        caches = gguf_caches(self.metadata, architecture, [n or 0 for n in per_layer], key, value)
        types = [kind for kind in self.tensors.values() if kind not in {"f32", "f16", "bf16"}]
        return ModelShape(
            architecture=architecture,
            layers=layers,
            kv_values_per_token=caches.kv_values_per_token,
            context_tokens=self._need("context_length"),
            weight_bytes=self.weight_bytes,
            vocabulary=self.number("vocab_size") or 0,
            kv_heads=int(per_layer[0] or 0) if len(set(per_layer)) == 1 else 0,
            head_dim=key if key == value else 0,
            quantization=max(set(types), key=types.count) if types else None,
            window_values_per_token=caches.window_values_per_token,
            window_tokens=caches.window_tokens,
            state_bytes=caches.state_bytes,
            experts=self._experts(),
        )

    def _experts(self) -> Experts | None:
        count, used = self.number("expert_count"), self.number("expert_used_count")
        return Experts(count, min(used, count), self.expert_bytes) if count and used and self.expert_bytes else None

    def _need(self, key: str) -> int:
        value = self.number(key)
        if not value:
            raise GgufError(f"{self.path}: no {self.metadata.get('general.architecture')}.{key}")
        return value


def shards(path: Path) -> list[Path]:
    """All files of a model: NAME-00001-of-00003.gguf and its like, else the file itself."""
    name = _SHARD.fullmatch(path.name)
    if name is None:
        return [path]
    return [path.with_name(f"{name[1]}{number:05}-of-{name[3]}.gguf") for number in range(1, int(name[3]) + 1)]


def read_gguf(path: Path, arrays_max: int = 4096) -> Gguf:
    """Read a header; arrays longer than `arrays_max` (vocabularies) are skipped and missing in `metadata`.

    `path` is the first file of a model that has several; tensors and bytes are those of all. Raises GgufError for a
    file that is missing, no GGUF, truncated or of an unknown version.
    """
    first, *others = shards(path)
    if path != first:
        raise GgufError(f"{path}: this is not the model's first file; name {first.name}")
    model = _read_file(first, arrays_max)
    for other in others:
        part = _read_file(other, 0)
        model = replace(
            model,
            tensors={**model.tensors, **part.tensors},
            weight_bytes=model.weight_bytes + part.weight_bytes,
            expert_bytes=model.expert_bytes + part.expert_bytes,
        )
    return model


def _read_file(path: Path, arrays_max: int) -> Gguf:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(path, data, arrays_max).read()
    except (OSError, ValueError) as error:
        if isinstance(error, GgufError):
            raise
        raise GgufError(f"{path}: {'empty file' if isinstance(error, ValueError) else error.strerror}") from error
    except (struct.error, UnicodeDecodeError, IndexError) as error:
        raise GgufError(f"{path}: the header is cut short or corrupt ({error})") from error


class _Reader:
    def __init__(self, path: Path, data: mmap.mmap, arrays_max: int) -> None:
        self.path, self.data, self.arrays_max = path, data, arrays_max
        self.at = 0

    def read(self) -> Gguf:
        if self.data[:4] != _MAGIC:
            raise GgufError(f"{self.path}: not a GGUF file (it starts with {self.data[:4]!r})")
        self.at = 4
        version, tensor_count, pair_count = self._scalar("I"), self._scalar("Q"), self._scalar("Q")
        if version not in {2, 3}:
            raise GgufError(f"{self.path}: GGUF version {version}; 2 and 3 are supported")
        if max(tensor_count, pair_count) > _ITEMS_MAX:
            raise GgufError(f"{self.path}: the header is corrupt: {tensor_count} tensors, {pair_count} keys")
        metadata: dict[str, Any] = {}
        for _ in range(pair_count):
            key = self._string()
            value = self._value(self._scalar("I"))
            if value is not None:
                metadata[key] = value
        tensors, end, expert_bytes = self._tensors(tensor_count)
        alignment = metadata.get("general.alignment", _ALIGNMENT_DEFAULT)
        start = -(-self.at // alignment) * alignment
        if start + end > len(self.data):
            missing = start + end - len(self.data)
            raise GgufError(f"{self.path}: the file is cut short by {missing} bytes")
        return Gguf(self.path, metadata, tensors, len(self.data) - start, expert_bytes)

    def _tensors(self, count: int) -> tuple[dict[str, str], int, int]:
        """Types by name, where the last tensor's data ends, from the start of the data, and bytes of routed experts."""
        types: dict[str, str] = {}
        end = expert_bytes = 0
        for _ in range(count):
            name, dimensions = self._string(), self._scalar("I")
            if dimensions > _DIMENSIONS_MAX:
                raise GgufError(f"{self.path}: the header is corrupt: {name} has {dimensions} dimensions")
            values = prod(self._scalar("Q") for _ in range(dimensions))
            number, offset = self._scalar("I"), self._scalar("Q")
            kind, block, size = _TENSOR_TYPES.get(number, (f"type {number}", 1, 0))
            types[name] = kind
            tensor_bytes = values // block * size
            end = max(end, offset + tensor_bytes)
            expert_bytes += tensor_bytes if _EXPERTS in name else 0
        return types, end, expert_bytes

    def _scalar(self, form: str) -> Any:
        (value,) = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return value

    def _string(self) -> str:
        length = self._scalar("Q")
        start, self.at = self.at, self.at + length
        if self.at > len(self.data):
            raise GgufError(f"{self.path}: the header is cut short or corrupt (a string of {length} bytes)")
        return self.data[start : self.at].decode()

    def _value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self._scalar(_SCALARS[kind])
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            return self._array()
        raise GgufError(f"{self.path}: the header is corrupt: value type {kind}")

    def _array(self) -> list[Any] | None:
        kind, count = self._scalar("I"), self._scalar("Q")
        if count > _ITEMS_MAX:
            raise GgufError(f"{self.path}: the header is corrupt: an array of {count}")
        wanted = count <= self.arrays_max
        if kind in _SCALARS:
            form = f"{count}{_SCALARS[kind]}"
            values = list(struct.unpack_from("<" + form, self.data, self.at)) if wanted else None
            self.at += struct.calcsize("<" + form)
            return values
        if kind == _STRING:
            if wanted:
                return self._strings(count)
            self._skip_strings(count)
            return None
        read: Callable[[], Any] = lambda: self._value(kind)  # noqa: E731
        return [read() for _ in range(count)]

    def _strings(self, count: int) -> list[str]:
        data, at, found = self.data, self.at, []
        unpack = struct.Struct("<Q").unpack_from
        for _ in range(count):
            (length,) = unpack(data, at)
            at += 8
            found.append(data[at : at + length].decode(errors="surrogateescape"))
            at += length
        self.at = at
        return found

    def _skip_strings(self, count: int) -> None:
        data, at = self.data, self.at
        unpack = struct.Struct("<Q").unpack_from
        for _ in range(count):
            at += 8 + unpack(data, at)[0]
        self.at = at
