"""Every refusal of the admin API, as `{"error": {message, type, param, code, ...}}`.

AdminError           what a resource raises
+-- BadValue         400  invalid_value: names the parameter
+-- Unauthorized     401  invalid_admin_key
+-- Forbidden        403  role_too_low
+-- NotFound         404  not_found
+-- Conflict         409  exists, job_running, not_up, below_floor, changed_meanwhile, has_ended
+-- DoesNotFit       409  does_not_fit: says how many bytes are missing and what would fit
+-- Unavailable      503  no_scheduler, queue_unavailable

The codes are examples. RequestValidationError, QueueUnavailable and the framework's own 404 and 405 get the same form
in `add_handlers`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from gateway.outcomes import OUTCOME_HEADER
from services.store.connection import QueueUnavailable
from services.store.explanations import NoScheduler
from services.store.registry_edit import TooManyEdits

log = structlog.get_logger()

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    409: "conflict_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    500: "server_error",
    503: "server_error",
}


class AdminError(Exception):
    """An error answer. `more` goes into the error beside its message."""

    status = 400
    code = "invalid_value"

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None, **more: Any) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.code
        self.param = param
        self.more = more

    def response(self, headers: Mapping[str, str] | None = None) -> Response:
        """As it is sent."""
        return problem(self.status, self.message, self.code, param=self.param, headers=headers, more=self.more)


class BadValue(AdminError):
    """A value that cannot be used."""


class Unauthorized(AdminError):
    """No admin key, or one that is not valid."""

    status = 401
    code = "invalid_admin_key"


class Forbidden(AdminError):
    """The key's role may not do this."""

    status = 403
    code = "role_too_low"


class NotFound(AdminError):
    """Not found."""

    status = 404
    code = "not_found"


class Conflict(AdminError):
    """The present state does not allow it."""

    status = 409
    code = "conflict"


class DoesNotFit(Conflict):
    """The device has too little memory for it."""

    code = "does_not_fit"


class Unavailable(AdminError):
    """A part of the host does not answer."""

    status = 503
    code = "unavailable"


def problem(
    status: int,
    message: str,
    code: str,
    *,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
    more: Mapping[str, Any] | None = None,
) -> Response:
    """An error's body. ASCII, so that whatever a client sent can stand in a message."""
    error = {"message": message, "type": TYPES.get(status, "invalid_request_error"), "param": param, "code": code}
    body = json.dumps({"error": {**error, **(more or {})}}, default=str)
    named = {**(headers or {}), OUTCOME_HEADER.decode(): code}
    return Response(body, status, named, media_type="application/json")


def add_handlers(app: FastAPI) -> None:
    """Give every kind of error its form."""
    app.exception_handler(AdminError)(_admin_error)
    app.exception_handler(RequestValidationError)(_invalid)
    app.exception_handler(HTTPException)(_framework)
    app.exception_handler(QueueUnavailable)(_no_queue)
    app.exception_handler(TooManyEdits)(_too_many)
    app.exception_handler(NoScheduler)(_no_scheduler)


async def _admin_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, AdminError)  # noqa: S101  (registered for nothing else)
    return error.response({"www-authenticate": "Bearer"} if error.status == 401 else None)


async def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    first = _most_telling(error.errors())
    param = ".".join(str(part) for part in first["loc"][1:]) or None
    if first["type"] == "json_invalid":
        return problem(400, f"The body is not valid JSON: {first['msg']}.", "invalid_json")
    if first["type"] == "extra_forbidden":
        return problem(400, f"Unknown parameter: {param}.", "unknown_parameter", param=param)
    if first["type"] == "missing":
        return problem(400, f"Missing parameter: {param or 'the body'}.", "missing_required_parameter", param=param)
    return problem(400, f"{param or 'body'}: {first['msg']}.", "invalid_value", param=param)


def _most_telling(found: Sequence[Any]) -> Any:
    return max(found, key=lambda problem: len(problem["loc"]))


async def _framework(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    words = {
        404: f"{request.url.path} does not exist.",
        405: f"{request.url.path} does not take {request.method}.",
    }
    codes = {404: "not_found", 405: "method_not_allowed"}
    code = codes.get(error.status_code, "invalid_request")
    message = words.get(error.status_code, str(error.detail))
    return problem(error.status_code, message, code, headers=error.headers)


async def _no_queue(request: Request, error: Exception) -> Response:
    log.warning("queues.unavailable", path=request.url.path, why=str(error))
    return problem(503, "Redis does not answer. Try again soon.", "queue_unavailable", headers={"retry-after": "1"})


async def _too_many(_request: Request, error: Exception) -> Response:
    return problem(409, str(error), "changed_meanwhile")


async def _no_scheduler(_request: Request, error: Exception) -> Response:
    return problem(503, str(error), "no_scheduler", headers={"retry-after": "1"})
