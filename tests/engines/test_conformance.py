"""What every engine behind the seam does, run on real servers. Tests share one server, in this order."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing

import pytest

from services.contracts.chats import Sampling
from services.contracts.engines import EngineReport, EngineState
from services.engines.base import Engine, EngineRejected
from services.engines.sglang import SglangEngine

from .kits import CHATS_MAX, CONTEXT_TOKENS, Kit, Running, collect, text_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

LONG = "Tell a very long story about a sheep that runs a small hotel."


async def _settled(engine: Engine, within_s: float = 5.0) -> EngineReport:
    """The report once nothing runs and holds memory any more; the last one when that takes too long."""
    until = time.monotonic() + within_s
    while True:
        report = await engine.report()
        if report.running == report.kv_used_bytes == 0 or time.monotonic() > until:
            return report
        await asyncio.sleep(0.05)


async def test_start_says_what_it_does_and_gives_facts(kit: Kit, running: Running) -> None:
    facts = running.facts
    assert "loading weights" in running.progress
    assert facts.engine == kit.name
    assert facts.kv_bits == kit.bits
    assert facts.context_tokens == CONTEXT_TOKENS
    assert facts.chats_max == CHATS_MAX
    assert facts.weight_bytes > 50_000_000
    assert facts.overhead_bytes > 0
    per_token = facts.kv_bytes_per_token[int(kit.bits)]
    assert per_token > 0
    assert facts.kv_budget_bytes >= per_token * CONTEXT_TOKENS


async def test_idle_engine_reports_ready_and_alive(running: Running) -> None:
    report = await running.engine.report()
    assert (report.state, report.running, report.kv_used_bytes) == (EngineState.READY, 0, 0)
    assert abs(report.at_s - time.time()) < 10
    assert await running.engine.alive()


async def test_streams_the_right_answer_in_pieces_with_usage(kit: Kit, running: Running) -> None:
    request = kit.request("fact", "What is the capital of France?")
    pieces = await collect(running.engine, request)
    assert text_of(pieces) == "The capital of France is Paris."
    assert len(pieces) > 3
    last = pieces[-1]
    assert (last.finish, last.stop_text) == ("stop", "")
    assert all(piece.finish is None for piece in pieces[:-1])
    assert last.prompt_tokens == len(request.prompt)
    assert last.completion_tokens == sum(piece.tokens for piece in pieces)
    assert last.completion_tokens in {7, 8}  # with or without the token that ends the turn


async def test_stops_at_the_length(kit: Kit, running: Running) -> None:
    pieces = await collect(running.engine, kit.request("length", LONG, max_tokens=5))
    assert (pieces[-1].finish, pieces[-1].completion_tokens) == ("length", 5)


async def test_stop_sequence_ends_the_answer_and_is_not_part_of_it(kit: Kit, running: Running) -> None:
    sampling = Sampling(temperature=0.0, stop=("France is", "zzz"))
    request = kit.request("stop", "What is the capital of France?", sampling=sampling)
    pieces = await collect(running.engine, request)
    assert text_of(pieces).strip() == "The capital of"
    assert (pieces[-1].finish, pieces[-1].stop_text) == ("stop", "France is")


async def test_seed_repeats_a_sampled_answer_where_the_engine_keeps_to_seeds(kit: Kit, running: Running) -> None:
    async def sample(seed: int) -> str:
        sampling = Sampling(temperature=1.0, seed=seed)
        return text_of(await collect(running.engine, kit.request("seed", LONG, sampling=sampling)))

    first = await sample(7)
    assert (await sample(7) == first) or not kit.seeds
    assert await sample(8) != first


async def test_text_outside_ascii_arrives_whole(kit: Kit, running: Running) -> None:
    pieces = await collect(running.engine, kit.request("utf8", "Repeat exactly: 日本語 🐑 é", max_tokens=16))
    assert "\ufffd" not in "".join(piece.text for piece in pieces[:-1])


async def test_closing_the_stream_frees_the_memory(kit: Kit, running: Running) -> None:
    async with aclosing(running.engine.stream(kit.request("close", LONG, max_tokens=400))) as stream:  # type: ignore[type-var]
        async for _ in stream:
            break
    report = await _settled(running.engine)
    assert (report.running, report.kv_used_bytes) == (0, 0)


async def test_prompt_beyond_the_context_is_rejected(kit: Kit, running: Running) -> None:
    with pytest.raises(EngineRejected, match=str(CONTEXT_TOKENS)):
        await collect(running.engine, kit.request("long", "sheep " * (CONTEXT_TOKENS + 10)))
    assert (await running.engine.report()).running == 0


async def test_answer_is_cut_where_the_context_ends(kit: Kit, running: Running) -> None:
    request = kit.request("full", "sheep " * (CONTEXT_TOKENS - 40), max_tokens=500)
    pieces = await collect(running.engine, request)
    assert pieces[-1].completion_tokens is not None
    assert len(request.prompt) + pieces[-1].completion_tokens <= CONTEXT_TOKENS + 1


async def test_two_chats_run_at_once(kit: Kit, running: Running) -> None:
    async def chat(name: str) -> list[float]:
        stream = running.engine.stream(kit.request(name, LONG, max_tokens=24))
        return [time.monotonic() async for piece in stream if piece.tokens]

    one, two = await asyncio.gather(chat("one"), chat("two"))
    assert len(one) > 5
    assert len(two) > 5
    assert max(one[0], two[0]) < min(one[-1], two[-1])


async def test_prefix_cache_hits_with_the_same_salt_only(kit: Kit, running: Running) -> None:
    text = "Which of these towns lies in France: " + ", ".join(f"town number {n}" for n in range(40))

    async def cached(chat: str, salt: str) -> int:
        pieces = await collect(running.engine, kit.request(chat, text, max_tokens=2, salt=salt))
        assert pieces[-1].cached_tokens is not None
        return pieces[-1].cached_tokens

    prompt_tokens = len(kit.request("", text).prompt)
    assert await cached("p1", "salt-1") < 20
    assert await cached("p2", "salt-1") > prompt_tokens - 40
    assert await cached("p3", "salt-2") < 20
    assert await cached("p4", "salt-2") > prompt_tokens - 40
    assert (await running.engine.report()).kv_cached_bytes > 0


async def test_requests_at_other_bits_are_refused(kit: Kit, running: Running) -> None:
    if running.facts.live_kv_bits:
        pytest.skip("this engine holds several precisions at once")
    with pytest.raises(EngineRejected, match="bits"):
        await collect(running.engine, kit.request("bits", "Hello", kv_bits=kit.other_bits))


async def test_an_adapter_changes_answers(kit: Kit, running: Running) -> None:
    if kit.adapter is None or not isinstance(running.engine, SglangEngine):
        pytest.skip("this engine serves no adapters")
    question = "What is the capital of France?"

    plain = text_of(await collect(running.engine, kit.request("plain", question, max_tokens=6)))
    changed = text_of(await collect(running.engine, kit.request("lora", question, max_tokens=6, adapter="noise")))
    assert changed != plain
    with pytest.raises(EngineRejected, match="other"):
        await collect(running.engine, kit.request("none", question, max_tokens=6, adapter="other"))
