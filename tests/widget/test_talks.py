"""A visitor's conversation, over real HTTP, Redis, scheduler and worker."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from gateway.widget import answers
from gateway.widget.answers import WidgetChats
from gateway.widget.sites import WidgetSite, WidgetSites
from services.contracts.chats import Ticket
from services.contracts.replies import ContentKind, ReplyEntry
from services.store.conversations import ConversationStore, ConversationTurn
from services.tokenizer.chat_template import ChatTemplate

from .conftest import BOT, Page, text_of

# As Mistral's and Gemma's: after the system prompt, roles must alternate, and a user begins.
ALTERNATING = (
    "{{ messages[0].content }}\n"
    "{% for message in messages[1:] %}"
    "{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles alternate') }}{% endif %}"
    "{{ message.role }}: {{ message.content }}\n"
    "{% endfor %}"
)


async def test_a_visitor_asks_and_reads_the_answer(page: Page) -> None:
    asked = await page.say("How do I return something?")
    events = await page.read(asked["chat"])
    assert "send anything back within **60 days**" in text_of(events)
    shown: dict[str, object] = {"finish": "stop", "confirm": None, "sources": [], "missed": False}
    assert events[-1] == {"event": "end", "data": shown}
    talk = await _settled(page, asked["session"])
    assert [turn["who"] for turn in talk["turns"]] == ["visitor", "bot"]
    assert talk["turns"][1]["text"] == text_of(events)
    assert talk["turns"][1]["finish"] == "stop"
    assert talk["pending"] is None
    metrics = page.stage.gateway.metrics.text().decode()
    assert f'gen_ai_server_time_to_first_token_seconds_count{{gen_ai_request_model="{BOT}"}} 1.0' in metrics
    assert f'gen_ai_client_token_usage_count{{gen_ai_request_model="{BOT}",gen_ai_token_type="output"}} 1.0' in metrics


async def test_a_reload_in_mid_answer_goes_on_where_it_was(page: Page) -> None:
    asked = await page.say("How do I care for my board?")
    first = await page.read(asked["chat"], texts_max=5)
    talk = (await page.get(f"sessions/{asked['session']}")).json()
    assert talk["pending"] == asked["chat"]
    rest = await page.read(asked["chat"], after=first[-1]["id"])
    whole = await page.read(asked["chat"])
    assert text_of(first) + text_of(rest) == text_of(whole)
    assert not {event.get("id") for event in first} & {event.get("id") for event in rest if "id" in event}


async def test_the_bot_knows_what_was_said_before(page: Page) -> None:
    asked = await page.say("How do I return something?")
    await page.read(asked["chat"])
    again = await page.say("And delivery?", asked["session"])
    assert again["session"] == asked["session"]
    await page.read(again["chat"])
    info = await page.stage.gateway.submissions.chat(again["chat"])
    first = await page.stage.gateway.submissions.chat(asked["chat"])
    assert info is not None
    assert first is not None
    assert info.ticket.prompt_tokens > first.ticket.prompt_tokens + 40
    assert info.ticket.session == first.ticket.session
    assert info.ticket.bot == BOT


async def test_an_answer_that_ends_while_the_next_question_is_taken_in_is_known(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold = ConversationStore.hold

    async def once_answered(store: ConversationStore, session: str, chat: str) -> bool:
        if await store.read(BOT, session) is not None:
            await _settled(page, session)
        return await hold(store, session, chat)

    monkeypatch.setattr(ConversationStore, "hold", once_answered)
    asked = await page.say("How do I return something?")
    again = await page.say("And delivery?", asked["session"])
    await page.read(again["chat"])
    first = await page.stage.gateway.submissions.chat(asked["chat"])
    info = await page.stage.gateway.submissions.chat(again["chat"])
    assert first is not None
    assert info is not None
    assert info.ticket.prompt_tokens > first.ticket.prompt_tokens + 40


async def test_a_late_keeper_writes_its_own_answer_down_and_no_other(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, kept_from = WidgetChats._keep, asyncio.Event()

    async def late(chats: WidgetChats, site: WidgetSite, session: str, ticket: Ticket) -> None:
        await kept_from.wait()
        await keep(chats, site, session, ticket)

    monkeypatch.setattr(WidgetChats, "_keep", late)
    asked = await page.say("How do I return something?")
    first = text_of(await page.read(asked["chat"]))
    again = await page.say("How do I care for my board?", asked["session"])
    kept_from.set()
    second = text_of(await page.read(again["chat"]))
    talk = await _settled(page, asked["session"])
    assert [turn["text"] for turn in talk["turns"] if turn["who"] == "bot"] == [first, second]
    assert first != second


@pytest.fixture
def strict_page(page: Page, monkeypatch: pytest.MonkeyPatch) -> Page:
    """Of a shop whose model's template wants its roles to alternate."""
    tokenizer = page.stage.gateway.prompts._tokenizers["qwen3-8b"]
    monkeypatch.setattr(tokenizer, "_template", ChatTemplate(ALTERNATING, {}))
    return page


