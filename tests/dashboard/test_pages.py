"""What pages offer."""

from __future__ import annotations

import asyncio
import re
import time

import httpx
import pytest

from gateway.dashboard.playground import _Pace
from services.config.api_keys import ready_key
from services.contracts.bot_tests import BotQuestion, BotTestReport, JudgedQuestion, TrialAnswer, Verdict
from services.contracts.devices import CPU
from services.contracts.replies import ContentKind, Finish, ReplyEntry
from services.store.bot_tests import BotTestStore
from services.store.conversations import Conversation, ConversationStore, ConversationTurn
from services.store.jobs import Jobs, JobState
from services.store.usage_report import day_now, rows
from tests.browser.stage import SHAPES, staged

from .conftest import Operator


async def test_quality_is_offered_for_the_models_that_can_be_measured(operator: Operator) -> None:
    await operator.log_in()
    page = (await operator.http.get("/dashboard/jobs")).text
    offered = re.findall(r"<option>([^<]+)</option>", page)
    assert offered == [name for name, shape in SHAPES.items() if shape.engine == "llamacpp"]


async def test_why_proposals_were_dropped_can_be_read(operator: Operator) -> None:
    """A job that dropped all of them said that there is nothing to propose, and no more."""
    jobs = Jobs(operator.stage.connection)
    job = await jobs.create("autotune", "", {}, by="beat", now_s=0.0)
    attempt = await jobs.begin(job.id, 0.0)
    assert attempt is not None
    why = "qwen3-8b holds KV at 4 bits now, this policy promises 8."
    dropped = [{"bot": "alder-ash/shop", "why": why}]
    await attempt.end(JobState.SUCCEEDED, "done", 0.0, result={"proposals": [], "dropped": dropped, "changed": []})
    await operator.log_in()
    page = (await operator.http.get("/dashboard/jobs")).text
    assert "no proposals left: 1 dropped" in page
    [sheet] = re.findall(r'hx-get="([^"]+/proposals)"', page)
    shown = (await operator.http.get(sheet)).text
    assert "alder-ash/shop" in shown
    assert why in shown
    assert "/apply" not in shown


async def test_after_a_job_that_changed_bots_what_it_dropped_is_not_said_to_be_all(operator: Operator) -> None:
    jobs = Jobs(operator.stage.connection)
    job = await jobs.create("autotune", "", {"apply": True}, by="beat", now_s=0.0)
    attempt = await jobs.begin(job.id, 0.0)
    assert attempt is not None
    dropped = [{"bot": "alder-ash/shop", "why": "qwen3-8b holds KV at 4 bits now."}]
    bits = {"before": {"policy": "auto"}, "after": {"policy": "pressure"}}
    proposal = {"bot": "alder-ash/help", "model": "qwen3-8b", "why": "Memory is short.", **bits}
    result = {"proposals": [proposal], "dropped": dropped, "changed": ["alder-ash/help"]}
    await attempt.end(JobState.SUCCEEDED, "done", 0.0, result=result)
    await operator.log_in()
    shown = (await operator.http.get(f"/dashboard/jobs/{job.id}/proposals")).text
    assert "Changed: alder-ash/help." in shown
    assert "alder-ash/shop" in shown
    assert "All were dropped" not in shown
    assert "No KV bits to propose" not in shown
    assert "/apply" not in shown


