"""Bots' test sets: kept, and one question tried. The job `bot_test` runs them all (services/jobs/bot_test.py)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Query, Response
from pydantic import Field

from gateway.admin.auth import Operator, Viewer
from gateway.admin.common import Host, bot_of, note, noted, routes
from gateway.admin.errors import AdminError, BadValue
from gateway.admin.schemas import RequestBody
from gateway.outcomes import Refused
from gateway.trials import tried
from services.config.schema import Bits
from services.contracts.bot_tests import TURNS_MAX, BotQuestions, TrialAnswer, as_csv, as_yaml
from services.store.bot_tests import BotTestStore
from services.store.registry_edit import read_registry

router = routes("bot tests")


class TrialMessage(RequestBody):
    """One turn of a test's conversation."""

    role: Literal["user", "assistant"]
    content: Annotated[str, Field(max_length=20_000)]


class TrialNew(RequestBody):
    """A question to try at some KV bits: the last message, after what was said before."""

    messages: Annotated[list[TrialMessage], Field(min_length=1, max_length=2 * TURNS_MAX)]
    kv_bits: Bits


class TrialRefused(AdminError):
    """The chat was refused; the error has the chat API's status and code."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.message, param=refused.param, code=refused.code.value)
        self.status = refused.row.status


@router.get(
    "/bots/{tenant}/{bot}/tests",
    response_model=BotQuestions,
    responses={200: {"content": {"application/yaml": {}, "text/csv": {}}}},
)
async def show(
    tenant: str,
    bot: str,
    host: Host,
    _: Viewer,
    format: Annotated[Literal["json", "yaml", "csv"], Query()] = "json",
) -> Any:
    """A bot's test set."""
    bot_of(await read_registry(host.connection), tenant, bot)
    found = await BotTestStore(host.connection).questions(f"{tenant}/{bot}")
    if format == "yaml":
        return Response(as_yaml(found), media_type="application/yaml")
    return Response(as_csv(found), media_type="text/csv") if format == "csv" else found


@router.put("/bots/{tenant}/{bot}/tests")
async def put(tenant: str, bot: str, questions: BotQuestions, host: Host, actor: Operator) -> BotQuestions:
    """Keep a test set in place of the former one."""
    found = bot_of(await read_registry(host.connection), tenant, bot)
    for question in questions.questions:
        if question.action not in ("", "none", *found.actions):
            raise BadValue(f"{question.id}: {tenant}/{bot} has no action {question.action!r}.", param="questions")
    await BotTestStore(host.connection).replace(f"{tenant}/{bot}", questions)
    after = {"questions": len(questions.questions)}
    await noted(host, note(host, actor, "tests.replace", f"{tenant}/{bot}", after=after))
    return questions


@router.post("/bots/{tenant}/{bot}/try")
async def try_question(tenant: str, bot: str, asked: TrialNew, host: Host, actor: Operator) -> TrialAnswer:
    """Ask one question as a test: at these KV bits and temperature 0. Actions that change something are not called."""
    bot_of(await read_registry(host.connection), tenant, bot)
    messages = [message.model_dump() for message in asked.messages]
    if messages[-1]["role"] != "user":
        raise BadValue("The last message must be the user's.", param="messages")
    try:
        return await tried(host, f"{tenant}/{bot}", messages, asked.kv_bits, actor.request)
    except Refused as refused:
        raise TrialRefused(refused) from None