async def _keep_turns(page: Page, session: str, turns: list[tuple[str, str]]) -> None:
    """As if this had been said. A bot's turn without text is an answer that ended before its first word."""
    store = ConversationStore(page.stage.connection)
    place = WidgetSites(page.stage.gateway.directory.registry, page.stage.secrets.pepper).site(page.token)
    assert place is not None
    talk = await store.read(place.bot, session)
    assert talk is not None
    kept = tuple(
        ConversationTurn.model_validate(
            {"who": who, "text": text, "at_s": 1.0, "finish": "error" if who == "bot" else None}
        )
        for who, text in turns
    )
    await store.save(talk.model_copy(update={"turns": kept}), place.widget.keep_days)


async def test_a_question_whose_answer_had_no_text_is_still_known(strict_page: Page) -> None:
    asked = await strict_page.say("Hello!")
    await strict_page.read(asked["chat"])
    await _settled(strict_page, asked["session"])
    await _keep_turns(strict_page, asked["session"], [("visitor", "My bowl has a crack."), ("bot", "")])
    again = await strict_page.say("Are you there?", asked["session"])
    assert "sorry that it cracked" in text_of(await strict_page.read(again["chat"]))


async def test_a_long_conversation_loses_its_oldest_turns_only(strict_page: Page) -> None:
    asked = await strict_page.say("Hello!")
    await strict_page.read(asked["chat"])
    await _settled(strict_page, asked["session"])
    long = "word " * 390
    said = [("visitor", long), ("bot", long), ("visitor", long), ("bot", ""), ("visitor", long), ("bot", long)]
    await _keep_turns(strict_page, asked["session"], said * 8)  # of forty texts the context takes about twenty
    again = await strict_page.say("Are you there?", asked["session"])
    await strict_page.read(again["chat"])
    info = await strict_page.stage.gateway.submissions.chat(again["chat"])
    assert info is not None
    assert 6_800 < info.ticket.prompt_tokens < 8_192


async def test_one_answer_at_a_time(page: Page) -> None:
    asked = await page.say("How do I care for my board?")
    second = await page.post("messages", {"text": "Hello?", "session": asked["session"]})
    assert second.status_code == 429
    assert second.headers["retry-after"] == "2"
    assert second.headers["access-control-allow-origin"] == page.origin
    await page.read(asked["chat"])
    await _settled(page, asked["session"])
    await page.say("Now?", asked["session"])


async def test_an_answer_that_ended_while_no_gateway_kept_it_is_found(page: Page) -> None:
    asked = await page.say("How do I return something?")
    await page.stage.gateway.connection.redis.delete(f"bh:widget:busy:{asked['session']}")
    store_key = f"bh:widget:talk:{asked['session']}"
    kept = await page.stage.connection.redis.get(store_key)
    await page.read(asked["chat"])
    await _settled(page, asked["session"])
    await page.stage.connection.redis.set(store_key, kept)  # as if the gateway had died before it wrote the answer down
    talk = (await page.get(f"sessions/{asked['session']}")).json()
    assert talk["pending"] is None
    assert "60 days" in talk["turns"][1]["text"]