async def test_a_report_of_a_test_set_says_what_was_wrong_at_which_bits(operator: Operator) -> None:
    jobs = Jobs(operator.stage.connection)
    job = await jobs.create("bot_test", "alder-ash/shop", {"bot": "alder-ash/shop"}, by="test", now_s=0.0)
    attempt = await jobs.begin(job.id, 0.0)
    assert attempt is not None
    question = BotQuestion(id="q1", ask=("Ship to <Norway>?",), must=("not yet",))
    wrong = Verdict(
        bits=4, wrong=("missing: not yet",), answer=TrialAnswer(text="Yes & soon.", finish="stop", kv_bits=4)
    )
    verdicts = (Verdict(bits=8), wrong)
    report = BotTestReport(
        job=job.id,
        bot="alder-ash/shop",
        at_s=0.0,
        bits=(8, 4),
        left_out={16: "qwen3-8b holds KV at 4, 8 bits now."},
        questions=(JudgedQuestion(question=question, verdicts=verdicts),),
    )
    await BotTestStore(operator.stage.connection).keep(report)
    result = {"bot": "alder-ash/shop", "questions": 1, "right": {"8": 1, "4": 0}, "differ": 1, "left_out": {}}
    await attempt.end(JobState.SUCCEEDED, "done", 0.0, result=result)
    await operator.log_in()
    page = (await operator.http.get("/dashboard/jobs")).text
    assert "Right: 8 bits 1 of 1, 4 bits 0 of 1; 1 question not the same at all bits" in page
    shown = (await operator.http.get(f"/dashboard/jobs/{job.id}/report")).text
    for text in ("Ship to &lt;Norway&gt;?", "8 bits right", "4 bits wrong", "missing: not yet", "Yes &amp; soon."):
        assert text in shown
    assert "16 bits were not tried: qwen3-8b holds KV at 4, 8 bits now." in shown
    file = await operator.http.get(f"/dashboard/jobs/{job.id}/report.json")
    assert BotTestReport.model_validate_json(file.content) == report


async def test_an_address_that_is_none_is_told_as_a_page(operator: Operator) -> None:
    for answer, status in (
        (await operator.http.get("/dashboard/nothing"), 404),
        (await operator.http.get("/dashboard/logout"), 405),
    ):
        assert answer.status_code == status
        assert "Something went wrong." in answer.text
        assert "content-security-policy" in answer.headers
    assert answer.headers["allow"] == "POST"


def requests_of(operator: Operator) -> dict[tuple[str, str, str], int]:
    """Requests that the gateway has counted, by route, status and outcome."""
    text = operator.stage.gateway.metrics.text().decode()
    found = re.findall(
        r'^bunkhouse_gateway_requests_total\{outcome="(\w+)",route="(\w+)",status="(\d+)"\} (\d+)', text, re.MULTILINE
    )
    return {(route, status, outcome): int(count) for outcome, route, status, count in found}


async def test_refused_pages_and_admin_calls_are_counted_as_refused(operator: Operator) -> None:
    await operator.http.get("/admin/v1/tenants")
    await operator.http.get("/admin/v1/nothing")
    await operator.log_in(key="bh-wrong")
    await operator.http.get("/dashboard/nothing")
    answer = await operator.http.get(f"/widget/v1/bhw-{'0' * 32}/config")
    assert "x-bunkhouse-outcome" not in answer.headers, "that header is between the applications of one gateway"
    assert requests_of(operator) == {
        ("admin", "401", "invalid_admin_key"): 1,
        ("admin", "404", "not_found"): 1,
        ("pages", "401", "invalid_api_key"): 1,
        ("pages", "404", "not_found"): 2,
    }


async def test_a_playground_chat_without_room_to_wait_reaches_usage(operator: Operator) -> None:
    await operator.log_in()
    operator.stage.gateway.submissions._bounds = (2000, 0)
    chat = {"bot": "globex/returns", "session": "playful-session", "messages": [{"role": "user", "content": "Hello"}]}
    answer = await operator.post("/dashboard/playground/chats", chat)
    assert answer.status_code == 429
    gateway = operator.stage.gateway
    today = day_now(gateway.clock())
    found = {row.bot: row.refused for row in await rows(gateway.connection, today, today)}
    assert found == {"globex/returns": {"tenant_queue_full": 1}}


async def test_a_viewer_stops_no_chat_and_changes_nothing(operator: Operator) -> None:
    await operator.log_in()
    chat = {"bot": "globex/returns", "session": "playful-session", "messages": [{"role": "user", "content": "crowd"}]}
    asked = (await operator.post("/dashboard/playground/chats", chat)).json()["chat"]
    admin = {"authorization": f"Bearer {operator.stage.secrets.admin_key}"}
    new = {"name": "guest", "role": "viewer"}
    made = await operator.http.post("/admin/v1/admins", json=new, headers=admin)
    await operator.log_in(key=made.json()["key"])
    for path in (f"playground/chats/{asked}/stop", "playground/chats", "jobs/new/autotune", "models/qwen3-8b/kv/4"):
        answer = await operator.post(f"/dashboard/{path}", chat)
        assert (answer.status_code, "needs the role operator" in answer.text) == (403, True), path
    info = await operator.stage.gateway.submissions.chat(asked)
    assert info is not None
    assert info.finish is not Finish.CANCELLED


