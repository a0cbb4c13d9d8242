"""What the document says of the other APIs: Responses, Messages, completions and tokenize."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from gateway.api.anthropic_request import CountTokensRequest, MessagesRequest
from gateway.api.completions import CompletionsRequest
from gateway.api.responses_request import ITEMS, FunctionTool, ResponsesRequest
from gateway.api.tokenize import TokenizeRequest
from gateway.openapi.answers import Facts, Given, Usage
from gateway.openapi.operations import BAD_CHAT, KEY, asking, json_of, operation
from gateway.outcomes import Code


class Tokens(Given):
    """What a prompt is made of. `tokens` is null where only the engine knows the ids, and `note` says so."""

    count: int
    max_model_len: int
    tokens: list[int] | None
    token_strs: None
    note: str | None = None


class TextLogprobs(Given):
    """Of the tokens of `text`."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(Given):
    """The one text."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"]


class TextAnswer(Given):
    """A whole answer of /v1/completions."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage | None
    bunkhouse: Facts


class OutputItem(BaseModel):
    """Thoughts, a message or a tool call."""

    model_config = ConfigDict(extra="allow")

    type: Literal["reasoning", "message", "function_call"]
    id: str
    status: Literal["completed", "incomplete"]


class ResponsesUsage(Given):
    """Tokens of one response."""

    input_tokens: int
    input_tokens_details: dict[Literal["cached_tokens", "cache_write_tokens"], int]
    output_tokens: int
    output_tokens_details: dict[Literal["reasoning_tokens"], int]
    total_tokens: int


class ResponseAnswer(BaseModel):
    """A whole answer of /v1/responses; beside these members, what the request set."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: Literal["response"]
    created_at: int
    model: str
    status: Literal["completed", "incomplete"]
    output: list[OutputItem]
    usage: ResponsesUsage | None
    error: None
    bunkhouse: Facts


class ContentBlock(BaseModel):
    """Thoughts, text or a tool call."""

    model_config = ConfigDict(extra="allow")

    type: Literal["thinking", "text", "tool_use"]


class MessageUsage(Given):
    """Tokens of one message."""

    input_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    output_tokens: int


class MessageAnswer(Given):
    """A whole answer of /v1/messages."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[ContentBlock]
    stop_reason: Literal["end_turn", "max_tokens", "tool_use"]
    stop_sequence: None
    usage: MessageUsage


class CountedTokens(Given):
    """What a message's prompt takes."""

    input_tokens: int


class MessageError(Given):
    """An error, in words and as Anthropic and this host call it."""

    type: str
    message: str
    code: Code
    param: str | None


class MessageErrorAnswer(Given):
    """Every refusal of /v1/messages."""

    type: Literal["error"]
    error: MessageError


SCHEMAS: tuple[type[BaseModel], ...] = (
    *(CompletionsRequest, TextAnswer, TokenizeRequest, Tokens),
    *(ResponsesRequest, FunctionTool, *ITEMS.values(), ResponseAnswer),
    *(MessagesRequest, CountTokensRequest, MessageAnswer, CountedTokens, MessageErrorAnswer),
)
PATHS: Mapping[str, Any] = {
    "/v1/responses": {
        "post": asking(
            "Ask for a response",
            "OpenAI's Responses API, without state: nothing is stored, and what refers to a stored response is refused "
            "by name. Tools are functions that the client runs.",
            body="ResponsesRequest",
            answer="ResponseAnswer",
            events="One event of OpenAI's Responses API. The last is `response.completed`, `response.incomplete` or "
            "`response.failed`.",
        )
    },
    "/v1/messages": {
        "post": asking(
            "Ask for a message",
            "Anthropic's Messages API. The key comes as `x-api-key` or as a bearer token. An answer may be shorter "
            "than `max_tokens` where the bot's context leaves less. Images and documents are refused by name.",
            body="MessagesRequest",
            answer="MessageAnswer",
            events="One event of Anthropic's Messages API. `message_stop` or `error` is the last.",
            error="MessageErrorAnswer",
        )
    },
    "/v1/messages/count_tokens": {
        "post": operation(
            "Count a message's tokens",
            "What /v1/messages would count as its input. Nothing is generated, and no limit is charged.",
            json_of("CountedTokens"),
            [*KEY, *BAD_CHAT],
            body="CountTokensRequest",
            error="MessageErrorAnswer",
        )
    },
    "/v1/completions": {
        "post": asking(
            "Complete a text",
            "OpenAI's completions API: the bot's model on a text as it is, with no chat template and no system prompt. "
            "A bot has to allow it.",
            body="CompletionsRequest",
            answer="TextAnswer",
            events="One event. `data` is OpenAI's `text_completion` object, `[DONE]` last. An error after the start is "
            "an event with `error`, as in ErrorAnswer.",
        )
    },
    "/tokenize": {
        "post": operation(
            "Count tokens",
            "The tokens of `prompt`, or of `messages` as the bot's model reads them: with the bot's system prompt, "
            "and with what else a chat request has. Nothing is generated, and no limit is charged.",
            json_of("Tokens"),
            [*KEY, *BAD_CHAT],
            body="TokenizeRequest",
        )
    },
}
