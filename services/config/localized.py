"""Texts that a bot's owner writes for its visitors: one for all, or one for each language."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, TypeVar, get_args

from pydantic import Field

Language = Literal["en", "de", "fr", "es", "it", "pt", "ja", "ko", "zh"]  # that the widget speaks
LANGUAGES: tuple[Language, ...] = get_args(Language)
DEFAULT_LANGUAGE: Language = "en"

Line = Annotated[str, Field(min_length=1, max_length=120)]
Paragraph = Annotated[str, Field(max_length=500)]
Lines = Annotated[tuple[Line, ...], Field(max_length=4)]
LocalizedLine = Line | Annotated[dict[Language, Line], Field(min_length=1)]
LocalizedParagraph = Paragraph | Annotated[dict[Language, Paragraph], Field(min_length=1)]
LocalizedLines = Lines | Annotated[dict[Language, Lines], Field(min_length=1)]

Text = TypeVar("Text")


def in_language(text: Text | Mapping[Language, Text], language: Language) -> Text:
    """The text in a language; else in English, else the first that there is."""
    if not isinstance(text, Mapping):
        return text
    return text.get(language) or text.get(DEFAULT_LANGUAGE) or next(iter(text.values()))


def language_of(tag: str) -> Language | None:
    """The widget's language for a tag such as `pt-BR` or `zh_Hant`. None: it does not speak it."""
    primary = tag.strip().lower().replace("_", "-").partition("-")[0]
    return next((language for language in LANGUAGES if language == primary), None)


def accepted_language(header: str) -> Language | None:
    """The first language of an Accept-Language header, by weight, that the widget speaks."""
    weighted: list[tuple[float, str]] = []
    for part in header[:1000].split(","):
        tag, _, weight = part.partition(";q=")
        try:
            weighted.append((float(weight or 1), tag))
        except ValueError:
            continue
    tags = (tag for weight, tag in sorted(weighted, key=lambda one: -one[0]) if weight > 0)
    return next((language for tag in tags if (language := language_of(tag))), None)