async def test_a_tenants_session_is_not_taken_for_the_playgrounds(operator: Operator) -> None:
    await operator.log_in()
    key = ready_key("globex", operator.stage.secrets.pepper)
    headers = {"authorization": f"Bearer {key}", "x-bunkhouse-session": "playground-mine"}
    body = {"model": "returns", "messages": [{"role": "user", "content": "Hello"}]}
    answer = await operator.http.post("/v1/chat/completions", json=body, headers=headers)
    chat = answer.headers["x-bunkhouse-chat"]
    assert (await operator.http.get(f"/dashboard/playground/chats/{chat}")).status_code == 404


@pytest.mark.parametrize("device", [CPU, "gpu0"])
async def test_now_shows_only_the_devices_that_models_run_on(redis_url: str, device: str) -> None:
    """The configuration says a GPU, but the engines' own reports outrank it."""
    async with staged(redis_url, device=device) as stage, httpx.AsyncClient(base_url=stage.url, timeout=20.0) as http:
        await Operator(stage, http).log_in()
        async with asyncio.timeout(20):
            while len(await stage.gateway.submissions.engines()) < len(SHAPES):  # noqa: ASYNC110  (it is in Redis)
                await asyncio.sleep(0.01)
        page = (await http.get("/dashboard/parts/now")).text
    assert re.findall(r'id="memory-(\w+)"', page) == [device]
    assert re.findall(r'id="bandwidth-(\w+)"', page) == [device]
    assert "held of 24.0 GB<" in re.sub(r"\s+", " ", page)
    assert "1.0 TB/s" in page
    assert "not measured" not in page


async def test_a_form_above_its_bound_is_refused(operator: Operator) -> None:
    """It was cut off, so a field could lose its end."""
    answer = await operator.log_in("x" * 5000)
    assert answer.status_code == 413
    assert "4096 bytes" in answer.text


def test_the_playground_tells_thoughts_apart() -> None:
    pace = _Pace()
    thought = pace.told(ReplyEntry("1-1", "text", "Hm.", 1, content=ContentKind.REASONING))
    assert (b"event: thought\n" in thought, b"id: 1-1\n" in thought) == (True, True)
    assert b"event: message\n" in pace.told(ReplyEntry("1-2", "text", "Hello", 1))
    assert pace.told(ReplyEntry("1-3", "text", "{}", 1, content=ContentKind.TOOL_CALL)) == b""


async def test_figures_lead_from_a_declined_question_to_its_answer(operator: Operator) -> None:
    now_s = time.time()
    turns = (
        ConversationTurn(who="visitor", text="Ship to <Norway>?", at_s=now_s),
        ConversationTurn(who="bot", text="I do not know.", at_s=now_s, chat="c", finish="stop", missed=True),
    )
    talk = Conversation.new("alder-ash/shop", now_s).model_copy(update={"turns": turns})
    await ConversationStore(operator.stage.connection).save(talk, 30)
    await operator.log_in()
    page = (await operator.http.get("/dashboard/figures")).text
    assert "Ship to &lt;Norway&gt;?" in page
    assert 'href="/dashboard/knowledge?bot=alder-ash/shop&amp;question=Ship%20to%20%3CNorway%3E%3F"' in page
    assert f'href="/dashboard/conversations/alder-ash/shop/{talk.session}"' in page
    for name, text in (("faq.md", "Q: Ship to <Norway>?\nA:"), ("tests.yaml", "declined: false")):
        file = await operator.http.get(f"/dashboard/figures/{name}?bot=alder-ash/shop")
        assert text in file.text
        assert file.headers["content-disposition"] == f'attachment; filename="{name}"'
    assert (await operator.http.get("/dashboard/figures.json?bot=alder-ash/shop")).json()["unanswered"][0]["asked"] == 1
    assert (await operator.http.get("/dashboard/figures?bot=alder-ash/nobody")).status_code == 404
