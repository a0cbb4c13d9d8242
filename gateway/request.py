"""What a chat request may say. Everything else is refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from hashlib import blake2b
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.outcomes import Code, Refused
from services.contracts.chats import Sampling, Task

MESSAGES_MAX = 2048
MAX_TOKENS_MAX = 1_000_000
SEED_MAX = 2**63 - 1

# Parameters of the OpenAI API that this host does not have, with the values that ask for nothing.
UNSUPPORTED: Mapping[str, tuple[object, ...]] = {
    "n": (None, 1),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "parallel_tool_calls": (None, True, False),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "logit_bias": (None, {}),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "reasoning_effort": (None,),
    "verbosity": (None,),
    "service_tier": (None, "auto", "default"),
    "store": (None, False),
    "ignore_eos": (None, False),
    "web_search_options": (None,),
    "prompt_cache_key": (None,),
    "prompt_cache_retention": (None,),
    "safety_identifier": (None,),
    # what engines understand, but only the host may set
    "cache_salt": (),
    "extra_key": (),
    "priority": (),
    "rid": (),
    "custom_params": (),
}
_INSIDE_MESSAGES: Mapping[str, tuple[object, ...]] = {
    "name": (None,),
    "tool_calls": (None, []),
    "tool_call_id": (None,),
    "function_call": (None,),
    "refusal": (None,),
    "audio": (None,),
    "annotations": (None, []),
    "reasoning_content": (None,),
}

SESSION = re.compile(r"[A-Za-z0-9._:@/-]{1,128}")


def _with(neutral: Mapping[str, tuple[object, ...]]) -> Callable[[dict[str, Any]], None]:
    """Says in a model's JSON schema which parameters are taken as long as they ask for nothing."""

    def extend(schema: dict[str, Any]) -> None:
        schema["properties"].update({name: {"enum": list(values)} for name, values in neutral.items() if values})

    return extend


class Part(BaseModel):
    """A piece of a message's content."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One message. `content` is text, or parts of text."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra=_with(_INSIDE_MESSAGES))

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[Part], Field(min_length=1, max_length=1024)]

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(BaseModel):
    """What a stream contains."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


StopText = Annotated[str, Field(min_length=1, max_length=256)]


class ChatRequest(BaseModel):
    """The body of POST /v1/chat/completions."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, json_schema_extra=_with(UNSUPPORTED))

    model: Annotated[str, Field(min_length=1, max_length=160)]
    messages: Annotated[list[Message], Field(min_length=1, max_length=MESSAGES_MAX)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS_MAX)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS_MAX)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-SEED_MAX - 1, le=SEED_MAX)] | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=4)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    user: Annotated[str, Field(max_length=512)] | None = None
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
        ]
        | None
    ) = None

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
        """`metadata.task`, checked by `parse_chat`."""
        named = (self.metadata or {}).get("task")
        return Task(named) if named else None

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def digest(self) -> str:
        """Of what is asked, not of how the answer is to be sent: equal when a client asks again."""
        asked = self.model_dump(exclude={"stream", "stream_options"}, exclude_none=True)
        return blake2b(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS), digest_size=16).hexdigest()


_SAMPLING = tuple(parameter.name for parameter in fields(Sampling) if parameter.name in ChatRequest.model_fields)


def parse_chat(body: bytes, content_type: str | None) -> ChatRequest:
    """A checked request. Raises Refused that names the first thing wrong."""
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
    _refuse_unsupported(value)
    try:
        request = ChatRequest.model_validate(value)
    except ValidationError as error:
        raise _translated(error) from None
    _check_together(request)
    return request


def session_of(request: ChatRequest, headers: tuple[str | None, ...]) -> str | None:
    """The conversation that a chat belongs to, where the client names one: headers first, then metadata.session."""
    for named in (*headers, (request.metadata or {}).get("session")):
        if named:
            if not SESSION.fullmatch(named):
                raise Refused(
                    Code.INVALID_VALUE,
                    "A session is 1 to 128 letters, digits and . _ : @ / -",
                    param="metadata.session",
                )
            return named
    return None


def _refuse_unsupported(value: dict[str, Any]) -> None:
    for name in [name for name in value if name in UNSUPPORTED]:
        if _asks_for_something(value.pop(name), UNSUPPORTED[name]):
            raise Refused(Code.UNSUPPORTED_PARAMETER, _unsupported_words(name), param=name)
    messages = value.get("messages")
    for place, message in enumerate(messages if isinstance(messages, list) else ()):
        if not isinstance(message, dict):
            continue
        for name in [name for name in message if name in _INSIDE_MESSAGES]:
            if _asks_for_something(message.pop(name), _INSIDE_MESSAGES[name]):
                where = f"messages[{place}].{name}"
                raise Refused(Code.UNSUPPORTED_PARAMETER, f"{where} is not supported.", param=where)


def _asks_for_something(value: object, neutral: tuple[object, ...]) -> bool:
    return not any(type(value) is type(nothing) and value == nothing for nothing in neutral)


def _unsupported_words(name: str) -> str:
    if name == "n":
        return "n: only one answer per request is supported."
    if not UNSUPPORTED[name]:
        return f"{name} is set by the host and cannot be set by a client."
    return f"{name} is not supported."


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


def _translated(error: ValidationError) -> Refused:
    """OpenAI's words for the most telling of pydantic's findings: of a union's branches, the one that fits furthest."""
    findings = error.errors(include_url=False, include_context=False)
    first = max(findings, key=lambda finding: (len(finding["loc"]), not finding["type"].endswith("_type")))
    location = [part for part in first["loc"] if not (isinstance(part, str) and _is_union_branch(part))]
    param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    kind = first["type"]
    if kind == "extra_forbidden":
        return Refused(Code.UNKNOWN_PARAMETER, f"Unknown parameter: {param}.", param=param)
    if kind == "missing":
        return Refused(Code.MISSING_PARAMETER, f"Missing required parameter: {param}.", param=param)
    if location[-1:] == ["type"] and "content" in location:
        return Refused(
            Code.UNSUPPORTED_PARAMETER, f"{param}: only parts of type 'text' are supported, no images.", param=param
        )
    if location[-1:] == ["role"] and first["input"] in ("tool", "function"):
        return Refused(Code.UNSUPPORTED_PARAMETER, f"{param}: tools are not supported.", param=param)
    return Refused(Code.INVALID_VALUE, f"{param}: {first['msg']} (got {_shown(first['input'])}).", param=param)


def _is_union_branch(part: str) -> bool:
    return part == "str" or part.startswith(("list[", "constrained-", "function-"))


def _shown(value: object) -> str:
    if isinstance(value, list | dict):  # as deep as a client likes
        return "a list" if isinstance(value, list) else "an object"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
