"""What `bunkhouse up` prints."""

from __future__ import annotations

import io
import json
import shlex

import pytest
from rich.console import Console

from services.host.display import JsonDisplay, TerminalDisplay, curl
from services.host.readiness import StartStep

KEY = "bh-" + "0123456789abcdef" * 4
STEPS = [
    StartStep("gateway", done=True, words="listening"),
    StartStep("model small", done=False, words="loading weights"),
]


def shown(*, terminal: bool) -> tuple[TerminalDisplay, io.StringIO]:
    stream = io.StringIO()
    return TerminalDisplay(Console(file=stream, width=60, force_terminal=terminal, color_system=None)), stream


def test_the_curl_line_survives_a_shell() -> None:
    words = shlex.split(curl("http://127.0.0.1:8000", KEY, "acme/support"))
    assert words[:3] == ["curl", "-N", "http://127.0.0.1:8000/v1/chat/completions"]
    assert f"Authorization: Bearer {KEY}" in words
    assert json.loads(words[words.index("-d") + 1])["model"] == "acme/support"


@pytest.mark.parametrize("terminal", [True, False])
def test_the_curl_line_is_one_line_however_narrow_the_terminal(terminal: bool) -> None:
    display, stream = shown(terminal=terminal)
    display.ready("http://127.0.0.1:8000", {"acme": KEY}, {"acme": "acme/support"}, 2.0, "/data/secrets.json")
    assert curl("http://127.0.0.1:8000", KEY, "acme/support") in stream.getvalue().splitlines()


def test_where_no_terminal_is_each_change_is_a_line() -> None:
    display, stream = shown(terminal=False)
    for _ in range(3):
        display.steps(STEPS)
    display.steps([STEPS[0], StartStep("model small", done=True, words="ready")])
    assert [line.split("s  ")[1] for line in stream.getvalue().splitlines()] == [
        "gateway: listening",
        "model small: loading weights",
        "model small: ready",
    ]


def test_a_terminal_sees_what_is_waited_for() -> None:
    display, stream = shown(terminal=True)
    display.steps(STEPS)
    display.close()
    display.close()
    assert "loading weights" in stream.getvalue()
    assert "waiting for model small" in stream.getvalue()


def test_no_ready_key() -> None:
    display, stream = shown(terminal=False)
    display.ready("http://127.0.0.1:8000", {}, {}, 2.0, "/data/secrets.json")
    assert "http://127.0.0.1:8000/dashboard" in stream.getvalue()
    assert "admin_key in /data/secrets.json" in stream.getvalue()
    assert "admin API" in stream.getvalue()
    assert "curl" not in stream.getvalue()


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    display = JsonDisplay()
    display.steps(STEPS)
    display.event("gateway died")
    display.ready("http://127.0.0.1:8000", {"acme": KEY}, {"acme": "acme/support"}, 2.0, "/data/secrets.json")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == ["starting", "notice", "ready"]
    assert lines[2]["dashboard"] == "http://127.0.0.1:8000/dashboard"
    assert lines[2]["secrets_file"] == "/data/secrets.json"
    assert lines[0]["waiting_for"] == {"model small": "loading weights"}
