"""A chat request, checked. What happens to parameters that are not fields here: gateway.parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from hashlib import blake2b
from typing import Annotated, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from gateway.messages import Message
from gateway.outcomes import Code, Refused
from gateway.parameters import BODY, STREAM_OPTIONS, Sieve, described, sifted
from gateway.validation import translated
from services.contracts.chats import Sampling, Task

MESSAGES_MAX = 2048
MAX_TOKENS_MAX = 1_000_000
SEED_MAX = 2**63 - 1
STOPS_MAX = 16

SESSION = re.compile(r"[A-Za-z0-9._:@/-]{1,128}")


class StreamOptions(BaseModel):
    """What a stream contains."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra=described(STREAM_OPTIONS))

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


StopText = Annotated[str, Field(min_length=1, max_length=256)]


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
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
        ]
        | None
    ) = None
    chat_id: str | int | None = None  # Open WebUI's name for the conversation
    _unknown: tuple[str, ...] = PrivateAttr(())
    _raw: str | Sequence[int] | None = PrivateAttr(None)
    _capped: bool = PrivateAttr(False)

    @property
    def unknown(self) -> tuple[str, ...]:
        """Names that the request had and the table of parameters has not."""
        return self._unknown

    @property
    def raw(self) -> str | Sequence[int] | None:
        """What the model reads instead of the messages: a text or token ids, with no template and no system prompt."""
        return self._raw

    @property
    def capped(self) -> bool:
        """Whether the answer may be shorter than `wanted_tokens` where the context leaves less."""
        return self._capped

    def asked_elsewhere(self, *, raw: str | Sequence[int] | None = None, capped: bool = False) -> Self:
        """The same request, as another API means it."""
        self._raw, self._capped = raw, capped
        return self

    @property
    def wanted_tokens(self) -> int | None:
        """What the answer may grow to, if the client said."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def sampling(self) -> Sampling:
        """The parameters that the client set. Engines take 31 bits of seed."""
        given = {name: value for name in _SAMPLING if (value := getattr(self, name)) is not None}
        if isinstance(self.stop, str):
            given["stop"] = (self.stop,)
        if self.seed is not None:
            given["seed"] = self.seed & 0x7FFFFFFF
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
    def digest(self) -> str:
        """Of what is asked, not of how the answer is to be sent: equal when a client asks again."""
        asked = self.model_dump(exclude={"stream", "stream_options", "chat_id"}, exclude_none=True)
        return blake2b(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS), digest_size=16).hexdigest()


_SAMPLING = tuple(parameter.name for parameter in fields(Sampling) if parameter.name in ChatRequest.model_fields)


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
    request._unknown = tuple(sieve.unknown)
    return request


def session_of(request: ChatRequest, headers: tuple[str | None, ...]) -> str | None:
    """The conversation that a chat belongs to, where the client names one: headers first, then metadata.session, then
    chat_id, which is a hint: one that is no session's name is ignored."""
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
    if not any(message.text.strip() for message in request.messages):
        raise Refused(Code.INVALID_VALUE, "The messages contain no text.", param="messages")
    if request.max_tokens and request.max_completion_tokens and request.max_tokens != request.max_completion_tokens:
        raise Refused(
            Code.INVALID_VALUE, "max_tokens and max_completion_tokens differ; send one.", param="max_completion_tokens"
        )
    if request.stream_options is not None and not request.stream:
        raise Refused(Code.INVALID_VALUE, "stream_options needs stream: true.", param="stream_options")
    named = (request.metadata or {}).get("task")
    if named and named not in set(Task):
        raise Refused(
            Code.INVALID_VALUE, f"metadata.task must be one of {', '.join(Task)}, not {named!r}.", param="metadata.task"
        )
