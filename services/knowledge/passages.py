"""Files as passages: FAQ pairs where a text has them, else the pieces of a document."""

from __future__ import annotations

import re
from collections.abc import Iterator

from services.contracts.knowledge import Passage
from services.knowledge.parsing import Document, parse, text_of

PASSAGE_CHARS_MAX = 900
_PAIR = re.compile(r"^Q:[ \t]*(?P<q>.+?)\s*^A:[ \t]*(?P<a>.+?)\s*(?=^Q:|^#|\Z)", re.MULTILINE | re.DOTALL)
_TEXTS = (".md", ".markdown", ".txt")


def passages_of(name: str, data: bytes, *, title: str = "", url: str | None = None, source: str = "") -> list[Passage]:
    """A file's. `title` is what visitors see as the source. Raises DocumentUnreadable."""
    document = parse(name, data)
    shown = title or document.title
    if name.lower().endswith(_TEXTS) and (pairs := pairs_of(text_of(data), title=shown, url=url, source=source)):
        return pairs
    return list(split(Document(shown, document.sections), url=url, source=source))


def pairs_of(text: str, *, title: str, url: str | None = None, source: str = "") -> list[Passage]:
    """The FAQ pairs in a text: lines that begin with `Q:` and `A:`. Whatever else it says is left out."""
    return [
        Passage(title, " ".join(found["a"].split()), " ".join(found["q"].split()), url, source)
        for found in _PAIR.finditer(text)
        if found["a"].strip()
    ]


def split(document: Document, *, url: str | None = None, source: str = "") -> Iterator[Passage]:
    """A document's sections, each in passages of PASSAGE_CHARS_MAX at most that end where sentences do."""
    from semantic_text_splitter import TextSplitter  # noqa: PLC0415  (in Rust, only where documents are read)

    splitter = TextSplitter(PASSAGE_CHARS_MAX)
    for section in document.sections:
        title = f"{document.title}: {section.heading}" if section.heading else document.title
        for text in splitter.chunks(section.text):
            yield Passage(title, text, url=url, source=source)
