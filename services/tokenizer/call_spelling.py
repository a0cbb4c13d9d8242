"""How one chat template wants tool calls of earlier turns: templates refuse or drop what they do not expect.

The ways are tried on a short conversation until the call and its result come out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import product
from typing import Any

TemplateMessage = Mapping[str, Any]

SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")  # the only ids that Mistral's templates take
_IDS = ("call_trial0000000000000001", "call_trial0000000000000002")
_TOOL = {
    "type": "function",
    "function": {
        "name": "trial_tool",
        "description": "Trial.",
        "parameters": {"type": "object", "properties": {"key": {"type": "string", "description": "A key."}}},
    },
}
_ASKED: Sequence[TemplateMessage] = ({"role": "user", "content": "trial-asked"},)
_CALLED: Sequence[TemplateMessage] = (
    *_ASKED,
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "id": _id,
                "type": "function",
                "function": {"name": "trial_tool", "arguments": {"key": f"trial-{_id[-1]}"}},
            }
            for _id in _IDS
        ],
    },
    *(
        {"role": "tool", "tool_call_id": _id, "name": "trial_tool", "content": f"trial-result-{_id[-1]}"}
        for _id in _IDS
    ),
)
_TOLD = ("trial-asked", "trial_tool", "trial-1", "trial-2", "trial-result-1", "trial-result-2")


@dataclass(frozen=True, slots=True)
class CallSpelling:
    """What a template wants otherwise than OpenAI's API has it, arguments as objects apart."""

    one_call: bool = False  # a message may hold one call; its result follows it
    short_ids: bool = False
    null_content: bool = False  # a message that only calls has no content at all
    text_arguments: bool = False  # arguments stay JSON text

    def spelled(self, messages: Sequence[TemplateMessage]) -> list[TemplateMessage]:
        """The messages as the template wants them."""
        if self.one_call:
            messages = list(_one_by_one(messages))
        return [self._spelled(message) for message in messages]

    def _spelled(self, message: TemplateMessage) -> TemplateMessage:
        if self.short_ids and "tool_call_id" in message:
            message = {**message, "tool_call_id": _short(message["tool_call_id"])}
        if "tool_calls" not in message:
            return message
        changed = {**message, "tool_calls": [self._call(call) for call in message["tool_calls"]]}
        if self.null_content and not message["content"]:
            changed["content"] = None
        return changed

    def _call(self, call: TemplateMessage) -> TemplateMessage:
        function = call["function"]
        if self.text_arguments:
            function = {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}
        return {**call, "id": _short(call["id"]) if self.short_ids else call["id"], "function": function}


Render = Callable[[Sequence[TemplateMessage], Mapping[str, object]], str | None]


def spelling_of(render: Render) -> CallSpelling | None:
    """The first spelling that a template takes; None where it shows no tools or no calls. `render` gives None for what
    the template refuses."""
    shown = render(_ASKED, {"tools": [_TOOL]})
    if shown is None or "trial_tool" not in shown:
        return None
    for flags in product((False, True), repeat=4):
        spelling = CallSpelling(*reversed(flags))
        text = render(spelling.spelled(_CALLED), {"tools": [_TOOL]})
        if text is not None and all(word in text for word in _TOLD):
            return spelling
    return None


def _short(name: str) -> str:
    return name if SHORT_ID.fullmatch(name) else blake2b(name.encode(), digest_size=8).hexdigest()[:9]


def _one_by_one(messages: Sequence[TemplateMessage]) -> Iterator[TemplateMessage]:
    """Each call in a message of its own, followed by its result where it has one."""
    results = {message["tool_call_id"]: message for message in messages if message["role"] == "tool"}
    given: set[str] = set()
    for message in messages:
        calls = message.get("tool_calls", ())
        if len(calls) > 1:
            for place, call in enumerate(calls):
                yield {**message, "content": "" if place else message["content"], "tool_calls": [call]}
                if call["id"] in results:
                    given.add(call["id"])
                    yield results[call["id"]]
        elif message["role"] != "tool" or message["tool_call_id"] not in given:
            yield message
