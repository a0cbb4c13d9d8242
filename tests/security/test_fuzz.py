"""Anything at all, sent to every public path of a whole host: an answer in words, never a 5xx, nobody stuck.

tests/gateway/test_fuzz.py does the same to a gateway alone. BUNKHOUSE_FUZZ_CASES sets how much.
"""

from __future__ import annotations

import os
import socket
from typing import Any
from urllib.parse import quote

import httpx
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzzing import FIXED
from tests.gateway.test_fuzz import anything, bodies
from tests.security.conftest import Hosted

CASES = int(os.environ.get("BUNKHOUSE_FUZZ_CASES", "60"))
MADE_UP = settings(FIXED, max_examples=CASES)

paths = st.sampled_from(
    ["/v1/chat/completions", "/v1/models", "/v1/models/{}", "/v1/chats/{}", "/v1/chats/{}/stream", "/health", "/{}"]
)
words = st.text(max_size=40) | st.sampled_from(["acme/support", "..", "%00", "a/b", "\u202e", "x" * 300])
methods = st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
header_values = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=60)
headers = st.dictionaries(
    st.sampled_from(
        ["idempotency-key", "last-event-id", "x-bunkhouse-session", "x-openwebui-chat-id", "x-request-id", "accept"]
    ),
    header_values,
    max_size=3,
)


def _send(hosted: Hosted, method: str, path: str, extra: dict[str, str], body: bytes) -> httpx.Response:
    own = hosted.host.headers("acme") | {"content-type": "application/json"} | extra
    return hosted.http.request(method, path, headers=own, content=body)


def _in_words(answer: httpx.Response) -> None:
    assert answer.status_code < 500, (answer.request.method, str(answer.request.url), answer.text)
    is_api = answer.request.url.path.startswith("/v1/")  # pages have errors of their own
    if answer.status_code >= 400 and is_api and answer.request.method != "HEAD":
        error = answer.json()["error"]
        assert error["message"]
        assert set(error) >= {"message", "type", "param", "code"}


def _encoded(body: Any) -> bytes:
    try:
        return orjson.dumps(body)
    except TypeError:  # an integer beyond 64 bits, or half a surrogate pair
        return b"{"


@pytest.mark.timeout(3600)
@MADE_UP
@given(methods, st.tuples(paths, words), headers, anything)
def test_every_path(hosted: Hosted, method: str, place: tuple[str, str], extra: dict[str, str], body: Any) -> None:
    path, word = place
    quoted = quote(word, safe="/%", errors="replace")
    _in_words(_send(hosted, method, path.replace("{}", quoted), extra, _encoded(body)))


@pytest.mark.timeout(3600)
@MADE_UP
@given(bodies, headers)
def test_every_body(hosted: Hosted, body: dict[str, Any], extra: dict[str, str]) -> None:
    good = {"model": "acme/support", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    _in_words(_send(hosted, "POST", "/v1/chat/completions", extra, _encoded(good | body | {"max_tokens": 1})))


@pytest.mark.timeout(3600)
@MADE_UP
@given(st.binary(max_size=300))
def test_bytes_that_are_no_http(hosted: Hosted, raw: bytes) -> None:
    port = httpx.URL(hosted.host.url).port or 0
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(raw + b"\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        try:
            answer = connection.recv(65536)
        except ConnectionResetError:
            return
    assert not answer or answer.startswith(b"HTTP/1.1 ")
    assert b" 500 " not in answer.split(b"\r\n")[0]


def test_the_host_still_serves(hosted: Hosted) -> None:
    """Runs last: nothing above has left a process stuck."""
    assert hosted.ask("acme", "Hello").status_code == 200
    assert hosted.http.get("/ready").status_code == 200
