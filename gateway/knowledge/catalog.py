"""Every bot's index, as this process has it open. It is built anew when the bot's knowledge changes.

Files lie under data_dir/knowledge, named by what they were made of, so that the processes of a host share them.
"""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from gateway.knowledge.program import ProgramFailed, build_index
from services.config.knowledge import KnowledgeConfig
from services.contracts.knowledge import Passage
from services.knowledge.index import INDEX_FORMAT, Hit, KnowledgeIndex
from services.store.connection import QueueUnavailable
from services.store.knowledge import KnowledgeStore
from services.store.registry import Registry

LOOK_S = 1.0
READY_S_MAX = 120.0  # /ready waits that long for the indexes of a start
AGAIN_S = 10.0  # after a build that failed
SMALL_BYTES_MAX = 256 * 1024  # a bot with less than that does not wait behind one with more
SMALL_BUILDS_MAX, LARGE_BUILDS_MAX = 2, 1  # at a time
STALE_FILE_S = 300.0  # another process of the host may be about to open a younger one
SHARED_SOURCE = "faq"  # of pairs in the configuration

log = structlog.get_logger()


class KnowledgeNotReady(Exception):
    """A bot's index is not there. The message says why."""


@dataclass
class OpenKnowledge:
    """One bot's. `tried`: its first build has ended, well or not."""

    made_of: str = ""
    index: KnowledgeIndex | None = None
    tried: asyncio.Event = field(default_factory=asyncio.Event)
    again_s: float = 0.0  # monotonic; after a failure


@dataclass(frozen=True, slots=True)
class KnowledgeCounts:
    """How many bots have their index, wait for it, or have none since it could not be built."""

    built: int
    building: int
    failed: int


