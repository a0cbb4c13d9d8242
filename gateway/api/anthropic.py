"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's Messages API, its events, whole answers and errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import orjson

from gateway.answers import event
from gateway.api.anthropic_request import CountTokensRequest, parsed
from gateway.api.blocks import Block, Blocks, Step, StepKind, blocks_of
from gateway.api.shapes import checked
from gateway.call import Call
from gateway.chats import answer, json_body
from gateway.messages import arguments_of
from gateway.outcomes import Refused
from gateway.request import checked_chat
from gateway.state import Gateway
from gateway.submit import served
from services.contracts.chats import ChatUsage, Ticket
from services.contracts.replies import ContentKind, Finish, ReplyEnd, ReplyEntry

STOP_REASONS = {Finish.LENGTH: "max_tokens", Finish.TOOL_CALLS: "tool_use"}
ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
DELTAS = {
    ContentKind.CONTENT: ("text_delta", "text"),
    ContentKind.REASONING: ("thinking_delta", "thinking"),
    ContentKind.TOOL_CALL: ("input_json_delta", "partial_json"),
}


async def create(gateway: Gateway, call: Call) -> None:
    """POST /v1/messages. Raises Refused, QueueUnavailable, ClientGone."""
    request = parsed(await json_body(gateway, call))
    chat = checked_chat(request.chat(), strict=gateway.config.gateway.strict)
    chat.asked_elsewhere(capped=True, thinking_tokens_max=request.thinking_tokens_max)
    await answer(gateway, call, chat, MessagesAnswer)


async def count_tokens(gateway: Gateway, call: Call) -> None:
    """POST /v1/messages/count_tokens: what a chat's prompt would take. Raises Refused, QueueUnavailable, ClientGone."""
    request = checked(CountTokensRequest, await json_body(gateway, call))
    chat = checked_chat(request.chat(), strict=gateway.config.gateway.strict)
    bot, engine = served(gateway, call.tenant or "", chat.model)
    prompt = await gateway.prompts.prepare(bot, chat, engine)
    await call.respond_json({"input_tokens": prompt.tokens})


class MessagesAnswer:
    """One answer. Its blocks are numbered, so it lasts as long as its connection."""

    def __init__(self, ticket: Ticket) -> None:
        self._ticket = ticket
        self._blocks = Blocks()

    def start(self, entry_id: str) -> bytes:  # noqa: ARG002  (these events cannot be resumed)
        """The first events."""
        usage = {"input_tokens": self._ticket.prompt_tokens, "output_tokens": 0}
        message = self._message([], {"stop_reason": None, "stop_sequence": None}, usage)
        return _event("message_start", message=message) + _event("ping")

    def entry(self, entry: ReplyEntry) -> bytes:
        """The events of one entry with text."""
        return b"".join(_step(step) for step in self._blocks.feed(entry))

    def tail(self, end: ReplyEnd) -> bytes:
        """The events that close what is open, and the end of the message."""
        closing = b"".join(_step(step) for step in self._blocks.end())
        delta = _stop(end)
        usage = _usage(end.usage) if end.usage is not None else {"output_tokens": 0}
        return closing + _event("message_delta", delta=delta, usage=usage) + _event("message_stop")

    def failed(self, refused: Refused) -> bytes:
        """An error after the start."""
        return event(error_body(refused), name="error")

    def whole(self, entries: Sequence[ReplyEntry], end: ReplyEnd) -> bytes:
        """The answer to a request that does not stream."""
        blocks = [_block(block, block.text) for block in blocks_of(entries)]
        usage = _usage(end.usage) if end.usage is not None else {"input_tokens": 0, "output_tokens": 0}
        return orjson.dumps(self._message(blocks, _stop(end), usage))

    def _message(
        self, content: list[dict[str, object]], stop: Mapping[str, object], usage: Mapping[str, object]
    ) -> dict[str, object]:
        return {
            "id": "msg_" + self._ticket.chat.removeprefix("chatcmpl-"),
            "type": "message",
            "role": "assistant",
            "model": self._ticket.bot,
            "content": content,
            **stop,
            "usage": usage,
        }


def error_body(refused: Refused) -> bytes:
    """`{"type": "error", "error": {type, message}}`. The code and the parameter's name stand beside the message."""
    error = {
        "type": ERROR_TYPES.get(
            refused.row.status, "invalid_request_error" if refused.row.status < 500 else "api_error"
        ),
        "message": refused.message,
        "code": refused.code.value,
        "param": refused.param,
    }
    return orjson.dumps({"type": "error", "error": error})


def _stop(end: ReplyEnd) -> dict[str, object]:
    """Why the answer ended, and the stop sequence that ended it."""
    if end.finish is Finish.STOP and end.stop_text:
        return {"stop_reason": "stop_sequence", "stop_sequence": end.stop_text}
    return {"stop_reason": STOP_REASONS.get(end.finish, "end_turn"), "stop_sequence": None}


def _step(step: Step) -> bytes:
    index = step.block.index
    if step.kind is StepKind.OPENED:
        return _event("content_block_start", index=index, content_block=_block(step.block, ""))
    if step.kind is StepKind.GREW:
        kind, name = DELTAS[step.block.kind]
        return _event("content_block_delta", index=index, delta={"type": kind, name: step.text})
    return _event("content_block_stop", index=index)


def _block(block: Block, text: str) -> dict[str, object]:
    if block.kind is ContentKind.TOOL_CALL:
        return {"type": "tool_use", "id": block.call_id, "name": block.name, "input": arguments_of(text)}
    if block.kind is ContentKind.REASONING:
        return {"type": "thinking", "thinking": text, "signature": ""}
    return {"type": "text", "text": text}


def _usage(used: ChatUsage) -> dict[str, object]:
    return {
        "input_tokens": used.prompt_tokens - used.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": used.cached_tokens,
        "output_tokens": used.completion_tokens,
    }


def _event(name: str, /, **members: object) -> bytes:
    return event({"type": name, **members}, name=name)
