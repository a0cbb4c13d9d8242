"""One engine configuration of ``benchmarks.gpu.kvplanes``, in a process of its own."""

from __future__ import annotations

import importlib
import json
import os
import random
import sys
import time
from array import array
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.gpu.kvplanes_runs import CACHES, SPARE, Job, Run

STEPS = 40
PREFILLS = {"prefill_4096": (4096, 4096, 2), "extend_8192_4096": (12288, 4096, 1)}  # context, new tokens, requests


def wait_for_turn() -> None:
    """Return when the driver has named this worker."""
    me, named = Path(os.environ["KVPLANES_RESULT"]).name, Path(os.environ["KVPLANES_TURN"] + "-of")
    while not (named.exists() and named.read_text() == me):
        time.sleep(0.05)


def flags_of(run: Run, model: str, device: str) -> list[str]:
    """SGLang's command line for `run`."""
    cache, contexts = CACHES[run.cache], [job.context for job in run.jobs]
    batches = sorted({job.batch for job in run.jobs})
    tokens = max(*(sum(job.lengths()) + job.batch * SPARE for job in run.jobs), 3 * 4096 + SPARE)
    # Low planes come out of the same pool: at 8 bits, and for first and newest tokens at 4.
    extra = {"kv8": tokens, "kv4": max(batches) * 64}.get(run.cache[:3], 0)
    longest = max(max(job.lengths()) for job in run.jobs)
    flags = ["--model-path", model, "--load-format", "dummy", "--max-total-tokens", str(tokens + extra)]
    flags += ["--context-length", str(max(longest, 12288) + SPARE if device == "cuda" else max(contexts) + SPARE)]
    flags += ["--skip-tokenizer-init", "--max-running-requests", str(max(batches)), "--sampling-backend", "pytorch"]
    flags += ["--grammar-backend", "none", "--kv-cache-dtype", cache.dtype, "--chunked-prefill-size", "8192"]
    if device != "cuda":
        return [*flags, "--device", "cpu", "--attention-backend", "torch_native", "--disable-cuda-graph"]
    flags += ["--attention-backend", cache.backend, "--cuda-graph-backend-prefill=disabled"]
    return [*flags, "--cuda-graph-bs-decode", *map(str, batches), "--mem-fraction-static", "0.93"]


def load(run: Run, model: str, device: str) -> Any:
    """SGLang's model runner with pools, attention backend and CUDA graphs."""
    from sglang.benchmark import one_batch
    from sglang.srt.layers.moe import initialize_moe_config
    from sglang.srt.layers.quantization.fp4_utils import initialize_fp4_gemm_config
    from sglang.srt.layers.quantization.fp8_utils import initialize_fp8_gemm_config
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import PortArgs, prepare_server_args, set_global_server_args_for_scheduler

    load_plugins()
    if run.cache.endswith("_triton"):
        without_cuda_kernel()
    wait_for_turn()
    args = prepare_server_args(flags_of(run, model, device))
    set_global_server_args_for_scheduler(args)
    initialize_moe_config(args)
    initialize_fp8_gemm_config(args)
    initialize_fp4_gemm_config(args)
    one_batch.get_tokenizer = lambda *_args, **_options: None  # token ids are made up
    runner, _ = one_batch.load_model(args, PortArgs.init_new(args), 0, 0)
    return runner.torch_runner


def without_cuda_kernel() -> None:
    """Planes decode with Triton's kernels, as where NVRTC is missing."""
    launch = importlib.import_module("bunkhouse_kvplanes.kernels.launch")  # the package that SGLang loads
    setattr(launch, "supports", lambda *_shape: False)  # noqa: B010 - not a name that it exports


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


def requests(runner: Any, lengths: list[int], new: int) -> list[Any]:
    """A request of each length, whose tokens are cached already but for the last `new`."""
    import torch
    from sglang.srt.managers.schedule_batch import Req
    from sglang.srt.sampling.sampling_params import SamplingParams

    allocator = runner.token_to_kv_pool_allocator
    made = []
    for index, length in enumerate(lengths):
        ids = array("q", torch.randint(0, 10000, (length,)).tolist())
        req = Req(str(index), "", ids, SamplingParams(temperature=0, max_new_tokens=SPARE))
        req.full_untruncated_fill_ids = req.origin_input_ids
        req.logprob_start_len = -1
        if length > new:
            req.prefix_indices = allocator.alloc(length - new).clone()
            slots = getattr(allocator, "slots", None)
            if slots is not None:
                first, last = slice(0, 4), slice(-32, None)
                fine = slice(None) if req.kvplanes_bits == 8 else first
                slots.grant_low(req.prefix_indices[fine])
                if fine is first:
                    slots.grant_low(req.prefix_indices[last])
        req.set_extend_range(len(req.prefix_indices), length)
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


