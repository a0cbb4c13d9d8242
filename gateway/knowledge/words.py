"""The answer to an unknown question, and messages that ask for no knowledge."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from services.config.knowledge import KnowledgeConfig
from services.knowledge.terms import language_of

UNKNOWN: Mapping[str, str] = {
    "en": "I am sorry, I do not know that. Would you like to talk to a person?",
    "de": "Das weiß ich leider nicht. Möchten Sie mit einem Menschen sprechen?",
    "fr": "Désolé, je ne le sais pas. Voulez-vous parler à une personne ?",
    "es": "Lo siento, no lo sé. ¿Quiere hablar con una persona?",
    "it": "Mi dispiace, non lo so. Vuole parlare con una persona?",
    "pt": "Desculpe, não sei. Quer falar com uma pessoa?",
    "ja": "申し訳ありませんが、わかりません。担当者におつなぎしましょうか。",
    "ko": "죄송하지만 잘 모르겠습니다. 상담원과 이야기하시겠어요?",
    "zh": "抱歉，我不知道。您想和人工客服聊聊吗？",
}
SmallTalk = Literal["person", "greeting", "thanks", "reply"]
SMALL_TALK_CHARS_MAX = 80
# A message is small talk where all its words are these and one is of the kind, or where it begins as below.
_OF_KIND: Mapping[SmallTalk, str] = {
    "greeting": "hi hello hey good morning afternoon evening hallo guten tag morgen abend moin servus grüezi bonjour "
    "salut bonsoir hola buenos buenas días tardes noches buongiorno ciao olá oi bom dia boa tarde",
    "thanks": "thanks thank thx danke dank merci gracias grazie obrigado obrigada",
    "reply": "yes no ok okay sure bye goodbye great perfect fine "
    "ja nein gern gerne gut prima tschüss oui non sí si sim não",
}
_FILLERS = (
    "you there all very much so a lot for your help how are is it please bitte schön sehr vielen zusammen beaucoup da"
)
_PERSONS = (
    "human person someone somebody agent operator staff mensch menschen mitarbeiter mitarbeiterin berater jemand "
    "jemandem personne humain persona pessoa umano humano"
)
_WISHES = (
    "want like need speak talk connect please möchte will kann sprechen reden verbinden bitte parler hablar "
    "parlare falar"
)
_OF_CHARACTERS: Mapping[SmallTalk, tuple[str, ...]] = {
    "person": ("担当者", "人と話", "人間と", "オペレーター", "상담원", "人工客服", "转人工", "真人"),
    "greeting": ("こんにちは", "こんばんは", "おはよう", "はじめまして", "안녕하세요", "你好", "您好"),
    "thanks": ("ありがとう", "どうも", "감사합니다", "谢谢"),
    "reply": ("はい", "いいえ", "わかりました", "了解", "さようなら", "네", "아니요", "好的"),
}
_CHARACTERS_MAX = 14  # of such a message; a longer one goes on to ask something


def small_talk(text: str) -> SmallTalk | None:
    """What a message is that asks for no knowledge: the wish for a person, a greeting, thanks, a yes or no."""
    said = re.sub(r"[^\w\s']", " ", text.lower()).split()
    if len(text) > SMALL_TALK_CHARS_MAX or not said:
        return None
    words = set(said)
    if not words.isdisjoint(_PERSONS.split()) and (len(said) <= 2 or not words.isdisjoint(_WISHES.split())):
        return "person"
    for kind, known in _OF_KIND.items():
        if words <= _ALL and not words.isdisjoint(known.split()):
            return kind
    for kind, beginnings in _OF_CHARACTERS.items():
        if kind == "person" and any(each in text for each in beginnings):
            return kind
        if len(text) <= _CHARACTERS_MAX and text.startswith(beginnings):
            return kind
    return None


_ALL = frozenset(" ".join((*_OF_KIND.values(), _FILLERS)).split())


def unknown_answer(config: KnowledgeConfig, text: str) -> str:
    """What the bot says to a question that its knowledge does not answer, in the question's language."""
    language = language_of(text)
    own = {str(name): words for name, words in config.unknown.items()}
    return own.get(language) or (UNKNOWN[language] if language in UNKNOWN and not own else None) or _first(own)


def _first(own: Mapping[str, str]) -> str:
    return next(iter(own.values()), UNKNOWN["en"])
