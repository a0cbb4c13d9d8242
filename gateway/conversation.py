"""A chat's messages as chat templates take them, made harmless: no control token of the model's is left in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import orjson

from gateway.messages import Message
from gateway.tools import ToolUse

Harmless = Callable[[str], str]
TemplateMessage = dict[str, object]


def conversation(system: str, messages: Sequence[Message], harmless: Harmless) -> list[TemplateMessage]:
    """With a bot's default system prompt before whatever the client calls system or developer.

    Calls keep OpenAI's form, with arguments as objects; results have the called tool's name.
    """
    names = _called(messages)
    return _with_system([_template_message(message, names, harmless) for message in messages], system)


def plain_messages(system: str, messages: Sequence[Message], harmless: Harmless) -> list[dict[str, str]]:
    """Roles and texts alone, as another provider gets them."""
    return [
        {"role": str(message["role"]), "content": str(message["content"])}
        for message in conversation(system, messages, harmless)
    ]


def flattened(
    system: str,
    messages: Sequence[Message],
    harmless: Harmless,
    use: ToolUse | None,
    schema: Mapping[str, object] | None = None,
) -> list[TemplateMessage]:
    """For a template that shows no tools: they are described in the system prompt, calls and results are text.
    `schema`: what an answer that calls nothing must match."""
    names = _called(messages)
    instructions = harmless("\n".join(_instructions(use, schema))) if use is not None else ""
    texts = [_flat(message, names, harmless) for message in messages]
    return _with_system(texts, "\n\n".join(filter(None, (system, instructions))))


def harmless_json(value: object, harmless: Harmless) -> object:
    """A JSON value with every string in it made harmless, keys included."""
    if isinstance(value, str):
        return harmless(value)
    if isinstance(value, dict):
        return {harmless(str(key)): harmless_json(item, harmless) for key, item in value.items()}
    if isinstance(value, list):
        return [harmless_json(item, harmless) for item in value]
    return value


def _called(messages: Sequence[Message]) -> Mapping[str, str]:
    """Names of tools by the id of their call, which results refer to."""
    return {call.id: call.function.name for message in messages for call in message.tool_calls or ()}


def _template_message(message: Message, names: Mapping[str, str], harmless: Harmless) -> TemplateMessage:
    role = "system" if message.role == "developer" else message.role
    found: TemplateMessage = {"role": role, "content": harmless(message.text)}
    if message.role == "tool" and message.tool_call_id is not None:
        found["tool_call_id"] = harmless(message.tool_call_id)
        found["name"] = names.get(message.tool_call_id, "")
    if message.role == "assistant" and message.reasoning_content:
        found["reasoning_content"] = harmless(message.reasoning_content)
    if message.tool_calls:
        found["tool_calls"] = [
            {
                "id": harmless(call.id),
                "type": "function",
                "function": {
                    "name": call.function.name,
                    "arguments": harmless_json(call.function.parsed, harmless),
                },
            }
            for call in message.tool_calls
        ]
    return found


def _flat(message: Message, names: Mapping[str, str], harmless: Harmless) -> TemplateMessage:
    text = message.text
    if message.role == "tool":
        name = names.get(message.tool_call_id or "", "")
        return {"role": "user", "content": harmless(f"Result of {name}:\n{text}" if name else f"Result:\n{text}")}
    if message.tool_calls:
        calls = [{"name": call.function.name, "arguments": call.function.parsed} for call in message.tool_calls]
        text = "\n".join(filter(None, (text, orjson.dumps({"tool_calls": calls}).decode())))
    return {"role": "system" if message.role == "developer" else message.role, "content": harmless(text)}


def _with_system(messages: list[TemplateMessage], system: str) -> list[TemplateMessage]:
    if not system:
        return messages
    if messages[0]["role"] != "system":
        return [{"role": "system", "content": system}, *messages]
    return [{"role": "system", "content": f"{system}\n\n{messages[0]['content']}"}, *messages[1:]]


def _instructions(use: ToolUse, schema: Mapping[str, object] | None) -> Iterator[str]:
    yield "You can call these tools:"
    for tool in use.shown:
        yield orjson.dumps(tool.rendered()["function"]).decode()
    call = '{"name": "tool name", "arguments": {}}'
    if use.required:
        yield f"Answer with a JSON list of calls: [{call}]"
        return
    yield "Answer with one JSON object."
    yield f'To call tools: {{"tool_calls": [{call}]}}'
    if schema is None:
        yield 'To answer the user: {"response": "your answer"}'
    else:
        yield f"To answer the user: an object that matches {orjson.dumps(schema).decode()}"
    yield "Results of tools come in messages that begin with `Result of`. Use them to answer the user."
