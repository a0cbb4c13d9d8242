"""The parser's place between engine and reply stream: what it says reaches whoever reads the stream."""

from __future__ import annotations

from collections.abc import Sequence

from services.contracts.chats import OutputFormat
from services.contracts.replies import ContentKind, ReplyEntry
from services.store.records import decode_entry, decode_news
from services.store.work import ReplyPiece
from services.worker.parsers.base import ContentParser, Parsed
from services.worker.reply_writer import joined
from tests.worker.conftest import Bunk, running

REASONING_CHARS = 12


class _FirstReasons:
    """An answer's first characters are reasoning. The last piece is held back until the next one comes."""

    called = False
    end_of_thoughts = ""

    def __init__(self, output: OutputFormat, chat: str, written: str) -> None:
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


def test_joined_pieces_keep_what_the_model_wrote_and_each_token_s_logprobs() -> None:
    pieces = [
        ReplyPiece("a", 1, 1, "Hi", 2, raw="<b>Hi", logprobs='[{"token":"Hi"}]'),
        ReplyPiece("a", 1, 2, " you", 1, logprobs='[{"token":" you"}]'),
        ReplyPiece("a", 1, 3, "", 1, raw="</b>"),
    ]
    [piece] = joined(pieces)
    assert (piece.text, piece.written, piece.tokens) == ("Hi you", "<b>Hi you</b>", 4)
    assert piece.logprobs == '[{"token":"Hi"},{"token":" you"}]'
    assert joined(pieces[1:2])[0].raw is None


def test_content_comes_as_it_is() -> None:
    parser = ContentParser()
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
    assert end.usage.reasoning_tokens == sum(
        entry.tokens for entry in entries if entry.content is ContentKind.REASONING
    )


class _Tagged(_FirstReasons):
    """Digits are shown as stars; each answer counts as a tool call."""

    called = True

    def feed(self, text: str, tokens: int, logprobs: str = "") -> Sequence[Parsed]:
        shown = "".join("*" if char.isdigit() else char for char in text)
        return (Parsed(ContentKind.TOOL_CALL, shown, tokens, text, logprobs),) if text or tokens else ()


async def test_a_retry_goes_on_after_the_model_s_own_text_not_after_what_was_shown(bunk: Bunk) -> None:
    worker = bunk.worker()
    worker._context.parser = _Tagged
    async with running(worker):
        chat = await bunk.submit("Count from 1 to 40.", max_tokens=24)
        whole = await bunk.entries(chat.chat)
        again = await bunk.submit("Count from 1 to 40.", max_tokens=24)
        await bunk.entries(again.chat, until_text=8)
        bunk.engine_process().kill()
        entries = await bunk.entries(again.chat)
        raw = [await worker._context.work.written(ticket.chat) for ticket in (chat, again)]
    assert _text(entries, ContentKind.TOOL_CALL) == _text(whole, ContentKind.TOOL_CALL)
    assert "*" in _text(entries, ContentKind.TOOL_CALL)
    assert raw[0].text == raw[1].text
    assert any(char.isdigit() for char in raw[0].text)
