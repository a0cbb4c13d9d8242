"""What was added to bots' knowledge through the admin API. Every gateway builds its own index of it.

A bot has two hashes, one with what lists show and one with the passages, and a version that grows with each change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter

from services.contracts.knowledge import Passage
from services.store import redis_keys as keys
from services.store.connection import Connection, translated

SOURCES_MAX = 2_000  # of one bot
CHARS_MAX = 20_000_000  # of one bot
_PASSAGES = TypeAdapter(list[Passage])


class KnowledgeFull(Exception):
    """A bot's knowledge would exceed its bounds. The message says which."""


class KnowledgeSource(BaseModel):
    """Something that was added: a document, or an FAQ pair."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    kind: Literal["document", "faq"]
    title: str
    url: str | None = None
    added_s: float
    passages: int
    chars: int


class KnowledgeStore:
    """Bots are `tenant/bot`. Methods raise QueueUnavailable."""

    def __init__(self, connection: Connection) -> None:
        self._redis: Any = connection.redis

    async def versions(self) -> Mapping[str, int]:
        """Of all bots that something was ever added to."""
        with translated():
            found = await self._redis.hgetall(keys.KNOWLEDGE_VERSIONS)
        return {bot.decode(): int(version) for bot, version in found.items()}

    async def sources(self, bot: str) -> list[KnowledgeSource]:
        """What was added, newest first."""
        with translated():
            stored = await self._redis.hvals(keys.knowledge_sources(bot))
        found = [KnowledgeSource.model_validate_json(each) for each in stored]
        return sorted(found, key=lambda source: (-source.added_s, source.id))

    async def passages(self, bot: str) -> list[Passage]:
        """All that was added, in pieces, in no order."""
        with translated():
            stored = await self._redis.hvals(keys.knowledge_passages(bot))
        return [passage for each in stored for passage in _PASSAGES.validate_json(each)]

    async def add(self, bot: str, source: KnowledgeSource, passages: Sequence[Passage]) -> None:
        """Add something, or replace what has its id. Raises KnowledgeFull."""
        others = [other for other in await self.sources(bot) if other.id != source.id]
        if len(others) >= SOURCES_MAX:
            raise KnowledgeFull(f"{bot} has {SOURCES_MAX} documents and pairs already")
        if sum(other.chars for other in others) + source.chars > CHARS_MAX:
            raise KnowledgeFull(f"{bot} would have more than {CHARS_MAX} characters of knowledge")
        with translated():
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.hset(keys.knowledge_sources(bot), source.id, source.model_dump_json())
                pipe.hset(keys.knowledge_passages(bot), source.id, _PASSAGES.dump_json(list(passages)))
                pipe.hincrby(keys.KNOWLEDGE_VERSIONS, bot, 1)
                await pipe.execute()

    async def remove(self, bot: str, source: str) -> bool:
        """Forget one. False where it is not there."""
        with translated():
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.hdel(keys.knowledge_sources(bot), source)
                pipe.hdel(keys.knowledge_passages(bot), source)
                pipe.hincrby(keys.KNOWLEDGE_VERSIONS, bot, 1)
                removed, *_ = await pipe.execute()
        return bool(removed)

    async def clear(self, *bots: str) -> None:
        """Forget all of some bots', so that later bots of these names know nothing of it."""
        if not bots:
            return
        with translated():
            async with self._redis.pipeline(transaction=True) as pipe:
                for bot in bots:
                    pipe.delete(keys.knowledge_sources(bot), keys.knowledge_passages(bot))
                    pipe.hincrby(keys.KNOWLEDGE_VERSIONS, bot, 1)
                await pipe.execute()
