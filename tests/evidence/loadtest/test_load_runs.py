"""What a run records against a real HTTP server."""

from __future__ import annotations

import asyncio

import pytest

from services.evidence.loadtest.record import Result
from tests.evidence.loadtest.conftest import WORDS, FakeServer
from tests.evidence.loadtest.helpers import run, scenario

ONE_TURN = {"chats": {"kind": "dialogues", "turns_max": 1}}


@pytest.mark.parametrize("model", ["good", "torn", "crlf", "no-ids", "no-usage", "places"])
async def test_a_whole_answer_is_ok(server: FakeServer, model: str) -> None:
    records = await run(scenario(server.url, {"model": model, **ONE_TURN}))
    assert records
    for record in records:
        assert (record.result, record.faults) == (Result.OK, [])
        assert record.pieces == record.tokens == len(WORDS)
        assert (record.lost, record.doubled) == (0, 0)
        assert len(record.gaps_ms) == len(WORDS) - 1


@pytest.mark.parametrize(
    ("model", "lost", "doubled", "words"),
    [
        ("loses", 1, 0, "missing after id 3"),
        ("doubles", 0, 1, "twice or out of order"),
        ("repeats", 0, 1, "a piece came twice"),
        ("overcounts", 0, 3, "10 pieces, but the server counted 7 tokens"),
        ("cut", 0, 0, "cut off"),
    ],
)
async def test_a_faulty_stream_is_broken(server: FakeServer, model: str, lost: int, doubled: int, words: str) -> None:
    records = await run(scenario(server.url, {"model": model, **ONE_TURN}))
    assert records
    for record in records:
        assert record.result is Result.BROKEN
        assert (record.lost, record.doubled) == (lost, doubled)
        assert words in record.reason


@pytest.mark.parametrize(
    ("model", "result", "reason"),
    [
        ("full", Result.REFUSED, "429 queue_full"),
        ("late-refusal", Result.REFUSED, "in the stream: deadline"),
        ("unknown", Result.FAILED, "404 model_not_found"),
        ("breaks", Result.FAILED, "in the stream: engine_gone"),
    ],
)
async def test_errors_are_told_apart(server: FakeServer, model: str, result: Result, reason: str) -> None:
    records = await run(scenario(server.url, {"model": model}))
    assert {(r.result, r.reason) for r in records} == {(result, reason)}
    assert all(r.turn == 0 for r in records), "a session that was turned away sends no further turn"


async def test_nobody_listens() -> None:
    records = await run(scenario("http://127.0.0.1:9/v1", {}))
    assert {(r.result, r.reason) for r in records} == {(Result.FAILED, "connection refused")}


async def test_turns_carry_the_servers_answers(server: FakeServer) -> None:
    tenant = {"system_prompt": "Be brief.", "arrivals": {"kind": "poisson", "sessions_per_s": 4}}
    await run(scenario(server.url, tenant, duration_s=2))
    second = next(b["messages"] for b in server.bodies if len(b["messages"]) == 4)
    assert [m["role"] for m in second] == ["system", "user", "assistant", "user"]
    assert second[0]["content"] == "Be brief."
    assert second[2]["content"] == "".join(WORDS)


async def test_scripted_history_is_the_corpus(server: FakeServer) -> None:
    tenant = {
        "chats": {"kind": "dialogues", "history": "corpus"},
        "arrivals": {"kind": "poisson", "sessions_per_s": 4},
    }
    await run(scenario(server.url, tenant, duration_s=2))
    said = [m["content"] for b in server.bodies for m in b["messages"] if m["role"] == "assistant"]
    assert said
    assert "".join(WORDS) not in said


async def test_sessions_and_keys_reach_the_server(server: FakeServer) -> None:
    await run(scenario(server.url, {"key": "bh-secret"}, {"name": "other"}, send_task=True))
    seen = {(h["x-openwebui-chat-id"].split("-")[1], h.get("authorization")) for h in server.headers}
    assert seen == {("t0", "Bearer bh-secret"), ("other", None)}
    sessions = {h["x-openwebui-chat-id"] for h in server.headers}
    first_turns = [b for b in server.bodies if len(b["messages"]) == 1]
    assert len(sessions) == len(first_turns)
    assert {"complaint", "support"} & {b["metadata"]["task"] for b in server.bodies}


