"""POST /v1/completions: a bot's model on a text as it is, with no chat template and no system prompt.

A bot has to allow it (`completions: true`), since it goes around what the bot's owner wrote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import orjson
from pydantic import ConfigDict, Field

from gateway.answers import DONE, FINISH_REASONS, event, facts, text_of, usage
from gateway.api.shapes import Shape, checked, refuse_mixed
from gateway.call import Call
from gateway.chats import answer, json_body
from gateway.outcomes import Code, Refused
from gateway.request import ChatRequest, checked_chat
from gateway.state import Gateway
from gateway.submit import served
from services.contracts.chats import Ticket
from services.contracts.replies import ReplyEnd, ReplyEntry

MAX_TOKENS = 16  # where a client names no limit, as OpenAI has it
LOGPROBS_MAX = 20
CHAT_STYLE = {
    "messages": "prompt",
    "max_completion_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "tools": "no tools",
    "input": "prompt",
}
NEUTRAL: Mapping[str, tuple[object, ...]] = {"suffix": (None, ""), "best_of": (None, 1), "n": (None, 1)}
TokenIds = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]


class CompletionsRequest(Shape):
    """The body of POST /v1/completions. Other parameters are those of a chat request."""

    model_config = ConfigDict(extra="allow")

    model: Annotated[str, Field(min_length=1, max_length=160)]
    prompt: str | TokenIds | Annotated[list[str], Field(min_length=1)] | Annotated[list[TokenIds], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=LOGPROBS_MAX)] | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """What is to be completed, each on its own."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        one = [token for token in self.prompt if isinstance(token, int)]
        return [one] if one else [prompt for prompt in self.prompt if not isinstance(prompt, int)]

    def chat(self, prompt: str | list[int]) -> dict[str, object]:
        """As a chat request has it, with the prompt in the place of its one message."""
        text = prompt if isinstance(prompt, str) else orjson.dumps(prompt).decode()
        found: dict[str, object] = {
            **(self.model_extra or {}),
            "model": self.model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": self.max_tokens or MAX_TOKENS,
        }
        return found if self.logprobs is None else {**found, "logprobs": True, "top_logprobs": self.logprobs}


def parsed(body: Mapping[str, object]) -> CompletionsRequest:
    """A checked request. Raises Refused."""
    refuse_mixed(body, "/v1/completions", CHAT_STYLE)
    for name, nothing in NEUTRAL.items():
        if body.get(name) not in nothing:
            raise Refused(Code.UNSUPPORTED_PARAMETER, f"{name} is not supported.", param=name)
    request = checked(CompletionsRequest, {name: value for name, value in body.items() if name not in NEUTRAL})
    if len(request.prompts) > 1:
        raise Refused(Code.UNSUPPORTED_PARAMETER, "prompt: send one prompt in a request.", param="prompt")
    return request


async def create(gateway: Gateway, call: Call) -> None:
    """POST /v1/completions. Raises Refused, QueueUnavailable, ClientGone."""
    request = parsed(await json_body(gateway, call))
    bot, _ = served(gateway, call.tenant or "", request.model)
    if not bot.config.completions:
        raise Refused(
            Code.UNSUPPORTED_PARAMETER,
            f"{bot.id} is a chat bot: use /v1/chat/completions. Its setting `completions` allows this endpoint.",
            param="model",
        )
    prompt = request.prompts[0]
    chat = checked_chat(request.chat(prompt), strict=gateway.config.gateway.strict).asked_elsewhere(raw=prompt)
    shown = gateway.prompts.text_of(bot, prompt) if request.echo else ""
    await answer(gateway, call, chat, lambda ticket: TextCompletion(ticket, chat, echo=shown))


class TextCompletion:
    """One answer. The offsets of its tokens are counted, so it lasts as long as its connection."""

    def __init__(self, ticket: Ticket, chat: ChatRequest, *, echo: str) -> None:
        self._base: dict[str, object] = {
            "id": "cmpl-" + ticket.chat.removeprefix("chatcmpl-"),
            "object": "text_completion",
            "created": int(ticket.created_s),
            "model": ticket.bot,
        }
        self._include_usage = chat.include_usage
        self._echo = echo
        self._offset = 0

    def start(self, entry_id: str) -> bytes:  # noqa: ARG002  (these events cannot be resumed)
        """The prompt, if it was asked for."""
        return self._chunk(self._choice(self._echo, [])) if self._echo else b""

    def entry(self, entry: ReplyEntry) -> bytes:
        """One event."""
        return self._chunk(self._choice(entry.text, [entry])) if entry.text or entry.logprobs else b""

    def tail(self, end: ReplyEnd) -> bytes:
        """Finish, usage if asked for, [DONE]."""
        last = self._chunk({**self._choice("", []), "finish_reason": FINISH_REASONS.get(end.finish, "stop")})
        if self._include_usage and end.usage is not None:
            last += event({**self._base, "choices": [], "usage": usage(end.usage)})
        return last + DONE

    def failed(self, refused: Refused) -> bytes:
        """OpenAI's error object, and the stream's end."""
        return event(refused.body()) + DONE

    def whole(self, entries: Sequence[ReplyEntry], end: ReplyEnd) -> bytes:
        """The `text_completion` object."""
        choice = self._choice(self._echo + text_of(entries), entries)
        choice["finish_reason"] = FINISH_REASONS.get(end.finish, "stop")
        used = usage(end.usage) if end.usage else None
        return orjson.dumps({**self._base, "choices": [choice], "usage": used, "bunkhouse": facts(end)})

    def _choice(self, text: str, entries: Sequence[ReplyEntry]) -> dict[str, object]:
        return {"index": 0, "text": text, "logprobs": self._logprobs(entries), "finish_reason": None}

    def _chunk(self, choice: dict[str, object]) -> bytes:
        body = {**self._base, "choices": [choice]}
        return event({**body, "usage": None} if self._include_usage else body)

    def _logprobs(self, entries: Sequence[ReplyEntry]) -> dict[str, object] | None:
        """Of these entries' tokens, as this API has them. None where nobody asked for them."""
        items = [item for entry in entries if entry.logprobs for item in orjson.loads(entry.logprobs)]
        if not items:
            return None
        offsets = []
        for item in items:
            offsets.append(self._offset)
            self._offset += len(item["token"])
        return {
            "tokens": [item["token"] for item in items],
            "token_logprobs": [item["logprob"] for item in items],
            "top_logprobs": [{top["token"]: top["logprob"] for top in item["top_logprobs"]} for item in items],
            "text_offset": offsets,
        }
