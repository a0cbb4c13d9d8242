"""Writes the replies of all chats in batches: what gathers while one batch is on its way is the next batch."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import structlog

from services.store.connection import retried
from services.store.work import ReplyPiece, WorkConsumer

LINES_MAX = 512  # in one batch
GATHER_S = 0.002

log = structlog.get_logger()


class ReplyWriter:
    """Appends pieces in order. `on_fenced(chat)` is called when a newer attempt has taken a chat over.

    Redis may go away: lines wait and are tried again. Their places in the stream make a second try harmless.

    A batch costs what dozens of lines in it do. So where lines come fast, which a batch of several tells, there is one
    in `GATHER_S` at most.
    """

    def __init__(self, work: WorkConsumer, on_fenced: Callable[[str], None]) -> None:
        self._work = work
        self._on_fenced = on_fenced
        self._lines: list[ReplyPiece] = []
        self._put = 0  # lines ever put
        self._written = 0  # lines ever written
        self._news = asyncio.Event()
        self._flushes: deque[tuple[int, asyncio.Future[None]]] = deque()  # lines that must be written, for whom

    def put(self, line: ReplyPiece) -> None:
        """Queue one piece. Its size is bounded by the chats under way and their `max_tokens`."""
        self._lines.append(line)
        self._put += 1
        self._news.set()

    async def flush(self) -> None:
        """Return when everything that was put so far is written."""
        if self._written < self._put:
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._flushes.append((self._put, done))
            await done

    async def run(self) -> None:
        """Write until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._news.wait()
            self._news.clear()
            while self._lines:
                began_s = loop.time()
                batch = self._lines[:LINES_MAX]
                await self._write(joined(batch))
                del self._lines[: len(batch)]
                self._written += len(batch)
                while self._flushes and self._flushes[0][0] <= self._written:
                    _, done = self._flushes.popleft()
                    if not done.done():  # its chat was cancelled
                        done.set_result(None)
                if len(batch) > 1 and (early_s := began_s + GATHER_S - loop.time()) > 0:
                    await asyncio.sleep(early_s)

    async def _write(self, batch: list[ReplyPiece]) -> None:
        for chat in await retried(lambda: self._work.write(batch)):
            self._on_fenced(chat)


def joined(lines: list[ReplyPiece]) -> list[ReplyPiece]:
    """Neighbouring pieces of one chat that gathered while the last batch was on its way become one."""
    joined: list[ReplyPiece] = []
    last: dict[tuple[str, int], int] = {}
    for line in lines:
        key = (line.chat, line.attempt)
        at = last.get(key)
        if at is not None and joined[at].content is line.content:
            joined[at] = joined[at].and_then(line)
        else:
            last[key] = len(joined)
            joined.append(line)
    return joined
