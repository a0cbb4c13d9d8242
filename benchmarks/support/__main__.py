"""The demo shop's bot, measured: `python -m benchmarks.support` (`make bench-support`).

It runs examples/widget/shop.yaml with SmolLM2-135M and asks by the widget, at temperature 0: the FAQ's own questions
and 60 paraphrases at 8 and 4 KV bits, and 40 questions that the FAQ does not answer. Search alone is measured on 120
paraphrases. What search adds is the gateway's own time for a bot of 10,000 passages beside one without knowledge.
Last line: one JSON object.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import yaml

from benchmarks.output import write
from benchmarks.support import questions
from benchmarks.support_actions import ANSWER_S_MAX, BOT, SHOP, Widget
from benchmarks.support_actions import figures as action_figures
from gateway.widget.sites import token_of
from services.config.host_secrets import load_secrets
from services.knowledge.index import KnowledgeIndex, build
from tests.host_process import ROOT, run_host

RESULTS = ROOT / "docs" / "benchmarks" / "support.json"
PASSAGES = 10_000
ASKED_OF_MANY = 30  # of the bot with so many passages, and of the one without
TENANT, NAME = BOT.split("/")


class Judged(NamedTuple):
    """How many were asked, and which were answered wrongly."""

    asked: int
    wrong: list[str]

    @property
    def right(self) -> float:
        return round(1 - len(self.wrong) / self.asked, 3)


def retrieval(folder: Path) -> dict[str, object]:
    """Whether the right pair is among the first three, and first."""
    build(folder / "shop.sqlite", questions.passages())
    index = KnowledgeIndex(folder / "shop.sqlite")
    asked = list(questions.paraphrases())
    places: list[int] = []
    for question in asked:
        wanted = questions.pairs(question.language)[question.pair].text
        found = [hit.passage.text for hit in index.search(question.text, 3)]
        places.append(found.index(wanted) if wanted in found else -1)
    return {
        "retrieval_hit3": round(sum(place >= 0 for place in places) / len(places), 3),
        "retrieval_hit1": round(places.count(0) / len(places), 3),
        "retrieval_questions": len(places),
    }


def demo_questions() -> Iterable[tuple[str, str]]:
    """The FAQ's own questions and 60 paraphrases, each with its answer."""
    for language in questions.FILES:
        yield from ((pair.question, pair.text) for pair in questions.pairs(language))
    for asked in questions.demo_questions():
        yield asked.text, questions.pairs(asked.language)[asked.pair].text


def shop_config(folder: Path, bits: int) -> Path:
    """The demo shop at so many KV bits, with a bot of 10,000 passages and one that knows nothing."""
    config = yaml.safe_load(SHOP.read_text())
    for model in config["models"].values():
        model["kv_bits"] = bits
    shop = config["tenants"][TENANT]["bots"][NAME]
    shop["widget"]["messages_per_minute"] = 1000
    shop["knowledge"]["documents"] = [str((SHOP.parent / each).resolve()) for each in shop["knowledge"]["documents"]]
    many = folder / "many.md"
    many.write_text(_many())
    bare = {"model": shop["model"], "system": shop["system"]}
    config["tenants"][TENANT]["bots"] |= {"many": {**bare, "knowledge": {"documents": [str(many)]}}, "bare": bare}
    path = folder / "shop.yaml"
    path.write_text(yaml.safe_dump({"data_dir": str(folder / "data"), "gateway": {"port": 0}, **config}))
    return path


def asked_of_the_bot(folder: Path, bits: int, *, whole: bool) -> dict[str, object]:
    """Answers by the widget. `whole`: unknown questions and times, too."""
    with (
        run_host(folder / "data", shop_config(folder, bits)) as host,
        httpx.Client(timeout=ANSWER_S_MAX) as http,
    ):
        widget = Widget(host.url, token_of(BOT, 1, load_secrets(folder / "data").pepper), http)
        demo = list(demo_questions())
        right = Judged(len(demo), [text for text, answer in demo if widget.ask(text)[0] != answer])
        found: dict[str, object] = {f"demo_right_kv{bits}": right.right, f"demo_wrong_kv{bits}": right.wrong}
        if whole:
            texts = questions.unknown()
            unknown = Judged(len(texts), [text for text in texts if not widget.ask(text)[1].get("missed")])
            with httpx.Client(base_url=host.url, headers=host.headers(TENANT), timeout=ANSWER_S_MAX) as api:
                found |= {
                    "demo_questions": right.asked,
                    "unknown_right": unknown.right,
                    "unknown_questions": unknown.asked,
                    "unknown_wrong": unknown.wrong,
                    "cached_prompt_part": _cached_part(api),
                    **_times(api),
                }
    return found


def _cached_part(api: httpx.Client) -> float:
    """Of the prompt of a visitor's first question, after another visitor's."""
    usage: dict[str, Any] = {}
    for text in ("How do I return something?", "Is your wood certified?"):
        usage = _asked(api, NAME, text).json()["usage"]
    cached, tokens = usage["prompt_tokens_details"]["cached_tokens"], usage["prompt_tokens"]
    return round(float(cached) / float(tokens), 3)


def _times(api: httpx.Client) -> dict[str, object]:
    """The gateway's own time before a chat waits, in ms: median of the two bots, asked in turn."""
    spent: dict[str, list[float]] = {"many": [], "bare": []}
    texts = [question.text for question in questions.paraphrases()]
    for text in random.Random(1).sample(texts, ASKED_OF_MANY):
        for bot, times in spent.items():
            times.append(float(_asked(api, bot, text).headers["x-bunkhouse-overhead-ms"]))
    many, bare = (statistics.median(times) for times in spent.values())
    return {
        "retrieval_added_ms": round(many - bare, 2),
        "retrieval_passages": PASSAGES,
        "gateway_ms_with": round(many, 2),
        "gateway_ms_without": round(bare, 2),
    }


def _asked(api: httpx.Client, bot: str, text: str) -> httpx.Response:
    body = {"model": bot, "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 2}
    answer = api.post("/v1/chat/completions", json=body)
    answer.raise_for_status()
    return answer


def _many() -> str:
    """A document of 10,000 sections whose words come from the shop's FAQ and from lists of parts."""
    chosen = random.Random(7)
    words = " ".join(pair.text for pair in questions.pairs("en")).split()
    sections = (
        f"## Part {number}\n\n{' '.join(chosen.choices(words, k=40))} part{number}." for number in range(PASSAGES)
    )
    return "# Parts\n\n" + "\n\n".join(sections) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--without-actions", action="store_true", help="leave the questions about orders out")
    options = parser.parse_args(arguments)
    figures: dict[str, object] = {}
    if not options.without_actions:
        figures |= {name: value for name, value in action_figures().items() if name != "actions"}
    with tempfile.TemporaryDirectory(prefix="bh-support-") as name:
        folder = Path(name)
        figures |= retrieval(folder)
        for bits in (8, 4):
            (folder / str(bits)).mkdir()
            figures |= asked_of_the_bot(folder / str(bits), bits, whole=bits == 8)
    write(options.out, figures)


if __name__ == "__main__":
    main()
