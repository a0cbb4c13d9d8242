"""Schemas of the chat API's answers, which the token path builds from bytes."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from gateway.outcomes import Code


class Given(BaseModel):
    """A part of an answer: everything is always there unless it has a default."""

    model_config = ConfigDict(extra="forbid")


class Usage(Given):
    """Tokens of one chat."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[Literal["cached_tokens"], int]
    completion_tokens_details: dict[Literal["reasoning_tokens"], int]


class Facts(Given):
    """How this host served a chat."""

    served_by: str | None
    kv_bits: int | None
    queue_ms: float | None
    first_token_ms: float | None


class CalledFunction(Given):
    """What a bot calls. `arguments` is JSON, unless the model broke it."""

    name: str
    arguments: str


class ToolCall(Given):
    """A bot's call of one of the request's tools."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class AnswerMessage(Given):
    """The bot's answer. `content` is null where it only calls tools."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str = ""
    tool_calls: list[ToolCall] = []


class ListedLogprob(Given):
    """A token and its natural-log probability."""

    token: str
    logprob: float
    bytes: list[int] | None


class ContentLogprob(ListedLogprob):
    """A token of the answer, with those that were likeliest in its place."""

    top_logprobs: list[ListedLogprob]


class Logprobs(Given):
    """Of the tokens of `content`."""

    content: list[ContentLogprob]
    refusal: None


class Choice(Given):
    """One of the answers, of `n`."""

    index: int
    message: AnswerMessage
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class Completion(Given):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | None
    bunkhouse: Facts


class ReplyFailure(Given):
    """Why a chat failed."""

    code: str
    message: str


class Chat(Given):
    """The state of a chat. `completion` is set once it succeeded, `error` once it failed."""

    id: str
    object: Literal["chat"]
    created: int
    model: str
    session: str
    state: Literal["waiting", "ready", "running", "done"]
    attempt: int
    kv_bits: int | None
    queue_ms: float | None
    finish: Literal["stop", "length", "tool_calls", "cancelled", "error"] | None
    completion: Completion | None
    error: ReplyFailure | None = None


class ModelEntry(Given):
    """A bot of the key's tenant."""

    id: str
    object: Literal["model"]
    created: Literal[0]
    owned_by: str
    context_length: int | None
    kv_bits: list[int]


class ModelList(Given):
    """All bots of the key's tenant."""

    object: Literal["list"]
    data: list[ModelEntry]


class Health(Given):
    """The process runs."""

    status: Literal["ok"]


class KnowledgeReady(Given):
    """Bots that have their index, wait for it, or have none since it could not be built."""

    built: int
    building: int
    failed: int


class Ready(Given):
    """Whether chats can be served now, and what is missing."""

    ready: bool
    missing: list[Literal["draining", "redis", "registry", "scheduler", "models", "knowledge"]]
    models: dict[str, str]
    knowledge: KnowledgeReady | None = None


class Error(Given):
    """An error, in words and as a code."""

    message: str
    type: str
    param: str | None
    code: Code


class ErrorAnswer(Given):
    """Every refusal."""

    error: Error
