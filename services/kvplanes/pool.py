"""SGLang's seams for memory: the KV pool over planes, and the allocator that hands out its slots.

SGLang sees a pool of `size` tokens and an allocator whose ``available_size`` counts tokens without a low plane. Low
planes take what is free beyond that and give way to it: when new tokens need the room, ``relieve`` is called, which
evicts idle cached tokens and then demotes running sessions. So SGLang's own accounting holds at any mix of precisions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from sglang.srt.mem_cache.allocator.token import TokenToKVPoolAllocator
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool

from .config import KVPlanesConfig
from .layout import PlaneShape
from .planes import LayerPlanes, Planes
from .slots import SlotPool


class PlanesKVPool(MHATokenToKVPool):  # type: ignore[misc]  # SGLang ships no types
    """SGLang's KV pool, its buffers replaced by planes. Read and written by the kvplanes backend alone."""

    def __init__(self, config: KVPlanesConfig, *args: Any, **kwargs: Any) -> None:
        self.config = config
        self.calibrated = False
        self.calibrate_next = False
        super().__init__(*args, **kwargs)
        self.dtype = torch.uint8  # keeps models from fusing a bf16 store of their own into RoPE

    def _create_buffers(self) -> None:
        shape = PlaneShape(self.layer_num, self.head_num, self.head_dim)
        self.planes = Planes(shape, self.size, str(self.device))
        self.k_scale_buffer = self.v_scale_buffer = None
        self.dq_k_buffer = self.dq_v_buffer = None

    def layer(self, layer_id: int) -> LayerPlanes:
        """The planes of SGLang's layer `layer_id`."""
        return self.planes.layer(layer_id - self.start_layer)

    def calibrate(self, layer_id: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Fix a layer's centres at the mean of `key` and `value` (T, H, D)."""
        self.planes.calibrate(layer_id - self.start_layer, key, value)

    def get_kv_size_bytes(self) -> tuple[int, int]:
        """Bytes for keys and for values, for SGLang's log."""
        half = self.planes.byte_size // 2
        return half, half

    def _clear_buffers(self) -> None:
        del self.planes

    def move_kv_cache(self, tgt_loc: torch.Tensor, src_loc: torch.Tensor) -> None:
        """Copy slots, as SGLang asks when it compacts."""
        self.planes.move(tgt_loc, src_loc)

    def _no_plain_buffer(self, *_args: object, **_kwargs: object) -> Any:
        raise NotImplementedError("the kvplanes pool holds nibble planes; only its own attention backend reads them")

    get_key_buffer = get_value_buffer = get_kv_buffer = set_kv_buffer = _no_plain_buffer
    get_contiguous_buf_infos = get_cpu_copy = load_cpu_copy = _no_plain_buffer


class PlanesAllocator(TokenToKVPoolAllocator):  # type: ignore[misc]  # SGLang ships no types
    """SGLang's token allocator over a ``SlotPool``."""

    def __init__(self, size: int, device: str, kvcache: PlanesKVPool) -> None:
        self.slots = SlotPool(size, kvcache.planes.low_of)
        self.relieve: Callable[[int], None] | None = None
        super().__init__(size, torch.uint8, device, kvcache, need_sort=False)

    def clear(self) -> None:
        """Forget every owner, as SGLang asks when it flushes its cache."""
        self.slots.clear()
        self.free_pages = self.release_pages = torch.empty(0, dtype=torch.int64, device=self.device)
        self.is_not_in_free_group = True
        self.free_group: list[torch.Tensor] = []

    def available_size(self) -> int:
        """Tokens that fit, counting low planes as room: they give way."""
        return int(self.size - self.slots.high_used)

    def alloc(self, need_size: int) -> torch.Tensor | None:
        """High slots for `need_size` tokens; None where SGLang's own accounting should have said no."""
        slots = self.slots.alloc(need_size)
        if slots is None and self.relieve is not None and need_size <= self.available_size():
            self.relieve(need_size)
            slots = self.slots.alloc(need_size)
        return slots

    def free(self, free_index: torch.Tensor) -> None:
        """Take tokens back, with their low planes; inside a free group, at its end."""
        if free_index.numel() == 0:
            return
        if self.is_not_in_free_group:
            self.slots.release(free_index.long())
        else:
            self.free_group.append(free_index)
