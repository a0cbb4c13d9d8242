"""One call of an action: sent once, and what came of it in words that a model can repeat.

Nothing here raises for what the other side does: a timeout, an error or an answer that is too large is an outcome.
Secrets are read from their files at each call, go into headers, and are taken out of answers that repeat them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson
import structlog
from pydantic import JsonValue

from gateway.actions.arguments import Arguments, BadArgument, request_of, spelled
from gateway.actions.catalog import Action
from gateway.outgoing import OutgoingAnswer, OutgoingFailed, OutgoingRequest, send
from services.config.actions import PLACEHOLDER, ActionSecret
from services.process.logs import MASK
from services.store.action_calls import ActionOutcome

TEXT_CHARS_MAX = 1500  # of an outcome, as the model reads it
VALUE_CHARS_MAX = 500
NESTED_BYTES_MAX = 500
GONE = (404, 410)
REFUSED = (400, 409, 412, 422)  # the service may say why
NOT_NOW = "This cannot be looked up right now. Please try again later."
NOT_DONE = "This could not be done right now. Please try again later."
UNKNOWN = "It is not known whether this was done. Please ask a person before you try it again."
NOT_MADE = ActionOutcome(status="dry", text="It was done.")  # a test's answer goes on as if it were
_SECRET = re.compile(r"[\x20-\x7e]{1,4096}")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Caught(Exception):
    """A secret that cannot be used."""

    name: str


async def call(
    action: Action, arguments: Arguments, secrets: Mapping[str, ActionSecret], idempotency_key: str
) -> ActionOutcome:
    """Make one call."""
    try:
        url, body = request_of(action, arguments)
        hidden = await asyncio.to_thread(_read, action, secrets)
    except BadArgument as error:
        return invalid(error)
    except Caught as error:
        log.error("actions.secret_unusable", action=action.name, secret=error.name)
        return failure(action, "failed")
    headers = {**action.config.headers, **hidden, "idempotency-key": idempotency_key, "accept": "application/json"}
    if body is not None:
        headers["content-type"] = "application/json"
    limit_s = action.config.timeout_s
    request = OutgoingRequest(
        action.config.method,
        url,
        headers,
        body,
        limit_s=limit_s,
        idle_s_max=limit_s,
        answer_bytes_max=action.config.answer_bytes_max,
    )
    try:
        answer = await send(request)
    except OutgoingFailed as error:
        if error.sent and action.config.method != "GET":
            return ActionOutcome(status="unknown", text=UNKNOWN)
        return failure(action, "timeout" if error.sent else "failed")
    parts = [part for value in hidden.values() for part in (value, *value.split()[1:]) if part]  # "Bearer ..."
    return outcome_of(action, arguments, answer, parts)


def _read(action: Action, secrets: Mapping[str, ActionSecret]) -> dict[str, str]:
    """Header -> its value. Raises Caught."""
    found = {}
    for header, name in action.config.secret_headers.items():
        secret = secrets.get(name)
        if secret is None or action.config.host not in secret.hosts:
            raise Caught(name)
        try:
            value = secret.file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            raise Caught(name) from None
        if not _SECRET.fullmatch(value):
            raise Caught(name)
        found[header] = value
    return found


def outcome_of(
    action: Action, arguments: Arguments, answer: OutgoingAnswer, hidden: Sequence[str] = ()
) -> ActionOutcome:
    """What an answer means. Only 2xx is a success; some refusals may say why."""
    if answer.status in GONE:
        words = filled(action.config.not_found, arguments) if action.config.not_found else None
        return ActionOutcome(status="not_found", text=words or f"Nothing was found for {_listed(arguments)}.")
    good = 200 <= answer.status < 300
    if not good and answer.status not in REFUSED:
        return failure(action, "failed")
    if not answer.whole:
        return failure(action, "too_large")
    try:
        value: object = orjson.loads(answer.body) if answer.body.strip() else {}
    except orjson.JSONDecodeError:
        return failure(action, "failed")
    shown = _shown(action, value, hidden)
    if not good and not shown:
        return failure(action, "failed")
    words = filled(action.config.says, {**arguments, **shown}) if action.config.says else None
    text = words or ", ".join(f"{name}: {spelled(item)}" for name, item in shown.items()) or "It was done."
    return ActionOutcome(status="ok" if good else "refused", text=text[:TEXT_CHARS_MAX], shown=shown)


def _shown(action: Action, value: object, hidden: Sequence[str]) -> dict[str, JsonValue]:
    """The fields that the model may see, texts cut and secrets taken out."""
    fields: dict[str, object] = {}
    if action.config.shows:
        for path in action.config.shows:
            found = _at(value, path)
            if found is not None:
                fields[path] = found
    elif isinstance(value, dict):
        fields = {str(name): item for name, item in value.items()}
    else:
        fields = {"result": value}
    shown: dict[str, JsonValue] = {}
    size = 0
    for name, item in fields.items():
        clean = _clean(item, hidden)
        size += len(name) + len(spelled(clean))
        if size > TEXT_CHARS_MAX:
            break
        shown[name[:64]] = clean
    return shown


def _at(value: object, path: str) -> object:
    for step in path.split("."):
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def _clean(value: object, hidden: Sequence[str]) -> JsonValue:
    if isinstance(value, bool | int | float) or value is None:
        return value
    text = value if isinstance(value, str) else orjson.dumps(value).decode()[:NESTED_BYTES_MAX]
    for secret in hidden:
        text = text.replace(secret, MASK)
    return "".join(sign if sign.isprintable() else " " for sign in text)[:VALUE_CHARS_MAX]


def filled(sentence: str, values: Mapping[str, JsonValue]) -> str | None:
    """A sentence with its {places} filled; None where one has no value. What fills a place is not looked at again."""
    if any(values.get(name) is None for name in PLACEHOLDER.findall(sentence)):
        return None
    return PLACEHOLDER.sub(lambda match: spelled(values[match[1]]), sentence)


def _listed(arguments: Arguments) -> str:
    return ", ".join(spelled(value) for value in arguments.values()) or "this"


def failure(action: Action, status: str) -> ActionOutcome:
    """An outcome that is said plainly."""
    words = NOT_NOW if action.config.method == "GET" else NOT_DONE
    return ActionOutcome(status=status, text=action.config.failed or words)


def invalid(error: BadArgument) -> ActionOutcome:
    """Arguments that were not sent."""
    return ActionOutcome(status="invalid", text=f"This was not done: {error}.")
