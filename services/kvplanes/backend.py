"""SGLang's attention backend over planes: Triton kernels on a GPU, the PyTorch reference elsewhere."""

# ruff: noqa: PLR0917 - SGLang's signatures

from __future__ import annotations

from typing import Any

import torch
from sglang.srt.layers.attention.base_attn_backend import AttentionBackend

from . import reference
from .pool import PlanesKVPool


class PlanesBackend(AttentionBackend):  # type: ignore[misc]  # SGLang ships no types
    """What both backends share: the pool, the request table, and refusing what the planes do not know."""

    needs_cpu_seq_lens = False

    def __init__(self, runner: Any) -> None:
        super().__init__()
        self.token_to_kv_pool: PlanesKVPool = runner.token_to_kv_pool
        if not isinstance(self.token_to_kv_pool, PlanesKVPool):
            raise TypeError(f"kvplanes needs its own KV pool, found {type(self.token_to_kv_pool).__name__}")
        self.req_to_token_pool = runner.req_to_token_pool
        self.req_to_token: torch.Tensor = runner.req_to_token_pool.req_to_token
        self.config = self.token_to_kv_pool.config
        self.device = runner.device
        self.forward_metadata: Any = None
        self.calibrating = False

    def init_forward_metadata(self, forward_batch: Any) -> None:
        """Prepare one forward pass; the first long prefill fixes the centres."""
        pool = self.token_to_kv_pool
        if forward_batch.forward_mode.is_extend():
            self.calibrating, pool.calibrate_next = pool.calibrate_next, False

    def _heads(
        self, layer: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, options: dict[str, object]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values as (T, heads, D). Raises NotImplementedError for attention that planes lack."""
        named = [name for name, option in options.items() if option is not None]
        if layer.logit_cap or layer.is_cross_attention or (layer.sliding_window_size or -1) > -1:
            named.append("logit cap, cross attention or sliding window")
        if named:
            raise NotImplementedError(f"kvplanes does not know {', '.join(named)}")
        tokens, dim = query.shape[0], layer.head_dim
        return query.view(tokens, -1, dim), key.view(tokens, -1, dim), value.view(tokens, -1, dim)


class ReferenceBackend(PlanesBackend):
    """For machines without a GPU."""

    def support_triton(self) -> bool:
        """No Triton here."""
        return False

    def _store(self, layer: Any, forward_batch: Any, qkv: tuple[torch.Tensor, ...], save: bool) -> Any:
        query, key, value = qkv
        if self.calibrating:
            self.token_to_kv_pool.calibrate(layer.layer_id, key, value)
        planes = self.token_to_kv_pool.layer(layer.layer_id)
        return planes, reference.store(planes, query, key, value, forward_batch.out_cache_loc.long(), save=save)

    def forward_decode(
        self, q: Any, k: Any, v: Any, layer: Any, forward_batch: Any, save_kv_cache: bool = True, **options: Any
    ) -> torch.Tensor:
        """One token a request; returns (B, Hq * D)."""
        planes, rotated = self._store(layer, forward_batch, self._heads(layer, q, k, v, options), save_kv_cache)
        out = reference.decode(
            planes, rotated[0], self.req_to_token, forward_batch.req_pool_indices, forward_batch.seq_lens, layer.scaling
        )
        return out.to(q.dtype).view(q.shape[0], -1)

    def forward_extend(
        self, q: Any, k: Any, v: Any, layer: Any, forward_batch: Any, save_kv_cache: bool = True, **options: Any
    ) -> torch.Tensor:
        """New tokens over a prefix; returns (T, Hq * D)."""
        planes, rotated = self._store(layer, forward_batch, self._heads(layer, q, k, v, options), save_kv_cache)
        out = reference.extend(
            planes,
            rotated,
            self.req_to_token,
            forward_batch.req_pool_indices,
            forward_batch.extend_prefix_lens,
            forward_batch.extend_seq_lens,
            layer.scaling,
        )
        return out.to(q.dtype).view(q.shape[0], -1)


class TritonPlanesBackend(PlanesBackend):
    """For NVIDIA GPUs from Ampere on, with CUDA graphs for decode."""

    def __init__(self, runner: Any) -> None:
        super().__init__(runner)
        from sglang.kernels.ops.attention.extend_attention import extend_attention_fwd  # noqa: PLC0415 - GPU only
        from sglang.srt.runtime_context import get_parallel  # noqa: PLC0415 - GPU only

        from .kernels import launch  # noqa: PLC0415 - Triton is absent beside the host
        from .kernels.prefill import dense_prefill  # noqa: PLC0415

        self.launch = launch
        self.plain_extend = extend_attention_fwd
        self.query_heads = runner.model_config.num_attention_heads // get_parallel().attn_tp_size
        shape = self.token_to_kv_pool.planes.shape
        self.way = launch.decode_way(shape.head_dim, self.query_heads // shape.kv_heads, runner.dtype)
        device = str(self.device)
        self.dense = dense_prefill(self.query_heads, shape.kv_heads, shape.head_dim, runner.dtype, device)
        self.planned: Any = None  # FlashInfer's prefill, where the pass that runs is its
        self.plan: Any = None  # of the pass that runs, or is captured
        self.graph_plan: Any = None  # the captured graphs'; they hold the addresses of its buffers
        self.eager_plan: Any = None
        self.eager_max = 0
        self.empty = torch.zeros(1, dtype=torch.int64, device=self.device)
        launch.warm(
            self.token_to_kv_pool.layer(self.token_to_kv_pool.start_layer),
            self.req_to_token,
            self.token_to_kv_pool.req_policy,
            runner.dtype,
            self.query_heads,
            (self.config.sink_tokens, self.config.recent_tokens),
        )

    def _allocate(self, batch_max: int) -> Any:
        shape = self.token_to_kv_pool.planes.shape
        return self.launch.DecodePlan.allocate(
            batch_max, self.query_heads, shape.kv_heads, shape.head_dim, str(self.device), self.way.tuning
        )

    def init_cuda_graph_state(self, max_bs: int, max_num_tokens: int) -> None:
        """Buffers that captured graphs keep the addresses of."""
        self.graph_plan = self._allocate(max(max_bs, max_num_tokens))

    def get_cuda_graph_seq_len_fill_value(self) -> int:
        """Length of a padded request: one token, slot 0's."""
        return 1

    def init_forward_metadata_out_graph(self, forward_batch: Any, in_capture: bool = False) -> None:  # noqa: ARG002
        """Nothing to prepare: the captured graph reads lengths and tables itself."""
        if not forward_batch.forward_mode.is_decode_or_idle():
            raise NotImplementedError("kvplanes captures decode only; disable CUDA graphs for prefill")

    def init_forward_metadata_in_graph(self, forward_batch: Any) -> None:
        """Cut the batch into chunks, inside the captured graph."""
        self.plan = self.graph_plan
        self._fill(forward_batch)

    def _fill(self, forward_batch: Any) -> None:
        """Share out the requests of a decode pass."""
        count = forward_batch.batch_size
        lens, rows = forward_batch.seq_lens[:count], forward_batch.req_pool_indices[:count]
        self.plan.fill(lens, rows, self.token_to_kv_pool.req_bits, self.way.tuning)

    def init_forward_metadata(self, forward_batch: Any) -> None:
        """Prepare one eager pass."""
        super().init_forward_metadata(forward_batch)
        mode = forward_batch.forward_mode
        if mode.is_decode_or_idle():
            if forward_batch.batch_size:
                if forward_batch.batch_size > self.eager_max:
                    self.eager_plan, self.eager_max = self._allocate(forward_batch.batch_size), forward_batch.batch_size
                self.plan = self.eager_plan
                self._fill(forward_batch)
            return
        prefixes, counts = list(forward_batch.extend_prefix_lens_cpu), list(forward_batch.extend_seq_lens_cpu)
        self.has_prefix = any(prefixes)
        self.planned = self.dense if self.dense is not None and self.dense.fits(prefixes, counts) else None
        if self.planned is not None:
            self.planned.plan(prefixes, counts)
            return
        starts = torch.zeros(forward_batch.batch_size + 1, dtype=torch.int64, device=self.device)
        starts[1:] = torch.cumsum(forward_batch.extend_seq_lens, 0)
        self.extend_max = max(counts)
        self.forward_metadata = (starts, torch.zeros_like(starts, dtype=torch.int32))

    def forward_decode(
        self, q: Any, k: Any, v: Any, layer: Any, forward_batch: Any, save_kv_cache: bool = True, **options: Any
    ) -> torch.Tensor:
        """One token a request; returns (B, Hq * D)."""
        new = self._heads(layer, q, k, v, options)
        return self.launch.step(
            self.way,
            self.token_to_kv_pool.layer(layer.layer_id),
            new,
            forward_batch.out_cache_loc,
            self.req_to_token,
            layer.scaling,
            plan=self.plan,
            windows=(self.config.sink_tokens, self.config.recent_tokens),
            out=torch.empty(q.shape[0], new[0].shape[1] * layer.head_dim, dtype=q.dtype, device=q.device),
            save=save_kv_cache,
        )

    def forward_extend(
        self, q: Any, k: Any, v: Any, layer: Any, forward_batch: Any, save_kv_cache: bool = True, **options: Any
    ) -> torch.Tensor:
        """New tokens over a prefix; returns (T, Hq * D)."""
        new = self._heads(layer, q, k, v, options)
        if self.calibrating:
            self.token_to_kv_pool.calibrate(layer.layer_id, *new[1:])
        planes = self.token_to_kv_pool.layer(layer.layer_id)
        extend = self._extend_dense if self.planned is not None else self._extend_triton
        return extend(layer, planes, new, forward_batch, save_kv_cache).view(q.shape[0], -1)

    def _extend_dense(self, layer: Any, planes: Any, new: Any, forward_batch: Any, save: bool) -> torch.Tensor:
        """FlashInfer, over the new tokens' exact keys and values and those of a prefix read back; (T, Hq, D)."""
        query, key, value = new
        self.launch.store(planes, query, key, value, forward_batch.out_cache_loc, save=save, rotate_query=False)
        if self.has_prefix:
            key, value = self.launch.gather(
                planes,
                (key, value),
                self.req_to_token,
                forward_batch.req_pool_indices,
                forward_batch.extend_prefix_lens,
                (self.planned.starts, self.planned.kv_starts),
                self.planned.kv_tokens,
                self.planned.kv_max,
            )
        return self.planned.run(query, key, value, layer.scaling)

    def _extend_triton(self, layer: Any, planes: Any, new: Any, forward_batch: Any, save: bool) -> torch.Tensor:
        """Triton: our kernel reads a prefix from its planes; without any prefix SGLang's own does it. (T, Hq, D)."""
        query, key, value = new
        out = torch.empty_like(query, memory_format=torch.contiguous_format)
        loc = forward_batch.out_cache_loc
        rotated = self.launch.store(planes, query, key, value, loc, keep=self.has_prefix, save=save)
        if self.has_prefix:
            return self.launch.extend(
                planes,
                rotated,
                self.req_to_token,
                forward_batch.req_pool_indices,
                forward_batch.extend_prefix_lens,
                forward_batch.extend_seq_lens,
                layer.scaling,
                out=out,
                extend_max=self.extend_max,
            )
        key, value = key.contiguous(), value.contiguous()
        starts, prefix = self.forward_metadata
        self.plain_extend(
            query, key, value, out, key, value, starts, prefix, self.empty, None, True, None, self.extend_max,
            1.0, 1.0, layer.scaling,
        )  # fmt: skip
        return out