class KnowledgeCatalog:
    """Indexes of all bots that have a `knowledge` section."""

    def __init__(
        self,
        folder: Path,
        store: KnowledgeStore,
        registry: Callable[[], Registry],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self._store = store
        self._registry = registry
        self._clock = clock
        self._open: dict[str, OpenKnowledge] = {}
        self._builds: dict[str, asyncio.Task[None]] = {}
        self._small, self._large = asyncio.Semaphore(SMALL_BUILDS_MAX), asyncio.Semaphore(LARGE_BUILDS_MAX)
        self._ready_from_s = clock() + READY_S_MAX

    async def watch(self) -> None:
        """Build what changed, until cancelled. What is open counts on while Redis is away."""
        try:
            while True:
                try:
                    await self._begin_builds()
                except QueueUnavailable as error:
                    log.warning("knowledge.unavailable", why=str(error))
                await asyncio.sleep(LOOK_S)
        finally:
            for build in self._builds.values():
                build.cancel()
            await asyncio.gather(*self._builds.values(), return_exceptions=True)

    async def look(self) -> None:
        """Bring all indexes up to date. Raises QueueUnavailable."""
        await asyncio.gather(*self._builds.values())
        await self._begin_builds()
        await asyncio.gather(*self._builds.values())

    async def index(self, bot: str, wait_s: float) -> KnowledgeIndex:
        """A bot's index. A bot that is new is waited for. Raises KnowledgeNotReady."""
        found = self._open.setdefault(bot, OpenKnowledge())
        try:
            await asyncio.wait_for(found.tried.wait(), wait_s)
        except TimeoutError:
            log.warning("knowledge.not_ready", bot=bot)
            raise KnowledgeNotReady("The index of this bot's knowledge is still being built. Try again soon.") from None
        if found.index is None:
            raise KnowledgeNotReady("The index of this bot's knowledge could not be built. It is tried again.")
        return found.index

    async def search(self, bot: str, query: str, limit: int, wait_s: float) -> list[Hit]:
        """The best passages of a bot, best first. Raises KnowledgeNotReady."""
        index = await self.index(bot, wait_s)
        return await asyncio.to_thread(index.search, query, limit)

    def counts(self) -> KnowledgeCounts:
        """Of the bots that the registry has now."""
        found = [self._open.get(bot) for bot in _wanted(self._registry())]
        building = sum(1 for each in found if each is None or not each.tried.is_set())
        built = sum(1 for each in found if each is not None and each.index is not None)
        return KnowledgeCounts(built, building, len(found) - built - building)

    def ready(self) -> bool:
        """Whether the start has its indexes, or has waited for them long enough. A later bot does not change that."""
        if self._clock() < self._ready_from_s and self.counts().building:
            return False
        self._ready_from_s = 0.0
        return True

    def problems(self, bot: str) -> Sequence[str]:
        """Files of the configuration that could not be read."""
        found = self._open.get(bot)
        return found.index.problems if found and found.index else ()

    async def _begin_builds(self) -> None:
        """A task for each bot whose knowledge changed; a bot has one at a time."""
        wanted = _wanted(self._registry())
        versions = await self._store.versions() if wanted else {}
        for gone in self._open.keys() - wanted.keys():
            del self._open[gone]
        for bot in [bot for bot, build in self._builds.items() if build.done()]:
            del self._builds[bot]
        for bot, config in wanted.items():
            found = self._open.setdefault(bot, OpenKnowledge())
            if bot in self._builds or self._clock() < found.again_s:
                continue
            made_of = await asyncio.to_thread(_made_of, config, versions.get(bot, 0))
            if made_of != found.made_of:
                self._builds[bot] = asyncio.create_task(self._bring(bot, found, config, made_of))

    async def _bring(self, bot: str, found: OpenKnowledge, config: KnowledgeConfig, made_of: str) -> None:
        path = self.folder / bot.partition("/")[0] / f"{bot.partition('/')[2]}-{made_of}.sqlite"
        try:
            index = await asyncio.to_thread(_opened, path) or await self._built(bot, config, path)
        except (ProgramFailed, QueueUnavailable, sqlite3.Error, OSError) as error:
            log.error("knowledge.not_built", bot=bot, why=str(error))
            found.again_s = self._clock() + AGAIN_S
            found.tried.set()
            return
        for problem in index.problems:
            log.error("knowledge.file_left_out", bot=bot, why=problem)
        log.info("knowledge.built", bot=bot, passages=index.size)
        found.made_of = made_of
        found.index = index  # a search may still run in the old one, which closes with its last user
        found.tried.set()
        await asyncio.to_thread(_tidy, path)

    async def _built(self, bot: str, config: KnowledgeConfig, path: Path) -> KnowledgeIndex:
        """Raises ProgramFailed, QueueUnavailable, sqlite3.Error, OSError."""
        pairs = [Passage("FAQ", pair.a, pair.q, source=SHARED_SOURCE) for pair in config.faq]
        passages = [*pairs, *await self._store.passages(bot)]
        size = sum(len(each.question) + len(each.text) for each in passages)
        size += await asyncio.to_thread(_bytes_of, config.documents)
        async with self._small if size <= SMALL_BYTES_MAX else self._large:
            await build_index(path, passages, config.documents)
        return await asyncio.to_thread(KnowledgeIndex, path)


def _wanted(registry: Registry) -> Mapping[str, KnowledgeConfig]:
    return {
        f"{tenant}/{name}": bot.knowledge
        for tenant, record in registry.tenants.items()
        for name, bot in record.config.bots.items()
        if bot.knowledge is not None
    }


def _opened(path: Path) -> KnowledgeIndex | None:
    """The index that lies there, unless a file was left out of it: that one is tried again."""
    index = KnowledgeIndex(path) if path.exists() else None
    return None if index is None or index.problems else index


def _bytes_of(files: Sequence[Path]) -> int:
    return sum(file.stat().st_size for file in files if file.exists())


def _made_of(config: KnowledgeConfig, version: int) -> str:
    """A digest of everything that an index depends on."""
    said = hashlib.sha256(f"{INDEX_FORMAT} {version} {[(pair.q, pair.a) for pair in config.faq]}".encode())
    for path in config.documents:
        try:
            seen = path.stat()
            said.update(f"{path} {seen.st_mtime_ns} {seen.st_size}".encode())
        except OSError:
            said.update(f"{path} absent".encode())
    return said.hexdigest()[:20]


def _tidy(kept: Path) -> None:
    """Delete a bot's former files."""
    bot = kept.stem.rpartition("-")[0]
    for path in kept.parent.glob("*.sqlite"):
        old = time.time() - path.stat().st_mtime > STALE_FILE_S
        if path != kept and path.stem.rpartition("-")[0] == bot and old:
            path.unlink(missing_ok=True)
