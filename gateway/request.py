"""A chat request, checked. What happens to parameters that are not fields here: gateway.parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import cached_property
from hashlib import blake2b
from typing import Annotated, ClassVar, NamedTuple, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.messages import Message, check_messages
from gateway.outcomes import Code, Refused
from gateway.parameters import BODY, STREAM_OPTIONS, Effort, Sieve, described, sifted
from gateway.response_format import ResponseFormat, schema_of
from gateway.tools import TOOLS_MAX, Tool, ToolChoice, ToolUse, tool_use
from gateway.validation import translated
from services.contracts.chats import Sampling, Task

MESSAGES_MAX = 2048
CHOICES_MAX = 8
MAX_TOKENS_MAX = 1_000_000
SEED_MAX = 2**63 - 1
STOPS_MAX = 16

SESSION = re.compile(r"[A-Za-z0-9._:@/-]{1,128}")


class StreamOptions(BaseModel):
    """What a stream contains."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra=described(STREAM_OPTIONS))

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


TokenId = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
StopText = Annotated[str, Field(min_length=1, max_length=256)]


class TemplateVariables(BaseModel):
    """What a chat template may be told, as vLLM has it. `thinking` is another family's name of `enable_thinking`."""

    model_config = ConfigDict(extra="ignore", strict=True)

    enable_thinking: bool | None = None
    thinking: bool | None = None


class Origin(NamedTuple):
    """What a request's fields do not say: names that no table has, and what another API means by it."""

    unknown: tuple[str, ...] = ()
    raws: tuple[str | Sequence[int], ...] = ()
    capped: bool = False
    prompt_logprobs: bool = False  # of the prompt's tokens, before the answer
    thinking_tokens_max: int | None = None
    system: str | None = None  # in place of the bot's
    says: str = ""  # what the answer is held to
    answered: bool = False  # the messages have what the answer is made of: no knowledge is added


CHAT_API = Origin()