async def test_users_go_away_and_the_server_sees_it(server: FakeServer) -> None:
    tenant = {"model": "long", "abandon": {"share": 1, "after_pieces": 3}, **ONE_TURN}
    records = await run(scenario(server.url, tenant))
    assert {r.result for r in records} == {Result.ABANDONED}
    assert all(3 <= r.pieces < len(WORDS) * 200 for r in records)
    async with asyncio.timeout(20):
        while server.under_way:  # noqa: ASYNC110  (the server is in another thread)
            await asyncio.sleep(0.05)
    assert server.hung_up == len(records)


async def test_a_late_send_counts_against_the_server_and_this_process(server: FakeServer) -> None:
    """One stream at a time and 0.3 s each: the tenth user waited for nine others, and the figure says so."""
    tenant = {"model": "late", "arrivals": {"kind": "poisson", "sessions_per_s": 200}, **ONE_TURN}
    records = await run(scenario(server.url, tenant, duration_s=0.05, streams_max=1))
    assert len(records) >= 3
    waits = sorted(r.first_token_s or 0.0 for r in records)
    for place, wait in enumerate(waits):
        assert wait >= 0.3 * (place + 1) - 0.06, "measured from when the user wanted to send"
    assert max(r.sent_s - r.intended_s for r in records) >= 0.3 * (len(records) - 1) - 0.06


async def test_what_does_not_end_is_recorded(server: FakeServer) -> None:
    records = await run(scenario(server.url, {"model": "long", **ONE_TURN}, duration_s=0.2, drain_s=0.1))
    assert records
    assert {r.result for r in records} == {Result.UNFINISHED}


async def test_closed_loop_keeps_its_users(server: FakeServer) -> None:
    tenant = {"arrivals": {"kind": "closed", "users": 3}, **ONE_TURN}
    records = await run(scenario(server.url, tenant, duration_s=1))
    assert server.under_way_max <= 3
    assert len(records) > 3, "a user starts again"
    assert len({r.session for r in records}) == len(records)


async def test_questions_are_checked(server: FakeServer) -> None:
    records = await run(scenario(server.url, {"model": "knows", "chats": {"kind": "questions"}}, duration_s=2))
    right = {r.session for r in records if r.correct}
    assert {r.correct for r in records} <= {True, False}
    assert len(right) < len(records), "42 answers few of them"


async def test_a_document_is_as_long_as_asked(server: FakeServer) -> None:
    tenant = {"chats": {"kind": "documents", "characters": 9000, "turns": 2}, "max_tokens": 16}
    await run(scenario(server.url, tenant, duration_s=0.2))
    first = server.bodies[0]
    assert 9000 <= len(first["messages"][0]["content"]) < 9200
    assert first["max_tokens"] == 16


async def test_what_bunkhouse_reports_is_kept(server: FakeServer) -> None:
    records = await run(scenario(server.url, {"model": "ours", **ONE_TURN}))
    assert {(r.kv_bits, r.kv_bytes, r.queue_s) for r in records} == {(4, 8192, 0.0125)}
    assert {(r.prompt_tokens, r.cached_tokens, r.completion_tokens) for r in records} == {(11, 4, 7)}


async def test_the_end_of_an_answer_is_surer_than_its_headers(server: FakeServer) -> None:
    records = await run(scenario(server.url, {"model": "places", **ONE_TURN}))
    assert {(r.kv_bits, r.queue_s, r.served_by) for r in records} == {(8, 0.25, "bunkhouse")}


async def test_a_text_shorter_than_its_count_lost_tokens(server: FakeServer) -> None:
    tenants = {"model": "short", **ONE_TURN}, {"model": "good", **ONE_TURN}
    records = await run(scenario(server.url, *tenants), count_tokens=lambda text: len(text.split()))
    lost = {r.tenant: (r.result, r.lost) for r in records}
    assert lost == {"t0": (Result.BROKEN, 36), "t1": (Result.OK, 0)}


async def test_a_thousand_streams_at_once_from_one_process(server: FakeServer) -> None:
    """The server answers nobody before a thousand have asked."""
    server.gate = 1000
    tenant = {"model": "gated", "arrivals": {"kind": "closed", "users": 1000}, **ONE_TURN}
    records = await run(scenario(server.url, tenant, duration_s=0.1, drain_s=60))
    assert len(records) >= 1000
    assert {r.result for r in records} == {Result.OK}
