"""A call's arguments: found in what the visitor wrote, checked, and written into its URL."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from urllib.parse import quote, urlencode

import orjson
from pydantic import JsonValue

from gateway.actions.catalog import Action
from services.config.actions import PLACEHOLDER, ActionParameter
from services.process.logs import MASK

SEARCHED_CHARS_MAX = 4000  # of the visitor's messages, the newest first
MATCHES_MAX = 20
TEXT_CHARS_MAX = 500
WORD = r"[0-9A-Za-z]"

Arguments = Mapping[str, JsonValue]


class BadArgument(ValueError):
    """An argument that the action does not take; the message names it."""


def mentioned(parameter: ActionParameter, messages: Sequence[str]) -> list[str]:
    """What the visitor wrote that may be this parameter: matches in the newest message that has any, the last first."""
    pattern = (parameter.pattern or "").removeprefix("^").removesuffix("$")
    whole = re.compile(f"(?<!{WORD})(?:{pattern})(?!{WORD})")
    left = SEARCHED_CHARS_MAX
    for text in reversed(messages):
        searched = text[-left:] if left else ""
        left -= len(searched)
        found = [match[0] for match in whole.finditer(searched) if match[0]]
        if found:
            return list(dict.fromkeys(reversed(found)))[:MATCHES_MAX]
    return []


def checked(action: Action, arguments: Mapping[str, object], messages: Sequence[str]) -> dict[str, JsonValue]:
    """The arguments as they are sent. Raises BadArgument: whoever chose them, the schema holds."""
    if unknown := arguments.keys() - action.parameters.keys():
        raise BadArgument(f"{min(unknown)} is not a parameter")
    found: dict[str, JsonValue] = {}
    for name, parameter in action.parameters.items():
        if name in arguments:
            found[name] = _value(name, parameter, arguments[name], messages)
        elif name in action.required:
            raise BadArgument(f"{name} is missing")
    return found


def _value(name: str, parameter: ActionParameter, value: object, messages: Sequence[str]) -> JsonValue:
    good: JsonValue = None
    if parameter.type == "string" and isinstance(value, str):
        good = _text(name, parameter, value, messages)
    elif parameter.type == "boolean" and isinstance(value, bool):
        good = value
    elif parameter.type in ("integer", "number") and isinstance(value, int | float) and not isinstance(value, bool):
        good = _number(name, parameter, value)
    else:
        raise BadArgument(f"{name} is not of the type {parameter.type}")
    if parameter.enum is not None and good not in parameter.enum:
        raise BadArgument(f"{name} is none of its values")
    return good


def _number(name: str, parameter: ActionParameter, value: float) -> float:
    if not math.isfinite(value) or (parameter.type == "integer" and isinstance(value, float)):
        raise BadArgument(f"{name} is not of the type {parameter.type}")
    least = -math.inf if parameter.minimum is None else parameter.minimum
    most = math.inf if parameter.maximum is None else parameter.maximum
    if not least <= value <= most:
        raise BadArgument(f"{name} is out of bounds")
    return value


def _text(name: str, parameter: ActionParameter, value: str, messages: Sequence[str]) -> str:
    if len(value) > TEXT_CHARS_MAX or not value.isprintable():
        raise BadArgument(f"{name} is too long, or not printable")
    if parameter.pattern is not None and not re.fullmatch(parameter.pattern, value):
        raise BadArgument(f"{name} does not match its pattern")
    if parameter.from_message and value not in mentioned(parameter, messages):
        raise BadArgument(f"{name} is not in what the visitor wrote")
    return value


def spelled(value: JsonValue) -> str:
    """One value in a URL or a sentence."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def request_of(action: Action, arguments: Arguments) -> tuple[str, bytes | None]:
    """The URL and the body of a call. Arguments fill the path and the query, whatever they contain, and no more.

    Raises BadArgument for one that would be a step to another folder.
    """
    rest = dict(arguments)

    def filled(match: re.Match[str]) -> str:
        if match[1] not in arguments:  # a call that waited while its action was changed
            raise BadArgument(f"{match[1]} is missing")
        rest.pop(match[1], None)
        text = spelled(arguments[match[1]])
        if text.strip(".") == "":
            raise BadArgument(f"{match[1]} is empty, or a step to another folder")
        return quote(text, safe="")

    url = PLACEHOLDER.sub(filled, action.config.url)
    if action.config.method in ("GET", "DELETE"):
        if rest:
            url += ("&" if "?" in url else "?") + urlencode({name: spelled(value) for name, value in rest.items()})
        return url, None
    return url, orjson.dumps(rest)


def masked(action: Action, arguments: Arguments) -> dict[str, JsonValue]:
    """As logs have them."""
    return {
        name: MASK if name in action.parameters and action.parameters[name].secret else value
        for name, value in arguments.items()
    }
