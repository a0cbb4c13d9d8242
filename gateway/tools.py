"""Tools of a chat request: what may be called, what must be called, and the JSON that constrained calls have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

from gateway.messages import NESTING_MAX, depth_of
from gateway.outcomes import Code, Refused
from gateway.parameters import FUNCTION, TOOL, described

TOOLS_MAX = 128
DESCRIPTION_CHARS_MAX = 16_384
PARAMETERS_BYTES_MAX = 64 * 1024  # of one tool, as JSON
TOOLS_BYTES_MAX = 512 * 1024
CALLS_MAX = 16  # in one constrained answer

ToolName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class Function(BaseModel):
    """A function that the client runs. `parameters` is a JSON schema."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra=described(FUNCTION))

    name: ToolName
    description: Annotated[str, Field(max_length=DESCRIPTION_CHARS_MAX)] | None = None
    parameters: dict[str, object] | None = None
    strict: bool | None = None


class Tool(BaseModel):
    """One tool; the only type is a function."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra=described(TOOL))

    type: Literal["function"] = "function"
    function: Function

    def rendered(self) -> dict[str, object]:
        """As chat templates expect it."""
        function = self.function
        return {
            "type": "function",
            "function": {
                "name": function.name,
                "description": function.description or "",
                "parameters": function.parameters or {"type": "object", "properties": {}},
            },
        }


class _Choice(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class NamedFunction(_Choice):
    """A tool by its name."""

    name: ToolName


class NamedTool(_Choice):
    """The one tool that the answer must call."""

    type: Literal["function"]
    function: NamedFunction


class AllowedTools(_Choice):
    """Some of the tools."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1, max_length=TOOLS_MAX)]


class AllowedChoice(_Choice):
    """A choice among some of the tools."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


ToolChoice = Literal["none", "auto", "required"] | NamedTool | AllowedChoice


@dataclass(frozen=True, slots=True)
class ToolUse:
    """How an answer may call tools. `shown` are described to the model, `callable` may be called.

    `places`: where the request has each function, for errors.
    """

    shown: Sequence[Tool]
    callable: Sequence[Function]
    required: bool
    calls_max: int
    places: Mapping[str, str]

    @property
    def parameter_types(self) -> Mapping[str, Mapping[str, str]]:
        """Tool -> parameter -> JSON type: some models spell arguments without quotes."""
        return {function.name: _types_of(function.parameters or {}) for function in self.callable}


def tool_use(tools: Sequence[Tool], choice: ToolChoice | None, parallel: bool) -> ToolUse | None:
    """How an answer may call tools; None where it may not. Raises Refused."""
    _check_tools(tools)
    by_name = {tool.function.name: tool.function for tool in tools}
    if not tools and choice not in (None, "none", "auto"):
        raise Refused(Code.INVALID_VALUE, "tool_choice: there are no tools to choose from.", param="tool_choice")
    if not tools or choice == "none":
        return None
    calls_max = CALLS_MAX if parallel else 1
    places = {name: f"tools[{number}].function" for number, name in enumerate(by_name)}
    if isinstance(choice, NamedTool):
        return ToolUse(tools, [_named(by_name, choice)], True, 1, places)
    if isinstance(choice, AllowedChoice):
        allowed = [_named(by_name, one) for one in choice.allowed_tools.tools]
        shown = [tool for tool in tools if tool.function in allowed]
        return ToolUse(shown, allowed, choice.allowed_tools.mode == "required", calls_max, places)
    return ToolUse(tools, list(by_name.values()), choice == "required", calls_max, places)


def _named(by_name: Mapping[str, Function], choice: NamedTool) -> Function:
    name = choice.function.name
    if name not in by_name:
        raise Refused(Code.INVALID_VALUE, f"tool_choice: there is no tool {name!r} in tools.", param="tool_choice")
    return by_name[name]


def _check_tools(tools: Sequence[Tool]) -> None:
    total, seen = 0, set[str]()
    for number, tool in enumerate(tools):
        param, name = f"tools[{number}].function", tool.function.name
        if name in seen:
            raise Refused(Code.INVALID_VALUE, f"{param}.name: there are two tools {name!r}.", param=f"{param}.name")
        seen.add(name)
        parameters = tool.function.parameters or {}
        if depth_of(parameters) > NESTING_MAX:
            raise Refused(
                Code.INVALID_VALUE,
                f"{param}.parameters: nested more than {NESTING_MAX} levels deep.",
                param=f"{param}.parameters",
            )
        size = len(orjson.dumps(parameters))
        total += size + len(tool.function.description or "")
        if size > PARAMETERS_BYTES_MAX or total > TOOLS_BYTES_MAX:
            most = PARAMETERS_BYTES_MAX if size > PARAMETERS_BYTES_MAX else TOOLS_BYTES_MAX
            what = f"{param}.parameters" if size > PARAMETERS_BYTES_MAX else "tools"
            raise Refused(Code.INVALID_VALUE, f"{what}: larger than {most} bytes of JSON.", param=what)


def _types_of(parameters: Mapping[str, object]) -> dict[str, str]:
    properties = parameters.get("properties")
    if not isinstance(properties, dict):
        return {}
    return {name: _type_of(schema) for name, schema in properties.items()}


def _type_of(schema: object) -> str:
    """A parameter's JSON type; of several the one that is not null, "" where it cannot be known."""
    if not isinstance(schema, dict):
        return ""
    named = schema.get("type")
    options = schema.get("anyOf") or schema.get("oneOf")
    if isinstance(named, list):
        return next((str(one) for one in named if one != "null"), "")
    if named is None and isinstance(options, list):
        return next((found for one in options if (found := _type_of(one)) not in ("", "null")), "")
    return str(named or "")
