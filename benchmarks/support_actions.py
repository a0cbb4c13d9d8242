"""Orders that a bot looks up: `python -m benchmarks.support_actions`.

The demo shop (examples/widget) runs with SmolLM2-135M and its order service. Each of thirty questions is asked by the
widget, in a conversation of its own, at temperature 0. A call is right if the order service, or the question to the
visitor before something is changed, has the action and the order; an answer is right if it has the fact.
`figures` is a part of `make bench-support`. Last line: one JSON object.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.output import write
from gateway.widget.sites import token_of
from services.config.host_secrets import load_secrets
from services.process.children import mortal
from services.process.ports import free_port
from tests.host_process import ROOT, program, run_host

SHOP = ROOT / "examples" / "widget" / "shop.yaml"
ORDERS = ROOT / "examples" / "widget" / "orders.py"
QUESTIONS = Path(__file__).parent / "support" / "orders.yaml"
RESULTS = ROOT / "docs" / "benchmarks" / "support_actions.json"
BOT = "alder-ash/shop"
PORT = "127.0.0.1:8095"  # of the order service in the example
ANSWER_S_MAX = 120.0


@dataclass(frozen=True)
class Asked:
    """One question and what came of it."""

    ask: str
    right_call: bool
    right_answer: bool
    called: str
    answer: str
    seconds: float


class Widget:
    """A visitor's page."""

    def __init__(self, url: str, token: str, http: httpx.Client) -> None:
        self._base = f"{url}/widget/v1/{token}"
        self._http = http
        self._headers = {"origin": url}
        self._session = ""

    def ask(self, text: str) -> tuple[str, dict[str, Any]]:
        """The answer and its last event, in a new conversation."""
        return self._answer("messages", {"text": text})

    def decide(self, confirmation: str, *, yes: bool) -> tuple[str, dict[str, Any]]:
        """Say yes or no in the last conversation."""
        return self._answer("confirmations", {"session": self._session, "id": confirmation, "yes": yes})

    def _answer(self, path: str, body: Mapping[str, object]) -> tuple[str, dict[str, Any]]:
        said = self._http.post(f"{self._base}/{path}", json=body, headers=self._headers)
        said.raise_for_status()
        self._session = said.json()["session"]
        stream = self._http.get(f"{self._base}/chats/{said.json()['chat']}/stream", headers=self._headers)
        events = [json.loads(line.removeprefix("data: ")) for line in stream.text.splitlines() if line[:5] == "data:"]
        return "".join(event.get("text", "") for event in events), events[-1]


@dataclass(frozen=True)
class Shop:
    """The demo shop, running. `log`: what its order service writes of each request."""

    widget: Widget
    address: str
    log: Path
    orders: subprocess.Popen[bytes]

    def stop_orders(self) -> None:
        """Stop the order service."""
        self.orders.terminate()
        self.orders.wait(10)


@contextmanager
def running_shop(folder: Path) -> Iterator[Shop]:
    """The demo shop's host and its order service, on free ports."""
    port, log, config = free_port(), folder / "orders.log", folder / "shop.yaml"
    address = f"127.0.0.1:{port}"
    text = SHOP.read_text().replace(PORT, address).replace("../faq-shop", f"{SHOP.parents[1]}/faq-shop")
    text = text.replace("demo: true", "demo: true\n          messages_per_minute: 1000")
    config.write_text(f"data_dir: {folder}/data\ngateway: {{port: 0}}\n{text}")
    with (
        program(mortal([sys.executable, str(ORDERS), str(port)]), log) as orders,
        run_host(folder / "data", config) as host,
        httpx.Client(timeout=ANSWER_S_MAX) as http,
    ):
        token = token_of(BOT, 1, load_secrets(folder / "data").pepper)
        yield Shop(Widget(host.url, token, http), address, log, orders)


def judged(question: Mapping[str, Any], widget: Widget, log: Path) -> Asked:
    """Ask one question."""
    seen, began_s = len(log.read_text()), time.monotonic()
    answer, end = widget.ask(question["ask"])
    calls = re.findall(r'"(GET|POST) /v1/orders/(\d+)', log.read_text()[seen:])
    called = [f"order_status {order}" if method == "GET" else f"cancel_order {order}!" for method, order in calls]
    if (confirm := end.get("confirm")) is not None:
        order = next(iter(re.findall(r"\d{4}", confirm["text"])), "")
        called.append(f"{confirm['action']} {order}")
    wanted = [f"{question['call']} {question['order']}"] if "call" in question else []
    lower = answer.lower()
    says = not question.get("says") or any(words.lower() in lower for words in question["says"])
    never = any(words.lower() in lower for words in question.get("never", ()))
    took_s = round(time.monotonic() - began_s, 2)
    return Asked(question["ask"], called == wanted, says and not never, ", ".join(called), answer, took_s)


def figures(questions: Sequence[Mapping[str, Any]] | None = None) -> dict[str, object]:
    """`action_right`: the part of the questions with the right call and the right answer, and what it is made of."""
    chosen = yaml.safe_load(QUESTIONS.read_text()) if questions is None else questions
    with tempfile.TemporaryDirectory(prefix="bh-orders-") as name, running_shop(Path(name)) as shop:
        asked = [judged(question, shop.widget, shop.log) for question in chosen]
    right = [one.right_call and one.right_answer for one in asked]
    return {
        "action_right": round(sum(right) / len(right), 3),
        "action_call_right": round(sum(one.right_call for one in asked) / len(asked), 3),
        "action_questions": len(asked),
        "actions": [asdict(one) for one in asked],
    }


def main() -> None:
    """Measure, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=RESULTS)
    write(parser.parse_args().out, figures())


if __name__ == "__main__":
    main()
