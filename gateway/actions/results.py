"""What actions found out, as messages of a conversation.

A model whose template has tools gets a call and its result. Another one gets the outcome as an answer of its own,
followed by the question again, twice: a model of 135 million parameters repeats it then (11 of 12 outcomes word
by word). Both are made harmless like any message: no control token is left in them (gateway.conversation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson
from pydantic import JsonValue

from gateway.messages import Message, MessageFunction, MessageToolCall
from gateway.request import ChatRequest
from services.store.action_calls import ActionOutcome

TIMES = 2


@dataclass(frozen=True, slots=True)
class ActionResult:
    """One call and what came of it."""

    action: str
    arguments: dict[str, JsonValue]
    outcome: ActionOutcome


def with_results(request: ChatRequest, results: Sequence[ActionResult], *, native: bool) -> ChatRequest:
    """The request with these results at its end; itself where there are none."""
    if not results:
        return request
    more = messages_of(results, _last_question(request.messages), native=native)
    return request.with_answer([*request.messages, *more])


def _last_question(messages: Sequence[Message]) -> str:
    return next((message.text for message in reversed(messages) if message.role == "user"), "")


def messages_of(results: Sequence[ActionResult], question: str, *, native: bool) -> list[Message]:
    """Messages that come behind the question."""
    if native:
        return [message for number, result in enumerate(results) for message in _called(number, result)]
    text = " ".join(result.outcome.text for result in results)
    return [Message(role="assistant", content=text), Message(role="user", content=question)] * TIMES


def _called(number: int, result: ActionResult) -> tuple[Message, Message]:
    function = MessageFunction(name=result.action or "lookup", arguments=orjson.dumps(result.arguments).decode())
    call = MessageToolCall(id=f"action{number:03d}", function=function)
    shown = {"status": result.outcome.status, "text": result.outcome.text, **result.outcome.shown}
    return (
        Message(role="assistant", content=None, tool_calls=[call]),
        Message(role="tool", content=orjson.dumps(shown).decode(), tool_call_id=call.id),
    )
