"""Every bot's index, as this process has it open. It is built anew when the bot's knowledge changes.

Files lie under data_dir/knowledge, named by what they were made of, so that the processes of a host share them.
"""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from gateway.knowledge.program import ProgramFailed, build_index
from services.config.knowledge import KnowledgeConfig
from services.contracts.knowledge import Passage
from services.knowledge.index import Hit, KnowledgeIndex
from services.store.connection import QueueUnavailable
from services.store.knowledge import KnowledgeStore
from services.store.registry import Registry

LOOK_S = 1.0
FIRST_S_MAX = 3.0  # a chat waits that long for a bot's first index
STALE_FILE_S = 300.0  # another process of the host may be about to open a younger one
SHARED_SOURCE = "faq"  # of pairs in the configuration

log = structlog.get_logger()


@dataclass
class OpenKnowledge:
    """One bot's. `problems`: files of its configuration that could not be read."""

    made_of: str = ""
    index: KnowledgeIndex | None = None
    problems: list[str] = field(default_factory=list)
    ready: asyncio.Event = field(default_factory=asyncio.Event)


class KnowledgeCatalog:
    """Indexes of all bots that have a `knowledge` section."""

    def __init__(self, folder: Path, store: KnowledgeStore, registry: Callable[[], Registry]) -> None:
        self.folder = folder
        self._store = store
        self._registry = registry
        self._open: dict[str, OpenKnowledge] = {}

    async def watch(self) -> None:
        """Build what changed, until cancelled. What is open counts on while Redis is away."""
        while True:
            try:
                await self.look()
            except QueueUnavailable as error:
                log.warning("knowledge.unavailable", why=str(error))
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Bring all indexes up to date. Raises QueueUnavailable."""
        wanted = _wanted(self._registry())
        versions = await self._store.versions() if wanted else {}
        for gone in self._open.keys() - wanted.keys():
            self._close(gone)
        for bot, config in wanted.items():
            await self._bring(bot, config, versions.get(bot, 0))

    async def index(self, bot: str) -> KnowledgeIndex | None:
        """A bot's index. A bot that is new is waited for a moment."""
        found = self._open.setdefault(bot, OpenKnowledge())
        if not found.ready.is_set():
            try:
                await asyncio.wait_for(found.ready.wait(), FIRST_S_MAX)
            except TimeoutError:
                log.warning("knowledge.not_ready", bot=bot)
        return found.index

    async def search(self, bot: str, query: str, limit: int) -> list[Hit]:
        """The best passages of a bot, best first."""
        index = await self.index(bot)
        return [] if index is None else await asyncio.to_thread(index.search, query, limit)

    def problems(self, bot: str) -> list[str]:
        """Files of the configuration that could not be read."""
        found = self._open.get(bot)
        return found.problems if found else []

    async def _bring(self, bot: str, config: KnowledgeConfig, version: int) -> None:
        found = self._open.setdefault(bot, OpenKnowledge())
        made_of = await asyncio.to_thread(_made_of, config, version)
        if made_of == found.made_of:
            return
        path = self.folder / bot.partition("/")[0] / f"{bot.partition('/')[2]}-{made_of}.sqlite"
        try:
            if not path.exists() or config.documents:  # files are read again for their problems' sake
                pairs = [Passage("FAQ", pair.a, pair.q, source=SHARED_SOURCE) for pair in config.faq]
                added = await self._store.passages(bot)
                built = await build_index(path, [*pairs, *added], config.documents)
                found.problems = built.problems
            index = await asyncio.to_thread(KnowledgeIndex, path)
        except (ProgramFailed, sqlite3.Error, OSError) as error:
            log.error("knowledge.not_built", bot=bot, why=str(error))
            return
        for problem in found.problems:
            log.error("knowledge.file_left_out", bot=bot, why=problem)
        log.info("knowledge.built", bot=bot, passages=index.size)
        found.made_of = made_of
        found.index = index  # a search may still run in the old one, which closes with its last user
        found.ready.set()
        await asyncio.to_thread(_tidy, path)

    def _close(self, bot: str) -> None:
        del self._open[bot]


def _wanted(registry: Registry) -> Mapping[str, KnowledgeConfig]:
    return {
        f"{tenant}/{name}": bot.knowledge
        for tenant, record in registry.tenants.items()
        for name, bot in record.config.bots.items()
        if bot.knowledge is not None
    }


def _made_of(config: KnowledgeConfig, version: int) -> str:
    """A digest of everything that an index depends on."""
    said = hashlib.sha256(f"{version} {[(pair.q, pair.a) for pair in config.faq]}".encode())
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
