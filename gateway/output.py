"""The form of an answer: how it may call tools, and the JSON schema that a constrained one must match."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from gateway.json_schemas import Budget, Schema, enforceable
from gateway.outcomes import Code, Refused
from gateway.tools import ToolUse
from services.contracts.chats import OutputFormat, ToolFormat


def output_format(
    use: ToolUse | None, schema: Mapping[str, object] | None, *, native: bool, whole: bool
) -> OutputFormat:
    """`schema`: what text must match. `native`: the model's own template describes the tools. `whole`: nobody reads the
    answer before its end. Raises Refused for tools whose parameters are too large to be enforced."""
    if use is None:
        return OutputFormat(json_schema=_text_of(schema), whole=whole)
    if use.required:
        return OutputFormat(ToolFormat.CALLS, json_schema=_text_of(calls_schema(use)), whole=whole)
    if native:
        return OutputFormat(ToolFormat.FAMILY, use.parameter_types, whole=whole)
    return OutputFormat(ToolFormat.CHOICE, json_schema=_text_of(choice_schema(use, schema)), whole=whole)


def literal_format(text: str, *, whole: bool) -> OutputFormat:
    """Of an answer that is this text."""
    schema = _object(response={"const": text})
    return OutputFormat(ToolFormat.CHOICE, json_schema=_text_of(schema), whole=whole)


def calls_schema(use: ToolUse) -> Schema:
    """A list of calls."""
    budget = Budget()
    calls = [
        _object(
            name={"const": function.name},
            arguments=enforceable(
                function.parameters or {"type": "object", "properties": {}},
                f"{use.places[function.name]}.parameters",
                strict=False,
                budget=budget,
            ),
        )
        for function in use.callable
    ]
    items = calls[0] if len(calls) == 1 else {"anyOf": calls}
    return {"type": "array", "items": items, "minItems": 1, "maxItems": use.calls_max}


def choice_schema(use: ToolUse, schema: Mapping[str, object] | None) -> Schema:
    """Calls, or a response: a text, or JSON that matches `schema`. Raises Refused where that looks like calls."""
    if schema is None:
        return {"anyOf": [_object(tool_calls=calls_schema(use)), _object(response={"type": "string"})]}
    properties = schema.get("properties")
    if isinstance(properties, dict) and not properties.keys().isdisjoint(("tool_calls", "response")):
        raise Refused(
            Code.UNSUPPORTED_PARAMETER,
            "response_format: beside tools, a schema cannot have properties named tool_calls or response.",
            param="response_format",
        )
    return {"anyOf": [_object(tool_calls=calls_schema(use)), schema]}


def _object(**properties: Mapping[str, object]) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": [*properties],
        "additionalProperties": False,
    }


def _text_of(schema: Mapping[str, object] | None) -> str:
    return "" if schema is None else orjson.dumps(schema).decode()
