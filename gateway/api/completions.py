"""POST /v1/completions: a bot's model on a text as it is, with no chat template and no system prompt.

A bot has to allow it (`completions: true`), since it goes around what the bot's owner wrote.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, TypedDict

import orjson
from pydantic import ConfigDict, Field

from gateway.answers import DONE, FINISH_REASONS, event, facts, usage
from gateway.api.shapes import Shape, checked, refuse_mixed
from gateway.call import Call
from gateway.chats import answer, json_body
from gateway.outcomes import Code, Refused
from gateway.request import CHOICES_MAX, checked_chat
from gateway.state import Gateway
from gateway.submit import served
from services.contracts.chats import Ticket
from services.contracts.replies import ContentKind, Finish, ReplyEnd, ReplyEntry

MAX_TOKENS = 16  # where a client names no limit, as OpenAI has it
LOGPROBS_MAX = 20
CHAT_STYLE = {
    "messages": "prompt",
    "max_completion_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "tools": "no tools",
    "response_format": "no response_format",
    "input": "prompt",
}
NEUTRAL: Mapping[str, tuple[object, ...]] = {"suffix": (None, ""), "best_of": (None, 1)}
TokenIds = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]


class _LogprobItem(TypedDict):
    """A member of `ReplyEntry.logprobs`. `logprob` is null for a prompt's first token."""

    token: str
    logprob: float | None
    top_logprobs: list[_LogprobItem]


class CompletionsRequest(Shape):
    """The body of POST /v1/completions. Other parameters are those of a chat request."""

    model_config = ConfigDict(extra="allow")

    model: Annotated[str, Field(min_length=1, max_length=160)]
    prompt: str | TokenIds | Annotated[list[str], Field(min_length=1)] | Annotated[list[TokenIds], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=0)] | None = None  # 0: only the prompt comes back
    n: Annotated[int, Field(ge=1, le=CHOICES_MAX)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=LOGPROBS_MAX)] | None = None

    @property
    def prompt_logprobs(self) -> bool:
        """Whether the prompt comes back with the probability of each token, as evaluations want it."""
        return bool(self.echo) and self.logprobs is not None

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
            "n": self.n,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": MAX_TOKENS if self.max_tokens is None else max(1, self.max_tokens),
        }
        return found if self.logprobs is None else {**found, "logprobs": True, "top_logprobs": self.logprobs}


def parsed(body: Mapping[str, object]) -> CompletionsRequest:
    """A checked request. Raises Refused."""
    refuse_mixed(body, "/v1/completions", CHAT_STYLE)
    for name, nothing in NEUTRAL.items():
        if body.get(name) not in nothing:
            raise Refused(Code.UNSUPPORTED_PARAMETER, f"{name} is not supported.", param=name)
    request = checked(CompletionsRequest, {name: value for name, value in body.items() if name not in NEUTRAL})
    if request.max_tokens == 0 and not request.echo:
        raise Refused(Code.INVALID_VALUE, "max_tokens: 0 needs echo: true.", param="max_tokens")
    if (choices := len(request.prompts) * (request.n or 1)) > CHOICES_MAX:
        raise Refused(
            Code.INVALID_VALUE,
            f"prompt: {choices} texts were asked for (prompts times n); {CHOICES_MAX} are possible in one request.",
            param="prompt",
        )
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
    if request.prompt_logprobs and not gateway.config.models[bot.config.model].kind.prompt_logprobs:
        raise Refused(
            Code.UNSUPPORTED_PARAMETER,
            "logprobs with echo: this bot's engine does not give the probabilities of a prompt's tokens.",
            param="logprobs",
        )
    prompts = request.prompts
    chat = checked_chat(request.chat(prompts[0]), strict=gateway.config.gateway.strict)
    chat.asked_elsewhere(raws=prompts, prompt_logprobs=request.prompt_logprobs)
    shown = [gateway.prompts.text_of(bot, prompt) if request.echo else "" for prompt in prompts]
    await answer(gateway, call, chat, lambda ticket: TextCompletion(ticket, request, shown, chat.include_usage))


