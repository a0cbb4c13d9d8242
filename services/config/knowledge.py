"""What a bot knows (gateway/knowledge): FAQ pairs and documents, and how much of them a prompt gets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

FAQ_MAX = 500
DOCUMENTS_MAX = 200  # named in the configuration
Language = Literal["en", "de", "fr", "es", "it", "pt", "ja", "ko", "zh"]


class FaqPair(BaseModel):
    """A question and the answer to give."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    q: str = Field(min_length=1, max_length=500)
    a: str = Field(min_length=1, max_length=4000)


class KnowledgeConfig(BaseModel):
    """A bot with this section answers from what it finds here, and from what was added through the admin API.

    Relative paths are relative to the configuration's folder. A file with lines that begin with `Q:` and `A:` is read
    as FAQ pairs, any other as a document.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    faq: tuple[FaqPair, ...] = Field(default=(), max_length=FAQ_MAX)
    documents: tuple[Path, ...] = Field(default=(), max_length=DOCUMENTS_MAX)
    tokens_max: int = Field(default=600, ge=50, le=16_000)  # of what is found, in one prompt
    pinned_tokens_max: int = Field(default=300, ge=0, le=8_000)  # of FAQ pairs that every prompt begins with
    passages_max: int = Field(default=3, ge=1, le=20)
    threshold: float = Field(default=0.28, ge=0, le=1)  # a question whose best passage scores less is unknown
    verbatim: bool = False  # a question that an FAQ pair answers gets its answer word for word, by any model
    decline: bool = True  # an unknown question is answered with `unknown`; else the model answers as it likes
    unknown: dict[Language, Annotated[str, Field(min_length=1, max_length=500)]] = {}  # else gateway/knowledge/words.py

    def below(self, folder: Path) -> Self:
        """The same, with documents that have a relative path in `folder`."""
        if not self.documents:
            return self
        return self.model_copy(update={"documents": tuple((folder / each).resolve() for each in self.documents)})
