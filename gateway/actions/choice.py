"""The model decides, held to a JSON schema: which action a message asks for, if any, and with which arguments.

Each decision is an ordinary chat of the bot, admitted and billed as any other, with a system prompt of its own. It is
small: a model of 135 million parameters decides rightly between descriptions, while it cannot write a tool call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import orjson

from gateway.actions.catalog import Action, schema_of
from gateway.asking import ask_whole
from gateway.messages import Message
from gateway.request import ChatRequest
from gateway.response_format import ResponseFormat
from gateway.state import Gateway
from gateway.submit import Caller

NONE = "none"
CHOICE_TOKENS_MAX = 32
ARGUMENTS_TOKENS_MAX = 256
MESSAGES_MAX = 6  # of the conversation's end
MESSAGE_CHARS_MAX = 2000


@dataclass(frozen=True, slots=True)
class Decider:
    """Decisions for one message of one bot."""

    gateway: Gateway
    caller: Caller
    model: str  # the bot, as the request names it
    until_s: float  # on the event loop's clock; a decision that is not there by then raises TimeoutError

    async def choose(self, actions: Sequence[Action], messages: Sequence[Message]) -> Action | None:
        """The action that the last message asks for. Raises Refused, QueueUnavailable."""
        described = "\n".join(f"{action.name}: {action.config.description}" for action in actions)
        system = (
            "Decide what the customer's last message asks for. Answer with one word:\n"
            f"{described}\n{NONE}: Anything else."
        )
        names = [*(action.name for action in actions), NONE]
        schema: dict[str, object] = {
            "type": "object",
            "properties": {"do": {"enum": names}},
            "required": ["do"],
            "additionalProperties": False,
        }
        found = await self._answer(system, schema, messages, CHOICE_TOKENS_MAX)
        return next((action for action in actions if action.name == found.get("do")), None)

    async def arguments(self, action: Action, names: Sequence[str], messages: Sequence[Message]) -> dict[str, object]:
        """Values of some of its parameters. Raises Refused, QueueUnavailable."""
        chosen = {name: action.parameters[name] for name in names}
        schema = schema_of(chosen, action.required)
        system = (
            f"{action.config.description}\nAnswer with the arguments of this action as one JSON object, as the "
            f"customer's messages say them. It matches {orjson.dumps(schema).decode()}"
        )
        return await self._answer(system, schema, messages, ARGUMENTS_TOKENS_MAX)

    async def _answer(
        self, system: str, schema: dict[str, object], messages: Sequence[Message], tokens_max: int
    ) -> dict[str, object]:
        form = {"type": "json_schema", "json_schema": {"name": "decision", "schema": schema}}
        request = ChatRequest(
            model=self.model,
            messages=_end_of(messages),
            temperature=0.0,
            max_tokens=tokens_max,
            response_format=ResponseFormat.model_validate(form),
        ).asked_elsewhere(capped=True, system=system)
        try:
            value = orjson.loads(await self._said(request))
        except orjson.JSONDecodeError:  # it was cut at its longest
            return {}
        return value if isinstance(value, dict) else {}

    async def _said(self, request: ChatRequest) -> str:
        """The whole answer of one chat. Raises Refused, QueueUnavailable."""
        caller = replace(self.caller, idempotency_key=None, asked="", resumes=False)
        return (await ask_whole(self.gateway, caller, request, self.until_s)).text


def _end_of(messages: Sequence[Message]) -> list[Message]:
    """The conversation's end without what the client's system prompt says; long messages are cut."""
    spoken = [message for message in messages if message.role not in ("system", "developer")][-MESSAGES_MAX:]
    while len(spoken) > 1 and spoken[0].role != "user":  # templates want a user to begin
        spoken = spoken[1:]
    return [
        message.model_copy(update={"content": message.text[-MESSAGE_CHARS_MAX:], "reasoning_content": None})
        for message in spoken
    ]
