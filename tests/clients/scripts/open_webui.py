"""Open WebUI's own server at its defaults, used as its page uses it.

Left out of its environment are the packages for embeddings and speech, which a chat does not need.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any

from tests.clients.checks import BOT, KEY, QUESTION, THINKER, V1, check, run

START_S_MAX = 180.0
ANSWER_S_MAX = 280.0  # its tools are 5,000 tokens of prompt, which a busy CPU reads slowly
FEATURES = {"voice": False, "image_generation": False, "code_interpreter": False, "web_search": False}


def start(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """The server on a port of its own, ready."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder.mkdir()
    environment = {
        **os.environ,
        "DATA_DIR": str(folder),
        "WEBUI_AUTH": "False",
        "WEBUI_SECRET_KEY": "s" * 32,
        "ENABLE_OLLAMA_API": "False",
        "OPENAI_API_BASE_URL": V1,
        "OPENAI_API_KEY": KEY,
        "RAG_EMBEDDING_ENGINE": "openai",  # no embedding model is loaded at start
        "OFFLINE_MODE": "true",
    }
    command = [str(Path(sys.executable).with_name("open-webui")), "serve", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=sys.stderr, stderr=sys.stderr)
    url, until_s = f"http://127.0.0.1:{port}", time.monotonic() + START_S_MAX
    while True:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
        except OSError:
            if time.monotonic() > until_s or process.poll() is not None:
                process.kill()
                raise
            time.sleep(0.5)
        else:
            return process, url


server, server_url = start(Path(os.environ["BUNKHOUSE_SCRATCH"]) / "open_webui")
token = ""


def call(path: str, body: object = None) -> str:
    """GET, or POST with a body. AssertionError with the answer's text where it is an error."""
    headers = {"content-type": "application/json", "authorization": f"Bearer {token}"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(server_url + path, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_S_MAX) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{error.code}: {error.read().decode()[:300]}") from error


token = json.loads(call("/api/v1/auths/signin", {"email": "", "password": ""}))["token"]


def send(text: str, model: str = BOT, chat: str | None = None, parent: str | None = None) -> tuple[str, dict[str, Any]]:
    """What the page posts for a message, and the answer as the chat keeps it: the chat's id, and the message."""
    asked, reply = str(uuid.uuid4()), str(uuid.uuid4())
    user = {"id": asked, "parentId": parent, "childrenIds": [reply], "role": "user", "content": text}
    body: dict[str, Any] = {
        "stream": True,
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "params": {},
        "tool_servers": [],
        "features": FEATURES,
        "variables": {},
        "model_item": {},
        "session_id": str(uuid.uuid4()),
        "id": reply,
        "parent_id": parent,
        "user_message": user | {"timestamp": int(time.time()), "models": [model]},
        "background_tasks": {},  # they ask for a thousand tokens each; the check of titles covers them
    }
    if chat is not None:
        body["chat_id"] = chat
    started = json.loads(call("/api/chat/completions", body))
    until_s = time.monotonic() + ANSWER_S_MAX
    while time.monotonic() < until_s:
        kept = json.loads(call(f"/api/v1/chats/{started['chat_id']}"))
        message = kept["chat"]["history"]["messages"].get(reply, {})
        if message.get("done"):
            assert not message.get("error"), str(message["error"])
            return started["chat_id"], message
        time.sleep(0.3)
    raise AssertionError(f"no answer: {message}")


begun: dict[str, Any] = {}  # the first chat, and its answer


def answered(message: dict[str, Any]) -> bool:
    """It has text, or calls of tools that Open WebUI ran."""
    return bool(message["content"].strip() or message.get("output"))


@check("models", "its model list has the bot")
def _() -> None:
    assert BOT in [model["id"] for model in json.loads(call("/api/models"))["data"]]


@check("chat", "the first Hello at its defaults, with its built-in tools, is answered")
def _() -> None:
    begun["chat"], begun["message"] = send("Hello")
    assert answered(begun["message"])


@check("round trip", "a second message of the same chat is answered")
def _() -> None:
    _, message = send(QUESTION, chat=begun["chat"], parent=begun["message"]["id"])
    assert answered(message)


@check("stream", "its API streams an answer in several pieces")
def _() -> None:
    messages = [{"role": "user", "content": QUESTION}]
    said = call("/api/chat/completions", {"model": BOT, "stream": True, "messages": messages, "max_tokens": 24})
    pieces = [line for line in said.splitlines() if line.startswith("data: {")]
    assert len(pieces) > 3
    assert "data: [DONE]" in said


@check("chat", "its request for a chat's title is answered")
def _() -> None:
    messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "Is it plugged in?"}]
    body = {"model": BOT, "messages": messages, "chat_id": str(uuid.uuid4())}
    assert json.loads(call("/api/v1/tasks/title/completions", body))["choices"]


@check("reasoning", "thoughts are kept apart from the answer")
def _() -> None:
    messages = [{"role": "user", "content": QUESTION}]
    body = {"model": THINKER, "stream": False, "messages": messages, "max_tokens": 24}
    assert json.loads(call("/api/chat/completions", body))["choices"][0]["message"]["reasoning_content"]


try:
    run()
finally:
    server.terminate()
    server.wait()
