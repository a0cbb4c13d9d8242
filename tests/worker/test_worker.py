"""Chats through scheduler, Redis, worker and a real engine, also when context die under them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from services.contracts.chats import Sampling, Ticket
from services.contracts.replies import Finish, ReplyEntry
from services.store import redis_keys as keys
from services.store.work import ReplyPiece, WorkConsumer
from services.worker.engine_supervisor import EngineGone
from tests.worker.conftest import Bunk, pauses, running


async def _ledger(bunk: Bunk) -> int:
    return len(await bunk.desk.reservations()) + int(await bunk.connection.redis.xlen(keys.ready("m")))


async def test_a_chat_is_answered_with_true_counts(served: Bunk) -> None:
    chat = await served.submit("Say hello to a customer.", max_tokens=200)
    text, end = await served.answer(chat.chat)
    assert "hello" in text.lower()
    assert end.usage is not None
    assert (end.finish, end.usage.prompt_tokens) == (Finish.STOP, chat.prompt_tokens)
    # The end-of-turn token is counted, but has no text.
    assert end.usage.completion_tokens - len(served.tokenizer.encode(text)) in (0, 1)
    assert end.usage.kv_byte_seconds > 0
    assert 0 < (end.usage.first_token_s or 0) < (end.usage.ran_s or 0)
    assert await _ledger(served) == 0


async def test_the_end_names_the_stop_text_that_came(served: Bunk) -> None:
    whole, end = await served.answer((await served.submit("Say hello to a customer.")).chat)
    assert end.stop_text == ""
    word = whole.split()[3]
    sampling = Sampling(temperature=0.0, stop=("###", word))
    text, end = await served.answer((await served.submit("Say hello to a customer.", sampling=sampling)).chat)
    assert text == whole[: whole.index(word)]
    assert (end.finish, end.stop_text) == (Finish.STOP, word)


async def test_more_chats_than_slots_are_all_answered(served: Bunk) -> None:
    chats = [await served.submit(f"Say {n}.", max_tokens=6, tenant=("acme", "glob")[n % 2]) for n in range(9)]
    answers = await asyncio.gather(*(served.answer(chat.chat) for chat in chats))
    assert all(end.finish in (Finish.STOP, Finish.LENGTH) and text for text, end in answers)
    assert await _ledger(served) == 0


async def test_an_engine_killed_in_mid_answer_costs_no_token(served: Bunk) -> None:
    whole, _ = await served.answer((await served.submit("Count from 1 to 40.", max_tokens=48)).chat)
    chat = await served.submit("Count from 1 to 40.", max_tokens=48)
    await served.entries(chat.chat, until_text=8)
    served.engine_process().kill()
    entries = await served.entries(chat.chat)
    assert "".join(entry.text for entry in entries) == whole
    assert {entry.id.split("-")[0] for entry in entries if entry.kind == "text"} == {"1", "2"}
    end = entries[-1].end
    assert end is not None
    assert end.usage is not None
    assert end.usage.completion_tokens == sum(entry.tokens for entry in entries)
    assert await _ledger(served) == 0


async def test_a_cancelled_chat_frees_its_slot_and_is_billed_for_what_it_got(served: Bunk) -> None:
    chat = await served.submit("Tell me a long story.", max_tokens=400)
    await served.entries(chat.chat, until_text=3)
    assert await served.door.cancel(chat, keep_s=60, now_s=chat.created_s)
    _, end = await served.answer(chat.chat)
    assert end.finish is Finish.CANCELLED
    assert end.usage is not None
    assert 3 <= end.usage.completion_tokens < 400
    assert await _ledger(served) == 0


async def test_a_worker_that_stops_leaves_its_chats_to_the_next(bunk: Bunk) -> None:
    first = bunk.worker()
    serving = asyncio.create_task(first.run())
    chat = await bunk.submit("Count from 1 to 90.", max_tokens=120)
    await bunk.entries(chat.chat, until_text=5)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    async with running(bunk.worker()):
        entries = await bunk.entries(chat.chat)
    assert entries[-1].end is not None
    assert entries[-1].end.finish in (Finish.STOP, Finish.LENGTH)
    text = "".join(entry.text for entry in entries)
    assert text.count(" 7,") <= 1, f"a part was said twice: {text}"
    assert await _ledger(bunk) == 0


@pytest.fixture
def keeps_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers write down often what their chats have held: one that dies has done so since the last piece."""
    monkeypatch.setattr("services.worker.worker.KEEP_S", 0.05)


