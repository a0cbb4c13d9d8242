"""One engine configuration of ``benchmarks.gpu.kvplanes``, in a process of its own."""

from __future__ import annotations

import json
import os
import sys
import time
from array import array
from pathlib import Path
from types import SimpleNamespace
from typing import Any

BATCH = int(os.environ.get("KVPLANES_BATCH", "32"))
STEPS = 24
SPARE = 64  # tokens a request may decode on top of its context


def wait_for_turn() -> None:
    """Return when the driver has named this worker."""
    me, named = Path(os.environ["KVPLANES_RESULT"]).name, Path(os.environ["KVPLANES_TURN"] + "-of")
    while not (named.exists() and named.read_text() == me):
        time.sleep(0.05)


def load(model: str, cache: str, contexts: list[int], device: str) -> Any:
    """SGLang's model runner with pools, attention backend and CUDA graphs."""
    from sglang.benchmark import one_batch
    from sglang.srt.layers.moe import initialize_moe_config
    from sglang.srt.layers.quantization.fp4_utils import initialize_fp4_gemm_config
    from sglang.srt.layers.quantization.fp8_utils import initialize_fp8_gemm_config
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import PortArgs, prepare_server_args, set_global_server_args_for_scheduler

    load_plugins()
    tokens = max(BATCH * (max(contexts) + SPARE), 3 * 4096 + SPARE)
    wait_for_turn()
    flags = ["--model-path", model, "--load-format", "dummy", "--max-total-tokens"]
    # Low planes come out of the same pool: at 8 bits, and for first and newest tokens at 4.
    extra = tokens if cache == "kv8" else BATCH * 64 if cache == "kv4" else 0
    flags += [
        str(tokens + extra),
        "--context-length",
        str(min(max(*contexts, 12288) + SPARE, 32768 if device == "cuda" else 2048)),
        "--skip-tokenizer-init",
    ]
    flags += ["--max-running-requests", str(BATCH), "--sampling-backend", "pytorch", "--grammar-backend", "none"]
    flags += ["--kv-cache-dtype", "auto" if cache.startswith("kv") else cache, "--chunked-prefill-size", "8192"]
    if device == "cuda":
        flags += ["--attention-backend", "triton", "--cuda-graph-backend-prefill=disabled"]
        flags += ["--cuda-graph-bs-decode", str(BATCH), "--mem-fraction-static", "0.93"]
    else:
        flags += ["--device", "cpu", "--attention-backend", "torch_native", "--disable-cuda-graph"]
    args = prepare_server_args(flags)
    set_global_server_args_for_scheduler(args)
    initialize_moe_config(args)
    initialize_fp8_gemm_config(args)
    initialize_fp4_gemm_config(args)
    one_batch.get_tokenizer = lambda *_args, **_options: None  # token ids are made up
    runner, _ = one_batch.load_model(args, PortArgs.init_new(args), 0, 0)
    return runner.torch_runner


def fill_random(runner: Any) -> None:
    """Random bytes in every cache buffer: zeros would hide wrong reads and run faster."""
    import torch

    pool = runner.token_to_kv_pool
    planes = getattr(pool, "planes", None)
    if planes is not None:
        for codes, scales in zip(planes.codes, planes.scales, strict=True):
            codes.random_(0, 256)
            scales[..., 0].uniform_(0.05, 0.3)
            scales[..., 1].normal_(0, 0.2)
        return
    for buffer in (*pool.k_buffer, *pool.v_buffer):
        if buffer.dtype.itemsize == 1:
            buffer.view(torch.uint8).random_(0, 60)  # finite in every 8-bit float
        else:
            buffer.normal_()


def requests(runner: Any, context: int, new: int, batch: int) -> list[Any]:
    """`batch` requests whose first ``context - new`` tokens are cached already."""
    import torch
    from sglang.srt.managers.schedule_batch import Req
    from sglang.srt.sampling.sampling_params import SamplingParams

    allocator = runner.token_to_kv_pool_allocator
    made = []
    for index in range(batch):
        ids = array("q", torch.randint(0, 10000, (context,)).tolist())
        req = Req(str(index), "", ids, SamplingParams(temperature=0, max_new_tokens=SPARE))
        req.full_untruncated_fill_ids = req.origin_input_ids
        req.logprob_start_len = -1
        if context > new:
            req.prefix_indices = allocator.alloc(context - new).clone()
            slots = getattr(allocator, "slots", None)
            if slots is not None:
                first, last = slice(0, 4), slice(-32, None)
                fine = slice(None) if req.kvplanes_bits == 8 else first
                slots.grant_low(req.prefix_indices[fine])
                if fine is first:
                    slots.grant_low(req.prefix_indices[last])
        req.set_extend_range(len(req.prefix_indices), context)
        made.append(req)
    return made