class ChatRequest(BaseModel):
    """The body of POST /v1/chat/completions."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, json_schema_extra=described(BODY))

    model: Annotated[str, Field(min_length=1, max_length=160)]
    messages: Annotated[list[Message], Field(min_length=1, max_length=MESSAGES_MAX)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS_MAX)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS_MAX)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-SEED_MAX - 1, le=SEED_MAX)] | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=STOPS_MAX)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=MAX_TOKENS_MAX)] | None = None  # -1 and 0: all tokens
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] | None = None
    logit_bias: Annotated[dict[TokenId, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=300)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    min_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS_MAX)] | None = None
    ignore_eos: bool | None = None
    stop_token_ids: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=64)] | None = None
    n: Annotated[int, Field(ge=1, le=CHOICES_MAX)] | None = None
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
        ]
        | None
    ) = None
    tools: Annotated[list[Tool], Field(max_length=TOOLS_MAX)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: Effort | None = None
    chat_template_kwargs: TemplateVariables | None = None
    chat_id: str | int | None = None  # Open WebUI's name for the conversation
    _origin: ClassVar[Origin] = CHAT_API  # an instance has it in its __dict__: pydantic's private attributes are slow

    @property
    def unknown(self) -> tuple[str, ...]:
        """Names that the request had and the table of parameters has not."""
        return self._origin.unknown

    @property
    def raw(self) -> str | Sequence[int] | None:
        """What the model reads instead of the messages: a text or token ids, with no template and no system prompt."""
        return self._origin.raws[0] if self._origin.raws else None

    @property
    def raws(self) -> Sequence[str | Sequence[int]]:
        """Such texts that have an answer each, `n` of them where that is given."""
        return self._origin.raws

    @property
    def capped(self) -> bool:
        """Whether the answer may be shorter than `wanted_tokens` where the context leaves less."""
        return self._origin.capped

    @property
    def thinking_tokens_max(self) -> int | None:
        """How long the thoughts may be, if the client said. The bot's own bound holds beside it."""
        return self._origin.thinking_tokens_max

    @property
    def system(self) -> str | None:
        """The system prompt in place of the bot's, for what the host itself asks; None: the bot's."""
        return self._origin.system

    @property
    def says(self) -> str:
        """What the answer is held to, word for word; empty: the model answers."""
        return self._origin.says

    @property
    def answered(self) -> bool:
        """Whether the messages have what the answer is made of."""
        return self._origin.answered

    @property
    def asks_freely(self) -> bool:
        """Whether the request ends with a user's words, and leaves the answer free."""
        free = self.raw is None and not self.mentions_tools and self.answer_schema is None
        last = self.messages[-1]
        return free and not (self.answered or self.says) and last.role == "user" and bool(last.text.strip())

    def with_answer(self, messages: list[Message]) -> Self:
        """A copy with these messages, which have what the answer is made of."""
        copy = self.model_copy(update={"messages": messages})
        copy.__dict__["_origin"] = self._origin._replace(answered=True)
        return copy

    def saying(self, text: str) -> Self:
        """A copy whose answer is this text."""
        copy = self.model_copy()
        copy.__dict__["_origin"] = self._origin._replace(says=text)
        return copy

    def asked_elsewhere(
        self,
        *,
        raws: Sequence[str | Sequence[int]] = (),
        capped: bool = False,
        prompt_logprobs: bool = False,
        thinking_tokens_max: int | None = None,
        system: str | None = None,
    ) -> Self:
        """The same request, as another API means it."""
        self.__dict__["_origin"] = Origin(
            self._origin.unknown, tuple(raws), capped, prompt_logprobs, thinking_tokens_max, system
        )
        return self

    @property
    def tool_use(self) -> ToolUse | None:
        """How the answer may call tools; None where it may not. Raises Refused, unless `checked_chat` made it."""
        return None if self.tools is None and self.tool_choice is None else self._tool_use

    @cached_property
    def _tool_use(self) -> ToolUse | None:
        return tool_use(self.tools or (), self.tool_choice, self.parallel_tool_calls is not False)

    @property
    def answer_schema(self) -> Mapping[str, object] | None:
        """What the answer's text must match. Raises Refused, unless `checked_chat` made it."""
        return None if self.response_format is None else self._answer_schema

    @cached_property
    def _answer_schema(self) -> Mapping[str, object] | None:
        return schema_of(self.response_format)

    @property
    def mentions_tools(self) -> bool:
        """Whether the prompt has tools, calls or results in it."""
        return self.tool_use is not None or any(
            message.tool_calls or message.role == "tool" for message in self.messages
        )

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing to it but texts, and sampling as OpenAI's API has it."""
        sampling = self.sampling
        beyond = sampling != replace(Sampling(), **{name: getattr(sampling, name) for name in _EVERYWHERE})
        return (
            not self.says and self.raw is None and self.answer_schema is None and not self.mentions_tools and not beyond
        )

    @property
    def thinks(self) -> bool | None:
        """Whether the answer begins with thoughts, if the client said."""
        told = self.chat_template_kwargs
        for wanted in (told.enable_thinking, told.thinking) if told else ():
            if wanted is not None:
                return wanted
        return None if self.reasoning_effort is None else self.reasoning_effort != "none"

    @property
    def chars(self) -> int:
        """At least so many characters of the prompt come from the request."""
        shown = self.tool_use.shown if self.tool_use else ()
        tools = sum(
            len(orjson.dumps(tool.function.parameters)) + len(tool.function.description or "") for tool in shown
        )
        return tools + sum(message.chars for message in self.messages)

    @property
    def wanted_tokens(self) -> int | None:
        """What the answer may grow to, if the client said."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def sampling(self) -> Sampling:
        """The parameters that the client set. Engines take 31 bits of seed."""
        given = {
            name: value for name in self.model_fields_set & _SAMPLING if (value := getattr(self, name)) is not None
        }
        if isinstance(self.stop, str):
            given["stop"] = (self.stop,)
        if self.seed is not None:
            given["seed"] = self.seed & 0x7FFFFFFF
        if self.top_k is not None and self.top_k < 1:
            del given["top_k"]
        if self.logit_bias is not None:
            given["logit_bias"] = tuple((int(token), bias) for token, bias in self.logit_bias.items())
        if self.logprobs:
            given["top_logprobs"] = self.top_logprobs or 0
        else:
            given.pop("top_logprobs", None)
        if self._origin.prompt_logprobs:
            given["prompt_logprobs"] = True
        return Sampling(**given)

    @property
    def task(self) -> Task | None:
        """`metadata.task`, checked by `checked_chat`."""
        named = (self.metadata or {}).get("task")
        return Task(named) if named else None

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.continuous_usage_stats)

    @property
    def digest(self) -> str:
        """Of what is asked, not of how the answer is to be sent: equal when a client asks again."""
        asked = self.model_dump(exclude={"stream", "stream_options", "chat_id"}, exclude_none=True)
        asked["prompt_logprobs"] = self._origin.prompt_logprobs
        asked["raws"] = self._origin.raws
        asked["thinking_tokens_max"] = self._origin.thinking_tokens_max
        return blake2b(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS), digest_size=16).hexdigest()


_SAMPLING = frozenset(parameter.name for parameter in fields(Sampling) if parameter.name in ChatRequest.model_fields)
_EVERYWHERE = ("temperature", "top_p", "seed", "stop", "frequency_penalty", "presence_penalty")


def json_object(body: bytes, content_type: str | None) -> dict[str, object]:
    """A request's body. Raises Refused."""
    if content_type is not None and content_type.partition(";")[0].strip().lower() != "application/json":
        raise Refused(
            Code.CONTENT_TYPE, f"Content-Type must be application/json, not {content_type.partition(';')[0]!r}."
        )
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refused(Code.INVALID_JSON, f"The body is not valid JSON: {error}.") from None
    if not isinstance(value, dict):
        raise Refused(Code.INVALID_JSON, "The body must be a JSON object.")
    return value