async def _left_by_a_worker(bunk: Bunk, max_tokens: int, *, told: bool = False) -> Ticket:
    """A chat with a part of its answer, which no worker has: its own died, or was told to stop and had no time."""
    worker = bunk.worker(drain_s=0.0)
    stopped, _ = pauses(worker, after=4)
    serving = asyncio.create_task(worker.run())
    chat = await bunk.submit("Count from 1 to 90.", max_tokens=max_tokens)
    await stopped.wait()
    await bunk.entries(chat.chat, until_text=1)
    if told:
        worker.stop()
    else:
        await asyncio.sleep(0.3)
        serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    return chat


@pytest.mark.usefixtures("keeps_often")
async def test_an_answer_that_was_whole_when_its_worker_died_is_billed(bunk: Bunk) -> None:
    chat = await _left_by_a_worker(bunk, max_tokens=120)
    work = WorkConsumer(bunk.connection, "m", "m@0")
    written = (await work.written(chat.chat)).tokens
    [(entry, _)] = await work.mine()
    claim = await work.claim(entry, chat.chat)
    assert claim is not None
    await work.write([ReplyPiece(chat.chat, claim.attempt, 1, " and so on", 120 - written)])
    async with running(bunk.worker()):
        text, end = await bunk.answer(chat.chat)
    assert text.endswith(" and so on")
    assert end.finish is Finish.LENGTH
    assert end.usage is not None
    assert (end.usage.prompt_tokens, end.usage.completion_tokens) == (chat.prompt_tokens, 120)
    assert end.usage.kv_byte_seconds > 0


@pytest.mark.usefixtures("keeps_often")
async def test_a_chat_cancelled_after_its_worker_died_is_billed_for_what_it_got(bunk: Bunk) -> None:
    chat = await _left_by_a_worker(bunk, max_tokens=120)
    assert await bunk.door.cancel(chat, keep_s=60, now_s=chat.created_s)
    async with running(bunk.worker()):
        entries = await bunk.entries(chat.chat)
    _billed_for_what_it_got(entries, Finish.CANCELLED)


async def test_a_chat_cancelled_while_no_worker_was_up_is_billed_for_what_it_got(bunk: Bunk) -> None:
    chat = await _left_by_a_worker(bunk, max_tokens=120, told=True)
    assert await bunk.door.cancel(chat, keep_s=60, now_s=chat.created_s)
    async with running(bunk.worker()):
        entries = await bunk.entries(chat.chat)
    _billed_for_what_it_got(entries, Finish.CANCELLED)


@pytest.mark.usefixtures("keeps_often")
async def test_a_chat_whose_engine_does_not_come_back_is_billed_for_what_it_got(
    bunk: Bunk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = await _left_by_a_worker(bunk, max_tokens=120)
    monkeypatch.setattr("services.worker.engine_supervisor.BACKOFF_S", (0.0, 0.1))
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF, but no more than that")
    with pytest.raises(EngineGone):
        await bunk.worker(weights=broken).run()
    entries = await bunk.entries(chat.chat)
    _billed_for_what_it_got(entries, Finish.ERROR)


async def test_chats_that_wait_for_a_model_that_does_not_start_are_ended(
    bunk: Bunk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They waited until their deadline."""
    waits = await bunk.submit("Hello")
    monkeypatch.setattr("services.worker.engine_supervisor.BACKOFF_S", (0.0, 0.1))
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF, but no more than that")
    with pytest.raises(EngineGone):
        await bunk.worker(weights=broken).run()
    end = (await bunk.entries(waits.chat))[-1].end
    assert end is not None
    assert end.error is not None
    assert end.error.code == "model_down"
    assert await bunk.door.given_up() == {"m"}
    async with running(bunk.worker()), asyncio.timeout(20):
        text = ""
        while not text:  # it takes the scheduler a second to see that the model is back
            text, _ = await bunk.answer((await bunk.submit("Say hello to a customer.")).chat)
    assert await bunk.door.given_up() == set()


def _billed_for_what_it_got(entries: list[ReplyEntry], finish: Finish) -> None:
    end = entries[-1].end
    assert end is not None
    assert end.finish is finish
    assert end.usage is not None
    assert end.usage.completion_tokens == sum(entry.tokens for entry in entries) >= 1
    assert end.usage.kv_byte_seconds > 0