class TextCompletion:
    """One answer: `n` texts for each prompt. It counts the offsets of tokens, so it lasts as long as its connection.

    `echoes`: what stands before the texts of each prompt.
    """

    def __init__(self, ticket: Ticket, request: CompletionsRequest, echoes: Sequence[str], include_usage: bool) -> None:
        self._base: dict[str, object] = {
            "id": "cmpl-" + ticket.chat.removeprefix("chatcmpl-"),
            "object": "text_completion",
            "created": int(ticket.created_s),
            "model": ticket.bot,
        }
        self._include_usage = include_usage
        each = [echo for echo in echoes for _ in range(request.n or 1)]
        self._texts = [_Text(index, request, echo) for index, echo in enumerate(each)]

    def start(self, entry_id: str) -> bytes:  # noqa: ARG002  (these events cannot be resumed)
        """The prompt, if it was asked for without its logprobs: with them it comes as an entry of its own."""
        return b"".join(
            self._chunk(text.choice(text.echo, [])) for text in self._texts if text.echo and not text.scored
        )

    def entry(self, entry: ReplyEntry) -> bytes:
        """One event."""
        text = self._texts[entry.choice]
        if entry.finish is not None:
            return self._chunk(text.choice("", [], entry.finish))
        shown = list(text.shown([entry]))
        return self._chunk(text.choice(text.said(shown), shown)) if shown else b""

    def tail(self, end: ReplyEnd) -> bytes:
        """Finish, unless each of several texts had its own, usage if asked for, [DONE]."""
        last = b"" if len(self._texts) > 1 else self._chunk(self._texts[0].choice("", [], end.finish))
        if self._include_usage and end.usage is not None:
            last += event({**self._base, "choices": [], "usage": usage(end.usage)})
        return last + DONE

    def failed(self, refused: Refused) -> bytes:
        """OpenAI's error object, and the stream's end."""
        return event(refused.body()) + DONE

    def whole(self, entries: Sequence[ReplyEntry], end: ReplyEnd) -> bytes:
        """The `text_completion` object."""
        choices = []
        for text in self._texts:
            own = [entry for entry in entries if entry.choice == text.index]
            finish = next((entry.finish for entry in own if entry.finish is not None), end.finish)
            shown = list(text.shown(own))
            said = text.said(shown) if text.scored else text.echo + text.said(shown)
            choices.append(text.choice(said, shown, finish))
        used = usage(end.usage) if end.usage else None
        return orjson.dumps({**self._base, "choices": choices, "usage": used, "bunkhouse": facts(end)})

    def _chunk(self, choice: Mapping[str, object]) -> bytes:
        body = {**self._base, "choices": [choice]}
        return event({**body, "usage": None} if self._include_usage else body)


class _Text:
    """One of an answer's texts. `scored`: the prompt comes with its logprobs."""

    def __init__(self, index: int, request: CompletionsRequest, echo: str) -> None:
        self.index = index
        self.echo = echo
        self.scored = request.prompt_logprobs
        self._prompt_shown = False
        self._prompt_alone = request.max_tokens == 0
        self._offset = 0

    def shown(self, entries: Iterable[ReplyEntry]) -> Iterator[ReplyEntry]:
        """The entries that belong to the answer: the prompt's once, though a second attempt may have it again."""
        for entry in entries:
            if entry.content is ContentKind.PROMPT:
                if self.scored and not self._prompt_shown:
                    self._prompt_shown = True
                    yield entry
            elif not self._prompt_alone and (entry.text or entry.logprobs):
                yield entry

    def said(self, entries: Sequence[ReplyEntry]) -> str:
        """Their text; the prompt's is the prompt."""
        return "".join(self.echo if entry.content is ContentKind.PROMPT else entry.text for entry in entries)

    def choice(self, text: str, entries: Sequence[ReplyEntry], finish: Finish | None = None) -> dict[str, object]:
        """OpenAI's object, of the whole or a part."""
        reason = None if finish is None else FINISH_REASONS.get(finish, "stop")
        return {"index": self.index, "text": text, "logprobs": self._logprobs(entries), "finish_reason": reason}

    def _logprobs(self, entries: Sequence[ReplyEntry]) -> dict[str, object] | None:
        """Of these entries' tokens, as this API has them. None where nobody asked for them."""
        items: list[_LogprobItem] = [item for entry in entries for item in orjson.loads(entry.logprobs or "[]")]
        if not items:
            return None
        offsets = []
        for item in items:
            offsets.append(self._offset)
            self._offset += len(item["token"])
        return {
            "tokens": [item["token"] for item in items],
            "token_logprobs": [item["logprob"] for item in items],
            "top_logprobs": [_top(item) for item in items],
            "text_offset": offsets,
        }


def _top(item: _LogprobItem) -> dict[str, float | None] | None:
    """The likeliest tokens in one's place. The first of a prompt has none, since nothing comes before it."""
    return None if item["logprob"] is None else {top["token"]: top["logprob"] for top in item["top_logprobs"]}