def checked_chat(given: Mapping[str, object], *, strict: bool = False) -> ChatRequest:
    """A chat request from JSON that was read already. Raises Refused that names the first thing wrong."""
    sieve = Sieve(strict)
    try:
        request = ChatRequest.model_validate(sifted(given, sieve))
    except ValidationError as error:
        raise translated(error) from None
    _check_together(request)
    _ = request.tool_use, request.answer_schema
    if sieve.unknown or sieve.thinking_tokens_max:
        request.__dict__["_origin"] = Origin(tuple(sieve.unknown), thinking_tokens_max=sieve.thinking_tokens_max)
    return request


def session_of(request: ChatRequest, headers: tuple[str | None, ...]) -> str | None:
    """The conversation that a chat belongs to, where the client names one: headers first, then metadata.session, then
    chat_id, which is a hint: one that cannot name a session is ignored."""
    for named in (*headers, (request.metadata or {}).get("session")):
        if named:
            if not SESSION.fullmatch(named):
                raise Refused(
                    Code.INVALID_VALUE,
                    "A session is 1 to 128 letters, digits and . _ : @ / -",
                    param="metadata.session",
                )
            return named
    hint = str(request.chat_id or "")
    return hint if SESSION.fullmatch(hint) else None


def _check_together(request: ChatRequest) -> None:
    check_messages(request.messages)
    if request.max_tokens and request.max_completion_tokens and request.max_tokens != request.max_completion_tokens:
        raise Refused(
            Code.INVALID_VALUE, "max_tokens and max_completion_tokens differ; send one.", param="max_completion_tokens"
        )
    if request.top_logprobs and not request.logprobs:
        raise Refused(Code.INVALID_VALUE, "top_logprobs needs logprobs: true.", param="top_logprobs")
    if request.wanted_tokens is not None and (request.min_tokens or 0) > request.wanted_tokens:
        raise Refused(Code.INVALID_VALUE, "min_tokens is more than max_tokens.", param="min_tokens")
    if request.stream_options is not None and not request.stream:
        raise Refused(Code.INVALID_VALUE, "stream_options needs stream: true.", param="stream_options")
    named = (request.metadata or {}).get("task")
    if named and named not in set(Task):
        raise Refused(
            Code.INVALID_VALUE, f"metadata.task must be one of {', '.join(Task)}, not {named!r}.", param="metadata.task"
        )
