"""Logs: one line an event, for structlog and the standard library alike; secrets masked wherever they stand."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import structlog

from services.config.api_keys import new_key
from services.process.logs import log_file, setup


@pytest.fixture
def lines(unlogged: None) -> io.StringIO:
    """What was logged."""
    stream = io.StringIO()
    setup("test", json=True, stream=stream)
    return stream


def read(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_one_line_an_event(lines: io.StringIO) -> None:
    structlog.get_logger().info("chat.done", tokens=3, text="two\nlines")
    logging.getLogger("uvicorn.error").warning("slow %s", "client")
    mine, theirs = read(lines)
    assert mine["event"] == "chat.done"
    assert mine["process"] == theirs["process"] == "test"
    assert (mine["tokens"], mine["text"], mine["level"]) == (3, "two\nlines", "info")
    assert (theirs["event"], theirs["logger"], theirs["level"]) == ("slow client", "uvicorn.error", "warning")


def test_context_is_on_every_line(lines: io.StringIO) -> None:
    with structlog.contextvars.bound_contextvars(request="req-1"):
        structlog.get_logger().info("a")
        logging.getLogger("redis").warning("b")
    assert [line["request"] for line in read(lines)] == ["req-1", "req-1"]


def test_secrets_are_masked_wherever_they_stand(lines: io.StringIO) -> None:
    key = new_key()
    log = structlog.get_logger()
    log.info(f"a key {key} in text", password="hunter2", nested={"list": [f"x {key}"], "api_key": "hunter2"})
    log.info("connect", url="redis://user:hunter2@host:6379/0", header="Authorization: Bearer hunter2")
    logging.getLogger("httptools").error("with %s", key, extra={"admin_key": "hunter2", "redis_password": "hunter2"})
    try:
        raise ValueError(f"bad {key}")
    except ValueError:
        log.exception("failed")
    assert key not in lines.getvalue()
    assert "hunter2" not in lines.getvalue()
    assert len(read(lines)) == 4
    assert "ValueError: bad bh-***" in read(lines)[3]["exception"]


def test_what_only_looks_like_one_stays(lines: io.StringIO) -> None:
    structlog.get_logger().info("x", tokens=12, secretary="Ann", path="/var/bh-data", key="gateway.port")
    line = read(lines)[0]
    assert (line["tokens"], line["secretary"], line["path"], line["key"]) == (12, "Ann", "/var/bh-data", "gateway.port")


def test_levels(lines: io.StringIO) -> None:
    structlog.get_logger().debug("hidden")
    logging.getLogger("httpx").info("hidden too")
    assert read(lines) == []


def test_on_a_terminal_it_is_for_people() -> None:
    stream = io.StringIO()
    setup("test", json=False, stream=stream)
    try:
        structlog.get_logger().info("chat.done", api_key="hunter2")
    finally:
        structlog.reset_defaults()
        logging.getLogger().handlers.clear()
    assert "chat.done" in stream.getvalue()
    assert "hunter2" not in stream.getvalue()


@pytest.mark.parametrize("buffering", [0, -1])
def test_a_full_disk_costs_lines_and_no_process(
    unlogged: None, capsys: pytest.CaptureFixture[str], buffering: int
) -> None:
    full = Path("/dev/full")
    stream = log_file(full) if buffering == 0 else full.open("a")
    setup("test", json=True, stream=stream)
    for _ in range(1000):  # more than any buffer holds
        structlog.get_logger().info("chat.done", text="x" * 100)
        logging.getLogger("uvicorn.error").warning("slow client")
    assert capsys.readouterr().err == ""
    if buffering == 0:
        stream.close()
    else:
        with pytest.raises(OSError, match="No space left"):
            stream.close()
