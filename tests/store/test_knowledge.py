"""What is added to a bot's knowledge is kept within bounds, and for that bot alone."""

from __future__ import annotations

import pytest

from services.contracts.knowledge import Passage
from services.store import knowledge
from services.store.connection import connect
from services.store.knowledge import KnowledgeFull, KnowledgeSource, KnowledgeStore


def source(name: str, chars: int = 10) -> KnowledgeSource:
    return KnowledgeSource(id=name, kind="document", title=name, added_s=1.0, passages=1, chars=chars)


async def test_a_bots_knowledge_is_its_own_and_each_change_has_a_version(redis_url: str) -> None:
    async with connect(redis_url) as connection:
        store = KnowledgeStore(connection)
        await store.add("acme/a", source("one"), [Passage("one", "text")])
        first = (await store.versions())["acme/a"]
        await store.add("acme/b", source("two"), [Passage("two", "text")])
        assert [each.id for each in await store.sources("acme/a")] == ["one"]
        assert await store.passages("acme/a") == [Passage("one", "text")]
        assert await store.remove("acme/a", "one")
        assert not await store.remove("acme/a", "one")
        await store.clear("acme/b")
        assert await store.passages("acme/a") == await store.passages("acme/b") == []
        assert (await store.versions())["acme/a"] > first


async def test_more_than_the_bound_is_refused(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knowledge, "SOURCES_MAX", 2)
    async with connect(redis_url) as connection:
        store = KnowledgeStore(connection)
        await store.add("acme/a", source("one", knowledge.CHARS_MAX - 5), [])
        with pytest.raises(KnowledgeFull, match="characters"):
            await store.add("acme/a", source("two", 6), [])
        await store.add("acme/a", source("two", 5), [])
        await store.add("acme/a", source("two", 4), [])  # in its own place
        with pytest.raises(KnowledgeFull, match="2 documents"):
            await store.add("acme/a", source("three", 0), [])