def clear(runner: Any) -> None:
    """Every slot and request row free again."""
    runner.req_to_token_pool.clear()
    runner.token_to_kv_pool_allocator.clear()


def decode_steps(runner: Any, batch: Any, ids: Any, steps: int) -> tuple[list[float], list[float], Any]:
    """Milliseconds a step by the host's clock, as ``bench_one_batch`` takes them, and on the GPU alone."""
    import torch
    from sglang.benchmark import one_batch

    forward = runner.forward
    on_gpu = runner.device != "cpu"
    spans: list[Any] = []

    def timed(*args: Any, **options: Any) -> Any:
        if not on_gpu:
            return forward(*args, **options)
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        result = forward(*args, **options)
        end.record()
        spans.append((start, end))
        return result

    runner.forward = timed
    wall = []
    for _ in range(steps):
        one_batch.synchronize(runner.device)
        tic = time.perf_counter()
        ids, _ = one_batch.decode(ids, batch, runner)
        one_batch.synchronize(runner.device)
        wall.append((time.perf_counter() - tic) * 1e3)
    runner.forward = forward
    return wall, [start.elapsed_time(end) for start, end in spans], ids


def median(values: list[float]) -> float:
    """The middle value, rounded to a microsecond."""
    return round(sorted(values)[len(values) // 2], 3) if values else 0.0


def measure_decode(runner: Any, context: int, demote: bool) -> dict[str, float]:
    """A batch that decodes at `context`; with `demote`, half way all its sessions drop to 4 bits."""
    from sglang.benchmark import one_batch

    clear(runner)
    reqs = requests(runner, context, 1, BATCH)
    ids, _, batch = one_batch.extend(reqs, runner)
    for req in reqs:
        req.kvplanes_own_from = 0  # no other request has the prefix that was made up for it
    decode_steps(runner, batch, ids, 4)
    wall, gpu, ids = decode_steps(runner, batch, ids, STEPS)
    key = f"decode_{context}"
    figures = {f"{key}_ms": median(wall), f"{key}_gpu_ms": median(gpu)}
    if demote:
        sessions = runner.token_to_kv_pool_allocator.sessions
        sessions.scheduler = SimpleNamespace(running_batch=batch, last_batch=None, waiting_queue=[], chunked_req=None)
        one_batch.synchronize(runner.device)
        tic = time.perf_counter()
        answer = sessions.handle({"op": "demote", "all": True})
        one_batch.synchronize(runner.device)
        figures[f"demote_{context}_took"] = round((time.perf_counter() - tic) * 1e3, 3)
        figures[f"demote_{context}_freed_mb"] = round(answer["freed_bytes"] / 1e6, 1)
        wall, gpu, _ = decode_steps(runner, batch, ids, 12)
        figures[f"demoted_{context}_gpu"] = median(gpu[2:])
    return figures


def measure_prefill(runner: Any) -> dict[str, float]:
    """8,192 new tokens: two prompts of 4,096; and 4,096 on top of a cached prefix of 8,192."""
    from sglang.benchmark import one_batch

    figures = {}
    for name, context, new, batch in (("prefill_4096", 4096, 4096, 2), ("extend_8192_4096", 12288, 4096, 1)):
        times = []
        for _ in range(4):
            clear(runner)
            reqs = requests(runner, context, new, batch)
            one_batch.synchronize(runner.device)
            tic = time.perf_counter()
            one_batch.extend(reqs, runner)
            one_batch.synchronize(runner.device)
            times.append((time.perf_counter() - tic) * 1e3)
        figures[f"{name}_ms"] = median(times[1:])
    return figures


def main() -> None:
    """Measure what the command line names; leave the figures in KVPLANES_RESULT after each part."""
    model, cache, lengths, prefill, demote = sys.argv[1:6]
    device = os.environ.get("KVPLANES_DEVICE", "cuda")
    contexts = [int(length) for length in lengths.split(",")]
    out = Path(os.environ["KVPLANES_RESULT"])
    tic = time.perf_counter()
    runner = load(model, cache, contexts, device)
    fill_random(runner)
    figures: dict[str, float] = {"start_s": round(time.perf_counter() - tic, 1)}
    for context in contexts:
        figures |= measure_decode(runner, context, demote == "1")
        out.write_text(json.dumps(figures))
    if prefill == "1":
        figures |= measure_prefill(runner)
        out.write_text(json.dumps(figures))
    print(figures)


if __name__ == "__main__":
    main()
