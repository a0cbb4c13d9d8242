"""Logs: one line for each event, JSON unless a terminal reads them, secrets masked everywhere.

Structlog's own loggers and the standard library's (uvicorn, redis, celery) go through the same steps.
A request's id and the like are bound with `structlog.contextvars.bind_contextvars`.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TextIO, cast

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

MASK = "***"
SECRET_FIELDS = frozenset({"authorization", "cookie", "pepper", "password", "secret", "api_key", "admin_key"})
SECRET_ENDINGS = ("_password", "_secret", "_api_key", "_pepper")
# Keys of this host, credentials in a URL, and bearer tokens in whatever text an exception or a library wrote.
_SECRET_TEXT = re.compile(r"\bbh-[A-Za-z0-9_-]{8,}|(?<=://)[^/@\s]*:[^/@\s]+(?=@)|(?<=[Bb]earer )[^\s\"']+")
_QUIET = ("httpx", "httpcore", "asyncio", "urllib3", "celery.app.trace", "celery.beat", "celery.worker.strategy")


def setup(process: str, json: bool | None = None, level: str = "INFO", stream: TextIO | None = None) -> None:
    """Make this process log as `process`, to `stream` (None: stderr). `json`: None decides by whether that is a
    terminal. Servers with a logging configuration of their own must not use it (uvicorn: log_config=None).
    """
    given = sys.stderr if stream is None else stream
    as_json = not given.isatty() if json is None else json
    out = cast(TextIO, _Lossy(given))
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _named(process),
        structlog.processors.format_exc_info,
        mask,
    ]
    renderer: Processor = (
        structlog.processors.JSONRenderer(serializer=_dumps)
        if as_json
        else structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, structlog.stdlib.ExtraAdder(), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def log_file(path: Path) -> TextIO:
    """A file to log to. Unbuffered: a full disk's refusal would be repeated, as an error, when a buffer is closed."""
    return io.TextIOWrapper(path.open("ab", buffering=0), encoding="utf-8", write_through=True)


def mask(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """A structlog processor: hides API keys, bearer tokens, URL passwords and fields named for a secret."""
    event.pop("color_message", None)  # uvicorn's twin of its message, for terminals
    return {name: MASK if secret_name(name) and value else _masked(value) for name, value in event.items()}


@lru_cache(1024)
def secret_name(name: str) -> bool:
    """Whether a field of this name holds a secret."""
    small = name.lower().replace("-", "_")
    return small in SECRET_FIELDS or small.endswith(SECRET_ENDINGS)


def mask_text(text: str) -> str:
    """The text without what looks like a secret."""
    if not ("bh-" in text or "://" in text or "earer " in text):  # most texts: a twentieth of the pattern's time
        return text
    return _SECRET_TEXT.sub(lambda found: "bh-***" if found[0].startswith("bh-") else MASK, text)


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return mask_text(value)
    if isinstance(value, Mapping):
        return {key: MASK if secret_name(str(key)) and inner else _masked(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_masked(inner) for inner in value]
    return value


class _Lossy:
    """A stream that drops what it cannot write: a full disk costs lines, not the process."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


def _named(process: str) -> Processor:
    def add(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event.setdefault("process", process)
        return event

    return add


def _dumps(event: Any, **_: Any) -> str:
    return orjson.dumps(event, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()
