"""Topics that a bot does not talk about (gateway/knowledge/refusals.py)."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from services.config.localized import LocalizedParagraph

TOPICS_MAX = 20
PHRASES_MAX = 30  # of one topic

Phrase = Annotated[str, Field(min_length=1, max_length=200, pattern=r"\w")]


class RefusedTopic(BaseModel):
    """A topic by what visitors say of it, in each of their languages. A phrase of one word stands for every mention.

    `says`: the answer; None: a sentence in the question's language.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    phrases: Annotated[tuple[Phrase, ...], Field(min_length=1, max_length=PHRASES_MAX)]
    says: LocalizedParagraph | None = None
