"""POST /v1/responses: OpenAI's Responses API, its events and whole answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import orjson

from gateway.answers import event, facts
from gateway.api.blocks import Block, Blocks, Step, StepKind, blocks_of
from gateway.api.responses_request import ResponsesRequest, parsed
from gateway.call import Call
from gateway.chats import answer, json_body
from gateway.outcomes import Refused
from gateway.request import checked_chat
from gateway.state import Gateway
from services.contracts.chats import ChatUsage, Ticket
from services.contracts.replies import ContentKind, Finish, ReplyEnd, ReplyEntry

PREFIXES = {ContentKind.CONTENT: "msg", ContentKind.REASONING: "rs", ContentKind.TOOL_CALL: "fc"}


async def create(gateway: Gateway, call: Call) -> None:
    """POST /v1/responses. Raises Refused, QueueUnavailable, ClientGone."""
    request = parsed(await json_body(gateway, call))
    chat = checked_chat(request.chat(), strict=gateway.config.gateway.strict)
    await answer(gateway, call, chat, lambda ticket: ResponsesAnswer(ticket, request))


class ResponsesAnswer:
    """One answer. Its events are numbered, so it lasts as long as its connection."""

    def __init__(self, ticket: Ticket, request: ResponsesRequest) -> None:
        self._suffix = ticket.chat.removeprefix("chatcmpl-")
        self._summarized = request.summarized
        self._base = _base(ticket, request, f"resp_{self._suffix}")
        self._blocks = Blocks()
        self._number = 0

    def start(self, entry_id: str) -> bytes:  # noqa: ARG002  (these events cannot be resumed)
        """The first events."""
        begun = self._response("in_progress", [])
        return self._event("response.created", response=begun) + self._event("response.in_progress", response=begun)

    def entry(self, entry: ReplyEntry) -> bytes:
        """The events of one entry with text."""
        return b"".join(self._step(step) for step in self._blocks.feed(entry))

    def tail(self, end: ReplyEnd) -> bytes:
        """The events that close what is open, and the whole response."""
        cut = end.finish is Finish.LENGTH
        closing = b"".join(self._step(step, cut=cut) for step in self._blocks.end())
        name = "response.incomplete" if cut else "response.completed"
        return closing + self._event(name, response=self._ended(self._blocks.all, end))

    def failed(self, refused: Refused) -> bytes:
        """An error after the start. Clients look for it in different places: as an event and in the response."""
        error = {"code": refused.code.value, "message": refused.message, "param": refused.param}
        failed = self._response("failed", self._items(self._blocks.all, cut=True))
        failed["error"] = {"code": refused.code.value, "message": refused.message}
        return self._event("error", **error, error={"type": refused.row.type, **error}) + self._event(
            "response.failed", response=failed
        )

    def whole(self, entries: Sequence[ReplyEntry], end: ReplyEnd) -> bytes:
        """The answer to a request that does not stream."""
        return orjson.dumps(self._ended(blocks_of(entries), end))

    def _step(self, step: Step, *, cut: bool = False) -> bytes:
        block = step.block
        place: dict[str, object] = {"item_id": self._id(block), "output_index": block.index}
        if step.kind is StepKind.OPENED:
            added = self._event(
                "response.output_item.added", output_index=block.index, item=self._item(block, "in_progress")
            )
            return added + self._part_event("added", block, place)
        if step.kind is StepKind.GREW:
            return self._text_event("delta", block, place, delta=step.text, logprobs=_logprobs(step.logprobs))
        name = "arguments" if block.kind is ContentKind.TOOL_CALL else "text"
        done = self._text_event("done", block, place, **{name: block.text}, logprobs=_logprobs(block.logprobs))
        status = "incomplete" if cut else "completed"
        return (
            done
            + self._part_event("done", block, place)
            + self._event("response.output_item.done", output_index=block.index, item=self._item(block, status))
        )

    def _text_event(self, what: str, block: Block, place: dict[str, object], **members: object) -> bytes:
        if block.kind is not ContentKind.CONTENT:
            members.pop("logprobs")
        if block.kind is ContentKind.TOOL_CALL:
            named = {"name": block.name} if what == "done" else {}
            return self._event(f"response.function_call_arguments.{what}", **place, **named, **members)
        if block.kind is ContentKind.CONTENT:
            return self._event(f"response.output_text.{what}", **place, content_index=0, **members)
        if self._summarized:
            return self._event(f"response.reasoning_summary_text.{what}", **place, summary_index=0, **members)
        return self._event(f"response.reasoning_text.{what}", **place, content_index=0, **members)

    def _part_event(self, what: str, block: Block, place: dict[str, object]) -> bytes:
        """Of the part that holds a block's text. Calls have none."""
        if block.kind is ContentKind.TOOL_CALL:
            return b""
        part = self._part(block)
        if block.kind is ContentKind.REASONING and self._summarized:
            return self._event(f"response.reasoning_summary_part.{what}", **place, summary_index=0, part=part)
        return self._event(f"response.content_part.{what}", **place, content_index=0, part=part)

    def _part(self, block: Block) -> dict[str, object]:
        if block.kind is ContentKind.CONTENT:
            logprobs = _logprobs(block.logprobs)
            return {"type": "output_text", "text": block.text, "annotations": [], "logprobs": logprobs}
        return {"type": "summary_text" if self._summarized else "reasoning_text", "text": block.text}

    def _item(self, block: Block, status: str) -> dict[str, object]:
        """One member of `output`. One that has just opened has no content yet."""
        item: dict[str, object] = {"id": self._id(block), "status": status}
        parts = [] if status == "in_progress" else [self._part(block)]
        if block.kind is ContentKind.TOOL_CALL:
            call = {"call_id": block.call_id, "name": block.name, "arguments": block.text}
            return {"type": "function_call", **item, **call}
        if block.kind is ContentKind.CONTENT:
            return {"type": "message", "role": "assistant", **item, "content": parts}
        if self._summarized:
            return {"type": "reasoning", **item, "summary": parts}
        return {"type": "reasoning", **item, "summary": [], "content": parts}

    def _items(self, blocks: Iterable[Block], *, cut: bool) -> list[dict[str, object]]:
        items = [self._item(block, "completed") for block in blocks]
        if items and cut:
            items[-1]["status"] = "incomplete"
        return items

    def _id(self, block: Block) -> str:
        return f"{PREFIXES[block.kind]}_{self._suffix}{block.index}"

    def _ended(self, blocks: Iterable[Block], end: ReplyEnd) -> dict[str, object]:
        cut = end.finish is Finish.LENGTH
        response = self._response("incomplete" if cut else "completed", self._items(blocks, cut=cut))
        if cut:
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        response["usage"] = _usage(end.usage) if end.usage is not None else None
        response["bunkhouse"] = facts(end)
        return response

    def _response(self, status: str, output: list[dict[str, object]]) -> dict[str, object]:
        return {**self._base, "status": status, "output": output}

    def _event(self, name: str, /, **members: object) -> bytes:
        data = {"type": name, "sequence_number": self._number, **members}
        self._number += 1
        return event(data, name=name)


