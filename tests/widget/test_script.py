"""The widget's script as browsers load it."""

from __future__ import annotations

import gzip
import re

from gateway.widget.script import PARTS, read, script
from services.config.localized import LANGUAGES

GZIPPED_BYTES_MAX = 25_000
TABLE = re.compile(r"^  (\w\w): \{\n(.*?)^  \},$", re.DOTALL | re.MULTILINE)
ENTRY = re.compile(r"(\w+): \"((?:[^\"\\]|\\.)*)\"")


def tables() -> dict[str, dict[str, str]]:
    return {language: dict(ENTRY.findall(body)) for language, body in TABLE.findall(read("script/texts.js"))}


def test_the_script_is_small_and_whole() -> None:
    body, tag = script()
    assert len(gzip.compress(body)) < GZIPPED_BYTES_MAX
    assert tag.startswith('"')
    text = body.decode()
    for name in PARTS:
        assert read(f"script/{name}.js") in text.replace(read("widget.css"), "STYLE_SHEET")
    assert ":host" in text


def test_every_language_says_everything() -> None:
    found = tables()
    assert set(found) == set(LANGUAGES)
    for language, texts in found.items():
        assert texts.keys() == found["en"].keys(), language
        for key, text in texts.items():
            assert text.strip(), (language, key)
            assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", found["en"][key])), (language, key)


def test_every_text_that_the_script_asks_for_exists_and_is_used() -> None:
    code = "\n".join(read(f"script/{name}.js") for name in PARTS if name != "texts")
    failures = re.search(r"const FAILURES = \{(.*?)\};", read("script/texts.js"), re.DOTALL)
    assert failures is not None
    used = set(re.findall(r"\"(\w+)\"", code + failures[1]))
    known = tables()["en"].keys()
    assert set(re.findall(r"\bsay\(\"(\w+)\"", code)) <= known
    assert known <= used