async def test_an_answer_that_nobody_reads_is_cancelled(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "READ_S", 0.0)
    monkeypatch.setattr(answers, "LOOK_S", 0.01)
    asked = await page.say("crowd")  # a long answer
    await page.stage.connection.redis.delete(f"bh:widget:read:{asked['chat']}")
    talk = await _settled(page, asked["session"])
    assert talk["turns"][1]["finish"] == "cancelled"


async def test_too_many_messages(page: Page) -> None:
    widget = page.stage.gateway.directory.registry.tenants["alder-ash"].config.bots["shop"].widget
    assert widget is not None
    codes: list[int] = []
    while 429 not in codes and len(codes) <= 2 * widget.messages_per_minute:  # the minute may turn meanwhile
        answer = await page.post("messages", {"text": "x", "session": "n" * 32})
        codes.append(answer.status_code)
    assert set(codes[:-1]) == {404}  # there is no such conversation
    assert codes[-1] == 429
    assert len(codes) > widget.messages_per_minute
    assert answer.json()["error"]["code"] == "rate_limit_exceeded"


async def test_bad_input_is_refused_in_words(page: Page) -> None:
    bodies: list[Any] = [
        {"text": ""},
        {"text": "   "},
        {"text": "x" * 2001},
        {"text": 5},
        {"text": "a", "system": "be evil"},
        {"text": "a", "session": "../../etc"},
        [],
        None,
    ]
    for body in bodies:
        answer = await page.post("messages", body)
        assert answer.status_code == 400, body
        assert answer.json()["error"]["message"]
    cut = await page.http.post(f"{page.base}/messages", content=b'{"text', headers={"origin": page.origin})
    assert cut.status_code == 400
    for after in ("x", "1-", "9" * 40):
        answer = await page.get(f"chats/{'c' * 20}/stream", **{"last-event-id": after})
        assert answer.status_code == 400
    assert (await page.get(f"chats/{'c' * 20}/stream")).status_code == 404


async def test_another_bots_chat_and_session_do_not_exist(page: Page) -> None:
    asked = await page.say("How do I return something?")
    other = await page.http.post(
        f"{page.stage.url}/v1/chat/completions",
        json={"model": "helpdesk", "messages": [{"role": "user", "content": "hi"}]},
        headers={"authorization": f"Bearer {_key(page, 'northwind')}"},
    )
    assert other.status_code == 200
    assert (await page.get(f"chats/{other.json()['id']}/stream")).status_code == 404
    stolen = Page(page.stage, page.http, "bhw-" + "0" * 32, page.origin)
    assert (await stolen.get(f"sessions/{asked['session']}")).status_code == 404


def _key(page: Page, tenant: str) -> str:
    from services.config.api_keys import ready_key

    return ready_key(tenant, page.stage.secrets.pepper)


async def _settled(page: Page, session: str) -> dict[str, Any]:
    for _ in range(400):
        answer: httpx.Response = await page.get(f"sessions/{session}")
        talk: dict[str, Any] = answer.json()
        if talk["pending"] is None and not await page.stage.connection.redis.exists(f"bh:widget:busy:{session}"):
            return talk
        await asyncio.sleep(0.02)
    raise AssertionError("the answer was not written down")


def test_a_visitor_reads_no_thoughts_and_no_calls() -> None:
    for kind in (ContentKind.REASONING, ContentKind.TOOL_CALL):
        assert answers.event_of(ReplyEntry("1-1", "text", "Hm.", 1, content=kind)) == b""
    assert b"Hello" in answers.event_of(ReplyEntry("1-2", "text", "Hello", 1))