def _base(ticket: Ticket, request: ResponsesRequest, response_id: str) -> dict[str, object]:
    """What does not change while an answer comes: most of it is the request's own."""
    given = request.model_dump(include={"tool_choice", "text", "reasoning"}, exclude_none=True, by_alias=True)
    reasoning = {"effort": None, "summary": None, **given.get("reasoning", {})}
    return {
        "id": response_id,
        "object": "response",
        "created_at": int(ticket.created_s),
        "model": ticket.bot,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "metadata": request.metadata or {},
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": reasoning,
        "store": False,
        "temperature": request.temperature if request.temperature is not None else 1.0,
        "text": {"format": {"type": "text"}} | given.get("text", {}),
        "tool_choice": given.get("tool_choice", "auto"),
        "tools": request.tools or [],
        "top_p": request.top_p if request.top_p is not None else 1.0,
        "truncation": request.truncation or "disabled",
        "usage": None,
    }


def _usage(used: ChatUsage) -> dict[str, object]:
    return {
        "input_tokens": used.prompt_tokens,
        "input_tokens_details": {"cached_tokens": used.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": used.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": used.reasoning_tokens},
        "total_tokens": used.prompt_tokens + used.completion_tokens,
    }


def _logprobs(given: str) -> object:
    return orjson.Fragment(given) if given else []
