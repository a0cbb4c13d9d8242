"""A bot's weekly figures, and its unanswered questions grouped: to read, or as drafts of FAQ pairs and tests."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import Query, Response

from gateway.admin.auth import Viewer
from gateway.admin.common import Host, bot_of, routes
from gateway.admin.schemas import ResponseBody
from gateway.figures import UnansweredGroup, WeekFigures, begin_of, groups_of, unanswered_in, weekly, weeks_until
from gateway.state import Gateway
from services.contracts.bot_tests import QUESTIONS_MAX, BotQuestion, BotQuestions, as_yaml
from services.store.conversation_index import ConversationIndex
from services.store.conversations import Conversation
from services.store.registry_edit import read_registry

CONVERSATIONS_MAX = 10_000  # that one request reads, the latest
LAST_S = 1e11
ASK_CHARS_MAX = 2000
Weeks = Annotated[int, Query(ge=1, le=52, description="How many weeks, this one included.")]

router = routes("figures")


class BotFigures(ResponseBody):
    """Weeks, the newest first. `whole`: no conversation of these weeks was left out."""

    bot: str
    weeks: list[WeekFigures]
    whole: bool = True
    unanswered: list[UnansweredGroup]


@router.get("/bots/{tenant}/{bot}/figures")
async def figures(tenant: str, bot: str, host: Host, _: Viewer, weeks: Weeks = 4) -> BotFigures:
    """Conversations by week: answered by the bot alone, handed over, declined, rated; and unanswered questions."""
    found, whole = await _conversations(host, tenant, bot, weeks)
    groups = await _groups(found)
    return BotFigures(
        bot=f"{tenant}/{bot}", weeks=weekly(found, weeks_until(host.clock(), weeks)), whole=whole, unanswered=groups
    )


@router.get(
    "/bots/{tenant}/{bot}/unanswered",
    response_model=list[UnansweredGroup],
    responses={200: {"content": {"application/yaml": {}, "text/markdown": {}}}},
)
async def unanswered(
    tenant: str,
    bot: str,
    host: Host,
    _: Viewer,
    weeks: Weeks = 4,
    format: Annotated[Literal["json", "faq", "tests"], Query()] = "json",
) -> Any:
    """Unanswered questions, similar ones together. `faq`: a draft to fill in and add to the bot's knowledge; `tests`: a
    draft of a test set, which wants none of them declined."""
    found, _whole = await _conversations(host, tenant, bot, weeks)
    groups = await _groups(found)
    if format == "json":
        return groups
    body, kind, name = (
        (draft_of_faq(groups), "text/markdown", "faq.md")
        if format == "faq"
        else (draft_of_tests(groups), "application/yaml", "tests.yaml")
    )
    return Response(body, media_type=kind, headers={"content-disposition": f'attachment; filename="{name}"'})


async def _conversations(host: Gateway, tenant: str, bot: str, weeks: int) -> tuple[list[Conversation], bool]:
    """Those that began in these weeks, and whether they are all. Raises NotFound."""
    bot_of(await read_registry(host.connection), tenant, bot)
    since_s, seen = begin_of(weeks_until(host.clock(), weeks)[-1]), 0
    found: list[Conversation] = []
    async for each in ConversationIndex(host.connection).of_bot(f"{tenant}/{bot}", LAST_S):
        seen += 1
        if each.at_s < since_s:
            break
        if seen > CONVERSATIONS_MAX:
            return found, False
        if each.conversation.began_s >= since_s and each.conversation.turns:
            found.append(each.conversation)
    return found, True


async def _groups(found: list[Conversation]) -> list[UnansweredGroup]:
    return await asyncio.to_thread(groups_of, [one for each in found for one in unanswered_in(each)])


def draft_of_faq(groups: list[UnansweredGroup]) -> str:
    """FAQ pairs as knowledge reads them, with answers to be written."""
    lines = ["Fill in the answers, and delete what you do not need.", ""]
    for group in groups:
        lines += [f"Q: {group.question}", "A: ", ""]
    return "\n".join(lines)


def draft_of_tests(groups: list[UnansweredGroup]) -> str:
    """Questions that the bot must not decline any more."""
    questions = tuple(
        BotQuestion(id=f"q{number}", ask=(group.question[:ASK_CHARS_MAX],), declined=False)
        for number, group in enumerate(groups[:QUESTIONS_MAX], 1)
    )
    return as_yaml(BotQuestions(questions=questions))
