"""Job: what KV bits cost a model, measured through llama.cpp with real quantized caches.

Perplexity, KL divergence and top-1 agreement against the model's own 16-bit cache, at every position of the second half
of a few texts: the tenant's own transcripts, or the bundled support dialogues. services/evidence/prove measures;
this runs it beside a serving host, one precision at a time, with as few slots as it needs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict

from services.engines.base import EngineError
from services.evidence.prove.logits import LlamaCppLogits
from services.evidence.prove.quality import Readings, fidelity, read, support_text
from services.jobs.attempt import Context, JobFailed, JobResult
from services.model_files.weights import WeightsError, resolve
from services.planner.plan import read_shape
from services.store.job_args import QualityArgs
from services.store.quality import Measured, keep
from services.tokenizer.tokenizer import load_tokenizer

TEXTS = 2
TEXT_TOKENS_MAX = 512  # longer texts are cut in pieces; costs grow with the square
TEXT_TOKENS_MIN = 32
BASE = 16
STEPS = 8  # positions read between two reports of progress
BUNDLED = "bundled support dialogues"


async def run(context: Context) -> JobResult:
    """Args: QualityArgs. Result: one row a precision. Raises JobFailed."""
    job = context.job
    settings = context.runtime.config.models.get(job.target)
    if settings is None or not settings.kind.measures_quality:
        raise JobFailed(f"{job.target}: quality is measured through llama.cpp, which reads GGUF files only.")
    try:
        weights = resolve(settings.weights)
    except WeightsError as error:
        raise JobFailed(str(error)) from error
    tokenizer = await asyncio.to_thread(load_tokenizer, weights)
    if not tokenizer.exact:
        raise JobFailed(f"{job.target}: its tokenizer's family is unknown, so token positions are not known.")
    args = QualityArgs.model_validate(job.args)
    given = args.transcripts
    texts = pieces([tokenizer.encode(text) for text in ([given] if given else support_text(TEXTS))], args.tokens_max)
    if not texts:
        raise JobFailed(f"The transcripts have fewer than {TEXT_TOKENS_MIN} tokens.")
    shape = await asyncio.to_thread(read_shape, settings.weights)
    readings: dict[int, Readings] = {}
    bits_all = [BASE, *(bits for bits in sorted(args.bits, reverse=True) if bits != BASE)]
    for number, bits in enumerate(bits_all):
        await context.report(number / len(bits_all), f"starting a second engine with {bits} bits")
        log_path = context.runtime.config.data_dir / "logs" / f"quality-{job.target}-{bits}.log"
        context_tokens = max(map(len, texts)) + 64
        try:
            async with LlamaCppLogits(weights, bits, context_tokens, len(texts), log_path) as logits:
                readings[bits] = await _read(context, logits, texts, number, bits_all)
        except EngineError as error:
            raise JobFailed(f"{job.target} at {bits} bits: {error}") from error
    found = {bits: fidelity(readings[BASE], readings[bits], texts, shape.vocabulary) for bits in bits_all}
    source = f"{job.id}, {'transcripts' if given else BUNDLED}, {found[BASE].positions} positions"
    rows = [
        Measured(
            bits=bits,
            perplexity=at.perplexity,
            perplexity_change=at.perplexity / found[BASE].perplexity - 1.0,
            kl=at.kl_nats,
            top1_agrees=at.top1_agrees,
            source=source,
        )
        for bits, at in found.items()
    ]
    await keep(context.connection, job.target, rows)
    return {"model": job.target, "measured": [asdict(row) for row in rows]}


async def _read(
    context: Context, logits: LlamaCppLogits, texts: Sequence[Sequence[int]], number: int, bits_all: Sequence[int]
) -> Readings:
    """All positions, in steps, so that progress is seen and a cancellation heard."""
    bits, found = bits_all[number], Readings()
    places = [list(range(len(text) // 2, len(text))) for text in texts]
    longest = max(map(len, places))
    for begin in range(0, longest, STEPS):
        found |= await read(logits, texts, [place[begin : begin + STEPS] for place in places])
        done = min(1.0, (begin + STEPS) / longest)
        await context.report((number + done) / len(bits_all), f"reading at {bits} bits: {done:.0%}")
    return found


def pieces(texts: Sequence[Sequence[int]], tokens_max: int) -> list[list[int]]:
    """At most TEXTS texts of equal size out of all tokens, `tokens_max` in sum."""
    tokens = [token for text in texts for token in text][:tokens_max]
    size = min(TEXT_TOKENS_MAX, len(tokens) // TEXTS)
    if size < TEXT_TOKENS_MIN:
        return []
    return [tokens[place * size : (place + 1) * size] for place in range(TEXTS)]