def profile(runner: Any, batch: Any, ids: Any, steps: int = 3) -> tuple[dict[str, Any], Any]:
    """Where a step's time on the GPU goes: microseconds and launches a step by kernel, the longest 14 and the rest."""
    import torch
    from torch.profiler import ProfilerActivity

    with torch.profiler.profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as found:
        _, _, ids = decode_steps(runner, batch, ids, steps)
    rows: dict[str, list[float]] = {}
    for event in found.events():
        if event.device_type == torch.autograd.DeviceType.CUDA and not event.name.startswith("Memcpy HtoD"):
            row = rows.setdefault(event.name[:60], [0.0, 0.0])
            row[0] += event.time_range.elapsed_us() / steps
            row[1] += 1 / steps
    ranked = sorted(rows.items(), key=lambda item: -item[1][0])
    kernels = {name: [round(time_us, 1), round(count, 1)] for name, (time_us, count) in ranked[:14]}
    kernels["all others"] = [round(sum(row[i] for _, row in ranked[14:]), 1) for i in (0, 1)]
    return {"kernels_us": kernels, "busy_us": round(sum(row[0] for _, row in ranked), 1)}, ids


def median(values: list[float]) -> float:
    """The middle value, rounded to a microsecond."""
    return round(sorted(values)[len(values) // 2], 3) if values else 0.0


def measure_decode(runner: Any, job: Job) -> dict[str, Any]:
    """A batch that decodes; with `job.demote`, half way all its sessions drop to 4 bits."""
    from sglang.benchmark import one_batch

    clear(runner)
    reqs = requests(runner, job.lengths(), 1)
    random.Random(1).shuffle(reqs)
    ids, _, batch = one_batch.extend(reqs, runner)
    for req in reqs:
        req.kvplanes_own_from = 0  # no other request has the prefix that was made up for it
    decode_steps(runner, batch, ids, 4)
    wall, gpu, ids = decode_steps(runner, batch, ids, STEPS)
    figures: dict[str, Any] = {f"{job.name}_ms": median(wall), f"{job.name}_gpu_ms": median(gpu)}
    if job.profile:
        figures[f"{job.name}_profile"], ids = profile(runner, batch, ids)
    if job.demote:
        figures |= measure_demotion(runner, batch, ids, job)
    return figures


def measure_demotion(runner: Any, batch: Any, ids: Any, job: Job) -> dict[str, Any]:
    """How long demoting every session takes, what it frees, and a step afterwards."""
    from sglang.benchmark import one_batch

    sessions = runner.token_to_kv_pool_allocator.sessions
    sessions.scheduler = SimpleNamespace(running_batch=batch, last_batch=None, waiting_queue=[], chunked_req=None)
    one_batch.synchronize(runner.device)
    tic = time.perf_counter()
    answer = sessions.handle({"op": "demote", "all": True})
    one_batch.synchronize(runner.device)
    took = (time.perf_counter() - tic) * 1e3
    _, gpu, _ = decode_steps(runner, batch, ids, 12)
    return {
        f"{job.name}_demotion_took": round(took, 3),
        f"{job.name}_demotion_freed_mb": round(answer["freed_bytes"] / 1e6, 1),
        f"{job.name}_demoted_gpu": median(gpu[2:]),
    }


def measure_prefill(runner: Any, with_profile: bool) -> dict[str, Any]:
    """8,192 new tokens: two prompts of 4,096; and 4,096 on top of a cached prefix of 8,192."""
    from sglang.benchmark import one_batch

    figures: dict[str, Any] = {}
    for name, (context, new, batch) in PREFILLS.items():
        times = []
        for _ in range(5):
            clear(runner)
            reqs = requests(runner, [context] * batch, new)
            one_batch.synchronize(runner.device)
            tic = time.perf_counter()
            one_batch.extend(reqs, runner)
            one_batch.synchronize(runner.device)
            times.append((time.perf_counter() - tic) * 1e3)
        figures[f"{name}_ms"] = median(times[1:])
        if with_profile:
            figures[f"{name}_profile"] = profile_prefill(runner, context, new, batch)
    return figures


def profile_prefill(runner: Any, context: int, new: int, batch: int) -> dict[str, Any]:
    """Microseconds and launches by kernel of one prefill, the longest 8."""
    import torch
    from sglang.benchmark import one_batch
    from torch.profiler import ProfilerActivity

    clear(runner)
    reqs = requests(runner, [context] * batch, new)
    with torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as found:
        one_batch.extend(reqs, runner)
        one_batch.synchronize(runner.device)
    rows = sorted(found.key_averages(), key=lambda row: -row.device_time_total)
    return {row.key[:60]: [round(row.device_time_total, 1), row.count] for row in rows[:8]}


def main() -> None:
    """Measure what KVPLANES_RUN names; leave the figures in KVPLANES_RESULT after each part."""
    device = os.environ.get("KVPLANES_DEVICE", "cuda")
    run = Run.from_json(os.environ["KVPLANES_RUN"])
    out = Path(os.environ["KVPLANES_RESULT"])
    tic = time.perf_counter()
    runner = load(run, sys.argv[1], device)
    fill_random(runner)
    figures: dict[str, Any] = {"start_s": round(time.perf_counter() - tic, 1)}
    for job in run.jobs:
        try:
            figures |= measure_decode(runner, job)
        except Exception as error:  # noqa: BLE001 - one job must not cost the figures of the others
            figures[f"{job.name}_error"] = f"{type(error).__name__}: {error}"[:300]
        out.write_text(json.dumps(figures))
    if run.prefill:
        figures |= measure_prefill(runner, run.cache in ("kv4", "flashinfer"))
        out.write_text(json.dumps(figures))
    print(figures)


if __name__ == "__main__":
    main()
