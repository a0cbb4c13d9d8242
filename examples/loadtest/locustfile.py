"""Load from Locust (https://locust.io) instead: streamed chats, first token and whole answer as two measures.

    pip install locust
    ACME_KEY=bh-... locust -f examples/loadtest/locustfile.py --host http://127.0.0.1:8000 --headless -u 20 -r 2 -t 60s

Locust is a closed loop: a user who waits sends nothing, so a slow server is asked less. `bunkhouse loadtest` has open
loops, and counts from when a user wanted to send.
"""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path

from locust import HttpUser, between, task

CORPUS = Path(__file__).parents[2] / "services" / "evidence" / "corpora" / "dialogues.jsonl"
DIALOGUES = [json.loads(line) for line in CORPUS.read_text(encoding="utf-8").splitlines()]
MODEL = os.environ.get("MODEL", "acme/support")


class Customer(HttpUser):  # type: ignore[misc]  # Locust ships no types
    """One customer, who starts a new conversation each time."""

    wait_time = between(1, 5)

    @task  # type: ignore[untyped-decorator]
    def conversation(self) -> None:
        messages: list[dict[str, str]] = []
        for turn in random.choice(DIALOGUES)["turns"]:
            messages.append({"role": "user", "content": turn["user"]})
            answer = self._ask(messages)
            if answer is None:
                return
            messages.append({"role": "assistant", "content": answer})

    def _ask(self, messages: list[dict[str, str]]) -> str | None:
        begun = time.perf_counter()
        text = ""
        body = {"model": MODEL, "messages": messages, "max_tokens": 48, "stream": True}
        headers = {"authorization": f"Bearer {os.environ.get('ACME_KEY', '')}"}
        request = self.client.post(
            "/v1/chat/completions", json=body, headers=headers, stream=True, name="answer", catch_response=True
        )
        with request as response:
            if response.status_code != 200:
                response.failure(f"status {response.status_code}")
                return None
            for line in response.iter_lines():
                if not line.startswith(b"data: {"):
                    continue
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    response.failure(chunk["error"]["message"])
                    return None
                piece = "".join(c["delta"].get("content") or "" for c in chunk["choices"])
                if piece and not text:
                    self._first_token(begun)
                text += piece
        return text

    def _first_token(self, begun: float) -> None:
        self.environment.events.request.fire(
            request_type="SSE",
            name="first token",
            response_time=(time.perf_counter() - begun) * 1000,
            response_length=0,
            exception=None,
            context={},
        )
