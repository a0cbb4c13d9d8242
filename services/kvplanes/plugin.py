"""The entry point ``sglang.srt.plugins``: put the planes where SGLang 0.5.17 has its KV cache.

Nothing happens unless the environment variable BUNKHOUSE_KVPLANES is set. SGLang logs and ignores a plugin that raises,
which would leave it serving without planes; so what is wrong at load ends the process (SystemExit), and what is wrong
with the model or the flags is raised by name when the pool is built (``refuse``).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from .config import KVPlanesConfig, read_config
from .control import JsonObject

SGLANG_VERSION = "0.5.17"
POOLS = "sglang.srt.mem_cache.kv_cache_configurator.KVCacheConfigurator."


def register() -> None:
    """Register every hook, if the environment asks for planes."""
    try:
        config = read_config(os.environ)
    except ValueError as error:
        raise SystemExit(f"kvplanes: {error}") from error
    if config is None:
        return
    from sglang.version import __version__ as version  # noqa: PLC0415 - the plugin is imported where SGLang is

    if version != SGLANG_VERSION:
        raise SystemExit(f"kvplanes is written for SGLang {SGLANG_VERSION}, found {version}")
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType  # noqa: PLC0415

    hooks = Hooks(config)
    allocation = "sglang.srt.mem_cache.allocation."
    HookRegistry.register(POOLS + "_build_token_to_kv_pool", hooks.build_pool, HookType.REPLACE)
    HookRegistry.register(POOLS + "_build_token_to_kv_pool_allocator", hooks.build_allocator, HookType.REPLACE)
    HookRegistry.register(
        "sglang.srt.model_executor.pool_configurator.DefaultPoolConfigurator._compute_cell_size",
        hooks.cell_size,
        HookType.REPLACE,
    )
    HookRegistry.register(allocation + "alloc_for_extend", hooks.after_extend, HookType.AFTER)
    HookRegistry.register(allocation + "alloc_for_decode", hooks.after_decode, HookType.AFTER)
    HookRegistry.register("sglang.srt.managers.schedule_batch.Req.__init__", hooks.after_request, HookType.AFTER)
    HookRegistry.register(
        "sglang.srt.managers.scheduler.Scheduler.process_input_requests", hooks.after_input, HookType.AFTER
    )
    adder = "sglang.srt.managers.schedule_policy.PrefillAdder."
    HookRegistry.register(adder + "__init__", hooks.after_adder, HookType.AFTER)
    HookRegistry.register(adder + "add_one_req", hooks.around_add, HookType.AROUND)
    HookRegistry.register(adder + "add_chunked_req", hooks.after_chunk, HookType.AFTER)
    _replace_backends()


def _replace_backends() -> None:
    """Serve SGLang's "triton" and "torch_native" backends from planes, so its own checks on their names still hold."""
    from sglang.srt.layers.attention.attention_registry import register_attention_backend  # noqa: PLC0415

    def on_gpu(runner: Any) -> Any:
        from .backend import TritonPlanesBackend  # noqa: PLC0415

        return TritonPlanesBackend(runner)

    def on_cpu(runner: Any) -> Any:
        from .backend import ReferenceBackend  # noqa: PLC0415

        return ReferenceBackend(runner)

    register_attention_backend("triton")(on_gpu)
    register_attention_backend("torch_native")(on_cpu)


def refuse(pools: Any) -> None:
    """Raise ValueError that names everything about `pools` (SGLang's pool builder) that planes do not support."""
    args, model = pools.server_args, pools.model_config
    backends = {args.prefill_attention_backend, args.decode_attention_backend} - {None} or {args.attention_backend}
    expected = "torch_native" if pools.device == "cpu" else "triton"
    prefill_graph = getattr(args.cuda_graph_config.prefill.backend, "value", args.cuda_graph_config.prefill.backend)
    text = model.hf_text_config
    wrong = {
        "MLA attention": pools.use_mla_backend,
        "sliding windows": pools.is_hybrid_swa or pools.sliding_window_size is not None,
        "state-space layers": pools.mambaish_config is not None,
        "encoder-decoder models": model.is_encoder_decoder,
        "logit caps": bool(getattr(text, "attn_logit_softcapping", None)),
        f"head sizes K {model.head_dim} and V {model.v_head_dim}": model.head_dim != model.v_head_dim,
        "speculative decoding": not pools.spec_algorithm.is_none() or pools.is_draft_worker,
        "several GPUs an engine": args.tp_size * args.pp_size * args.dp_size * args.dcp_size > 1,
        f"--page-size {pools.page_size}": pools.page_size != 1,
        f"--kv-cache-dtype {args.kv_cache_dtype}": args.kv_cache_dtype != "auto",
        "prefill apart from decode": args.disaggregation_mode != "null",
        "--enable-hierarchical-cache": args.enable_hierarchical_cache,
        "--enable-mixed-chunk": args.enable_mixed_chunk,
        "--enable-memory-saver": args.enable_memory_saver,
        f"CUDA graphs for prefill ({prefill_graph}; give --cuda-graph-backend-prefill=disabled)": pools.device != "cpu"
        and prefill_graph != "disabled",
        f"--attention-backend {' '.join(map(str, backends))} (give {expected})": backends != {expected},
    }
    named = [name for name, found in wrong.items() if found]
    if named:
        raise ValueError(f"kvplanes does not support: {'; '.join(named)}")


