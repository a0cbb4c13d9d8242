"""One question of a bot's test set, through the chat path: knowledge, actions, prompt, scheduler, engine.

It is no conversation of a visitor, so weekly figures do not count it. It is not charged to the tenant's limits; usage
counts it as `tenant/bot#test`. It waits behind the tenant's other chats, and goes to no other provider.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from gateway.actions.loop import tried_with_actions
from gateway.asking import ask_whole
from gateway.outcomes import Code, Refused
from gateway.request import ChatRequest
from gateway.state import Gateway
from gateway.submit import BotTrial, Caller, served
from services.contracts.bot_tests import ANSWER_CHARS_MAX, TrialAnswer, TrialCall, TrialSource
from services.contracts.chats import KvBits

ANSWER_S_MAX = 110.0
SESSION_PREFIX = "test~"  # gateway.request.SESSION lets no client name a session so
SEED = 1


async def tried(
    gateway: Gateway, bot: str, messages: Sequence[Mapping[str, str]], kv_bits: int, request_id: str
) -> TrialAnswer:
    """Ask `tenant/bot`. Raises Refused, QueueUnavailable."""
    tenant = bot.partition("/")[0]
    until_s = asyncio.get_running_loop().time() + ANSWER_S_MAX
    trial = BotTrial(KvBits(kv_bits))
    caller = Caller.of(tenant, request_id, session=f"{SESSION_PREFIX}{request_id}", limited=False, trial=trial)
    request = ChatRequest.model_validate({"model": bot, "messages": messages, "temperature": 0.0, "seed": SEED})
    found, _ = served(gateway, tenant, bot)
    try:
        request, results = await tried_with_actions(gateway, caller, found, request)
        answer = await ask_whole(gateway, caller, request, until_s)
    except TimeoutError:
        raise Refused(Code.NO_NEWS, f"There was no answer within {ANSWER_S_MAX:.0f} s.") from None
    used = answer.end.usage
    return TrialAnswer(
        text=answer.text[:ANSWER_CHARS_MAX],
        finish=answer.end.finish.value,
        kv_bits=int(used.kv_bits) if used else kv_bits,
        missed=answer.ticket.missed,
        sources=tuple(TrialSource(title=title, url=url) for title, url in answer.ticket.sources),
        calls=tuple(
            TrialCall(action=one.action, arguments=one.arguments, status=one.outcome.status)
            for one in results
            if one.action
        ),
    )
