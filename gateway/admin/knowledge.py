"""What a bot knows: added, listed, removed, tried. Bots answer from it within seconds, at every gateway."""

from __future__ import annotations

import base64
import binascii
import secrets
from pathlib import PurePath
from typing import Annotated, Literal

from fastapi import Query, status
from pydantic import BaseModel, ConfigDict, Field

from gateway.admin.auth import Actor, Operator, Viewer
from gateway.admin.common import Host, bot_of, note, noted, routes
from gateway.admin.errors import BadValue, Conflict, NotFound, Unavailable
from gateway.admin.schemas import Page
from gateway.knowledge.catalog import KnowledgeNotReady
from gateway.knowledge.program import ProgramFailed, read_document
from services.contracts.knowledge import Passage
from services.store.knowledge import KnowledgeFull, KnowledgeSource, KnowledgeStore
from services.store.registry_edit import read_registry

BASE64_CHARS_MAX = 2_000_000  # the body has 2 MiB; larger files are named in the configuration
INDEX_WAIT_S_MAX = 5.0
Url = Annotated[str, Field(max_length=2000, pattern=r"^https?://[^\s]+$")]

router = routes("knowledge")


class DocumentNew(BaseModel):
    """A document: its text, or a file of base64. The name's ending says what it is."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=200, examples=["returns.md"])
    text: str | None = Field(default=None, max_length=BASE64_CHARS_MAX)
    base64: str | None = Field(default=None, max_length=BASE64_CHARS_MAX)
    title: str = Field(
        default="", max_length=200, description="What visitors see as the source. Default: the document's."
    )
    url: Url | None = Field(default=None, description="Where visitors can read it.")


class FaqNew(BaseModel):
    """A question and its answer."""

    model_config = ConfigDict(extra="forbid")

    question: str = Field(min_length=1, max_length=500)
    answer: str = Field(min_length=1, max_length=4000)
    url: Url | None = None


class KnowledgeShown(BaseModel):
    """Something that was added."""

    id: str
    kind: Literal["document", "faq"]
    title: str
    url: str | None
    added_s: float
    passages: int
    chars: int

    @classmethod
    def of(cls, source: KnowledgeSource) -> KnowledgeShown:
        """As answers show it."""
        return cls.model_validate(source.model_dump())


class KnowledgeHit(BaseModel):
    """A passage that a question finds. `known`: the bot would answer from it."""

    title: str
    text: str
    question: str
    url: str | None
    source: str
    score: float
    known: bool


@router.get("/bots/{tenant}/{bot}/knowledge")
async def index(tenant: str, bot: str, host: Host, _: Viewer) -> Page[KnowledgeShown]:
    """What was added through this API, newest first."""
    await _checked(host, tenant, bot)
    found = await KnowledgeStore(host.connection).sources(f"{tenant}/{bot}")
    return Page(items=[KnowledgeShown.of(source) for source in found])


@router.post("/bots/{tenant}/{bot}/knowledge/documents", status_code=status.HTTP_201_CREATED)
async def add_document(tenant: str, bot: str, new: DocumentNew, host: Host, actor: Operator) -> KnowledgeShown:
    """Add a document: Markdown, HTML, PDF, DOCX, CSV or plain text. Lines of `Q:` and `A:` become FAQ pairs."""
    await _checked(host, tenant, bot)
    added = _new(host, "document", new.title or PurePath(new.name).name, new.url)
    try:
        passages = await read_document(new.name, _data(new), title=new.title, url=new.url, source=added.id)
    except ProgramFailed as error:
        raise BadValue(f"The document was not read: {error}.", param="name") from None
    return await _kept(host, actor, f"{tenant}/{bot}", added, passages)


@router.post("/bots/{tenant}/{bot}/knowledge/faq", status_code=status.HTTP_201_CREATED)
async def add_faq(tenant: str, bot: str, new: FaqNew, host: Host, actor: Operator) -> KnowledgeShown:
    """Add a question with the answer to give."""
    await _checked(host, tenant, bot)
    added = _new(host, "faq", new.question, new.url)
    pair = Passage("FAQ", new.answer, new.question, new.url, added.id)
    return await _kept(host, actor, f"{tenant}/{bot}", added, [pair])


@router.delete("/bots/{tenant}/{bot}/knowledge/{source}", status_code=status.HTTP_204_NO_CONTENT)
async def remove(tenant: str, bot: str, source: str, host: Host, actor: Operator) -> None:
    """Remove a document or pair that was added."""
    await _checked(host, tenant, bot)
    if not await KnowledgeStore(host.connection).remove(f"{tenant}/{bot}", source):
        raise NotFound(f"{tenant}/{bot} has no document or pair {source!r}.", param="source")
    await noted(host, note(host, actor, "knowledge.remove", f"{tenant}/{bot}", before={"id": source}))


@router.get("/bots/{tenant}/{bot}/knowledge/search")
async def search(
    tenant: str,
    bot: str,
    q: Annotated[str, Query(min_length=1, max_length=1000)],
    host: Host,
    _: Viewer,
    limit: Annotated[int, Query(ge=1, le=20)] = 5,
) -> Page[KnowledgeHit]:
    """What a question finds, best first, with scores between 0 and 1."""
    threshold = await _checked(host, tenant, bot)
    try:
        hits = await host.knowledge.search(f"{tenant}/{bot}", q, limit, INDEX_WAIT_S_MAX)
    except KnowledgeNotReady as error:
        raise Unavailable(str(error), code="knowledge_not_ready") from None
    return Page(
        items=[
            KnowledgeHit(
                title=hit.passage.title,
                text=hit.passage.text,
                question=hit.passage.question,
                url=hit.passage.url,
                source=hit.passage.source,
                score=hit.score,
                known=hit.score >= threshold,
            )
            for hit in hits
        ]
    )


async def _checked(host: Host, tenant: str, bot: str) -> float:
    """The bot's threshold. Raises NotFound, and Conflict where it answers from its prompt alone."""
    knowledge = bot_of(await read_registry(host.connection), tenant, bot).knowledge
    if knowledge is None:
        raise Conflict(f"{tenant}/{bot} has no `knowledge` section. PATCH it with {{}} first.", code="no_knowledge")
    return knowledge.threshold


async def _kept(host: Host, actor: Actor, bot: str, added: KnowledgeSource, passages: list[Passage]) -> KnowledgeShown:
    chars = sum(len(passage.question) + len(passage.text) for passage in passages)
    stored = added.model_copy(update={"passages": len(passages), "chars": chars})
    try:
        await KnowledgeStore(host.connection).add(bot, stored, passages)
    except KnowledgeFull as error:
        raise Conflict(f"{error}. Remove something first.", code="knowledge_full") from None
    after = {"id": stored.id, "kind": stored.kind, "title": stored.title}
    await noted(host, note(host, actor, "knowledge.add", bot, after=after))
    return KnowledgeShown.of(stored)


def _new(host: Host, kind: Literal["document", "faq"], title: str, url: str | None) -> KnowledgeSource:
    return KnowledgeSource(
        id=f"k-{secrets.token_hex(6)}", kind=kind, title=title, url=url, added_s=host.clock(), passages=0, chars=0
    )


def _data(new: DocumentNew) -> bytes:
    if (new.text is None) == (new.base64 is None):
        raise BadValue("Send either text or base64.", param="text")
    if new.text is not None:
        return new.text.encode()
    try:
        return base64.b64decode(new.base64 or "", validate=True)
    except binascii.Error as error:
        raise BadValue(f"base64: {error}.", param="base64") from None
