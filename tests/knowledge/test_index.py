"""Questions find the passages that answer them, in languages with and without spaces."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.support.questions import pairs, paraphrases, passages, unknown
from services.contracts.knowledge import Passage
from services.knowledge.index import KnowledgeIndex, build

THRESHOLD = 0.28


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> KnowledgeIndex:
    path = tmp_path_factory.mktemp("knowledge") / "shop.sqlite"
    build(path, passages())
    return KnowledgeIndex(path)


def test_nine_of_ten_paraphrases_find_their_pair_among_the_first_three(shop: KnowledgeIndex) -> None:
    wanted = {language: pairs(language) for language in ("en", "de", "ja")}
    asked = list(paraphrases())
    missed = [
        question.text
        for question in asked
        if wanted[question.language][question.pair] not in [hit.passage for hit in shop.search(question.text)]
    ]
    assert len(asked) == 120
    assert len(missed) <= 12, missed


def test_unknown_questions_score_below_the_threshold(shop: KnowledgeIndex) -> None:
    taken = [text for text in unknown() if any(hit.score >= THRESHOLD for hit in shop.search(text))]
    assert len(taken) <= 6, taken


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("Die Versandkosten sind niedrig.", "Was kosten Pakete?"),  # inside a compound
        ("Pflege der Schneidebretter", "Brett pflegen"),
        ("返品は60日以内です。", "返品できますか"),  # a word of two characters
        ("クレジットカードが使えます。", "クレジットカードは？"),
        ("Wir führen Pfeffermühlenmahlwerke.", "Pfeffermühle"),  # no known part
    ],
)
def test_compounds_and_short_words_are_found(tmp_path: Path, text: str, query: str) -> None:
    others = [Passage("other", f"Etwas anderes, Nummer {number}. 別の話です。") for number in range(20)]
    build(tmp_path / "i", [*others, Passage("wanted", text)])
    found = KnowledgeIndex(tmp_path / "i").search(query)
    assert found
    assert found[0].passage.title == "wanted"


@pytest.mark.parametrize("query", ["", "?!", "the of and", '"quoted" AND (bad OR NEAR/3', "*", "\x00", "a" * 10_000])
def test_no_query_breaks_the_search(shop: KnowledgeIndex, query: str) -> None:
    shop.search(query)


def test_the_program_reads_files_and_names_those_it_cannot(tmp_path: Path) -> None:
    good = tmp_path / "good.md"
    good.write_text("Q: How?\nA: So.\n")
    asked = {"path": str(tmp_path / "i"), "passages": [], "files": [str(good), str(tmp_path / "absent.md")]}
    done = subprocess.run(
        [sys.executable, "-m", "services.knowledge", "build"],
        input=json.dumps(asked).encode(),
        capture_output=True,
        check=True,
    )
    answer = json.loads(done.stdout)
    assert answer["size"] == 1
    assert "absent.md" in answer["problems"][0]
    assert KnowledgeIndex(tmp_path / "i").search("How?")[0].passage.text == "So."