class Hooks:
    """The functions that SGLang calls in place of, or around, its own."""

    def __init__(self, config: KVPlanesConfig) -> None:
        self.config = config
        self.control: Any = None

    def cell_size(self, _configurator: Any, pools: Any, num_layers: int) -> int:
        """Bytes of one slot: what SGLang divides its memory by."""
        from .layout import PlaneShape  # noqa: PLC0415

        refuse(pools)
        return PlaneShape(num_layers, pools.model_config.get_num_kv_heads(1), pools.model_config.head_dim).slot_bytes

    def build_pool(self, pools: Any, *, sizes: Any, req_to_token_pool: Any, **_kinds: bool) -> Any:
        """The planes, and each request's precision as the kernels read it."""
        import torch  # noqa: PLC0415

        from .pool import PlanesKVPool  # noqa: PLC0415

        refuse(pools)
        pool = PlanesKVPool(
            self.config,
            sizes.max_total_num_tokens,
            page_size=1,
            dtype=pools.kv_cache_dtype,
            head_num=pools.model_config.get_num_kv_heads(1),
            head_dim=pools.model_config.head_dim,
            layer_num=pools.layer_info.num_effective_layers,
            device=pools.device,
            enable_memory_saver=False,
            start_layer=pools.layer_info.start_layer,
            end_layer=pools.layer_info.end_layer,
        )
        rows = req_to_token_pool.req_to_token.shape[0]
        pool.req_bits = torch.full((rows,), self.config.bits, dtype=torch.int32, device=pools.device)
        pool.req_policy = pool.req_bits.clone()
        return pool

    def build_allocator(self, pools: Any, *, sizes: Any, token_to_kv_pool: Any, **_rest: Any) -> Any:
        """The allocator over the planes' slots."""
        from .pool import PlanesAllocator  # noqa: PLC0415

        return PlanesAllocator(sizes.max_total_num_tokens, pools.device, token_to_kv_pool)

    def _sessions(self, batch: Any) -> Any:
        from .sessions import SessionPlanes  # noqa: PLC0415

        allocator = batch.token_to_kv_pool_allocator
        if getattr(allocator, "sessions", None) is None:
            table = batch.req_to_token_pool.req_to_token
            allocator.sessions = SessionPlanes(allocator, table, batch.tree_cache, self.config)
        return allocator.sessions

    def after_extend(self, result: Any, batch: Any) -> None:
        """Prompt tokens have their slots."""
        self._sessions(batch).on_extend(batch, result[0])

    def after_decode(self, result: Any, batch: Any, *_args: Any, **_kwargs: Any) -> None:
        """Each running request has a slot for its next token."""
        self._sessions(batch).on_decode(batch, result)

    def after_request(self, _result: None, req: Any, *_args: Any, **_kwargs: Any) -> None:
        """Read the precision that a new request asks for; refuse the request where planes do not hold it."""
        from .keys import parse_extra_key  # noqa: PLC0415

        try:
            _, req.kvplanes_bits = parse_extra_key(req.extra_key, self.config.bits)
        except ValueError as error:
            req.kvplanes_bits = self.config.bits
            req.set_finish_with_abort(str(error))

    def after_input(self, _result: None, scheduler: Any, *_args: Any) -> None:
        """Once a turn of the scheduler's loop, when it has queued what came in: answer the control socket."""
        if self.control is None:
            sessions = self._sessions(scheduler)
            sessions.scheduler = scheduler
            self.control = _listen(self.config.control, sessions.handle)
        self.control()

    def after_adder(self, _result: None, adder: Any, *_args: Any, **_kwargs: Any) -> None:
        """Count the low planes of running 8-bit sessions as taken when SGLang decides whom to admit."""
        if adder.running_batch is not None:
            held = sum(r.seqlen for r in adder.running_batch.reqs if r.kvplanes_bits == 8)
            adder.rem_total_token_offset += held
            adder.cur_rem_token_offset += held

    def around_add(self, original: Callable[..., Any], adder: Any, req: Any, *args: Any, **kwargs: Any) -> Any:
        """Admit an 8-bit request only where both its planes fit; alone, it may run with fewer low planes."""
        alone = not adder.can_run_list and (adder.running_batch is None or adder.running_batch.is_empty())
        if req.kvplanes_bits != 8 or alone:
            return original(adder, req, *args, **kwargs)
        before = len(adder.can_run_list)
        _count_low(adder, req, 1)
        result = original(adder, req, *args, **kwargs)
        if len(adder.can_run_list) == before:
            _count_low(adder, req, -1)
        return result

    def after_chunk(self, _result: Any, adder: Any, req: Any) -> None:
        """Count the low planes of an 8-bit prompt that goes on in chunks, before others are admitted beside it.

        After, not before: its next chunk runs in any case, and counting first would only cut it shorter.
        """
        if req.kvplanes_bits == 8:
            _count_low(adder, req, 1)


def _count_low(adder: Any, req: Any, sign: int) -> None:
    """Count (`sign` 1) or no longer count (-1) the low planes of all tokens of `req` in SGLang's admission."""
    prompt = len(req.full_untruncated_fill_ids)
    adder.rem_total_token_offset += sign * (prompt + min(req.sampling_params.max_new_tokens, 4096))
    adder.cur_rem_token_offset += sign * prompt


def _listen(path: str, handle: Callable[[JsonObject], JsonObject]) -> Callable[[], None]:
    from .server import ControlServer  # noqa: PLC0415

    return ControlServer(path, handle).poll if path else lambda: None
