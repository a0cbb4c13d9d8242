"""The parser's place between engine and reply stream: what it says reaches whoever reads the stream."""

from __future__ import annotations

from collections.abc import Sequence

from services.contracts.replies import ContentKind, ReplyEntry
from services.store.records import decode_entry, decode_news
from services.store.work import ReplyPiece
from services.worker.parsers import ContentParser, Parsed
from services.worker.reply_writer import joined
from tests.worker.conftest import Bunk, running

REASONING_CHARS = 12


class _FirstReasons:
    """An answer's first characters are reasoning. The last piece is held back until the next one comes."""

    def __init__(self, written: str) -> None:
        self._length = len(written)
        self._held: list[Parsed] = []

    def feed(self, text: str, tokens: int, logprobs: str = "") -> Sequence[Parsed]:
        certain, self._held = self._held, []
        if text or tokens:
            kind = ContentKind.REASONING if self._length < REASONING_CHARS else ContentKind.CONTENT
            self._held = [Parsed(kind, text, tokens)]
            self._length += len(text)
        return certain

    def finish(self) -> Sequence[Parsed]:
        return self._held


def test_pieces_that_gathered_are_joined_only_with_their_own_kind() -> None:
    kinds = [ContentKind.REASONING, ContentKind.REASONING, ContentKind.CONTENT, ContentKind.REASONING]
    pieces = [ReplyPiece("a", 1, place, str(place), 1, content=kind) for place, kind in enumerate(kinds, 1)]
    pieces.insert(1, ReplyPiece("b", 1, 1, "other", 1))
    found = [(piece.chat, piece.text, piece.before, piece.place, piece.content) for piece in joined(pieces)]
    assert found == [
        ("a", "12", 0, 2, ContentKind.REASONING),
        ("b", "other", 0, 1, ContentKind.CONTENT),
        ("a", "3", 2, 3, ContentKind.CONTENT),
        ("a", "4", 3, 4, ContentKind.REASONING),
    ]


def test_content_comes_as_it_is() -> None:
    parser = ContentParser("before")
    assert [*parser.feed("Hello", 1, '[{"token":"Hello"}]'), *parser.feed("", 0), *parser.feed("", 1)] == [
        Parsed(ContentKind.CONTENT, "Hello", 1, None, '[{"token":"Hello"}]'),
        Parsed(ContentKind.CONTENT, "", 1),
    ]
    assert not parser.finish()


def test_an_entry_of_an_older_worker_is_content() -> None:
    assert decode_entry(b"1-1", {b"t": b"Hi", b"n": b"2"}).content is ContentKind.CONTENT
    assert decode_news("1-1", "Hi", 2).content is ContentKind.CONTENT


def _text(entries: Sequence[ReplyEntry], kind: ContentKind) -> str:
    return "".join(entry.text for entry in entries if entry.content is kind)


async def test_readers_see_what_the_parser_said_and_a_retry_goes_on_where_it_was(bunk: Bunk) -> None:
    worker = bunk.worker()
    worker._context.parser = _FirstReasons
    async with running(worker):
        whole = await bunk.entries((await bunk.submit("Count from 1 to 40.", max_tokens=48)).chat)
        chat = await bunk.submit("Count from 1 to 40.", max_tokens=48)
        await bunk.entries(chat.chat, until_text=8)
        bunk.engine_process().kill()
        entries = await bunk.entries(chat.chat)
    assert len(_text(entries, ContentKind.REASONING)) >= REASONING_CHARS
    for kind in ContentKind:
        assert _text(entries, kind) == _text(whole, kind)
    end = entries[-1].end
    assert end is not None
    assert end.usage is not None
    assert end.usage.completion_tokens == sum(entry.tokens for entry in entries)
