"""Messages by which a visitor asks for a person. A small table: whoever is missed has the widget's button."""

from __future__ import annotations

import re
import unicodedata

CHARS_MAX = 200  # a longer message is about something else, though it names a person
PUNCTUATION = " \t\n.!?¡¿。"

_PERSON = {
    "en": r"(?:human|person|agent|representative|someone real|real person|staff member|employee|operator|somebody)",
    "de": r"(?:menschen?|person|mitarbeiter(?:in)?|berater(?:in)?|kundenberater(?:in)?|jemandem|jemanden)",
    "fr": r"(?:humain|personne|conseill[eè]re?|agent|quelqu['’]un|employ[eé]e?|op[eé]rateur)",
    "es": r"(?:humano|persona|agente|alguien|asesora?|operadora?|empleado)",
    "it": r"(?:umano|persona|operatore|operatrice|agente|qualcuno|addetto)",
    "pt": r"(?:humano|pessoa|atendente|agente|algu[eé]m|operador)",
}
_ASK = {
    "en": r"(?:(?:talk|speak|chat|connect(?: me)?|put me through|transfer(?: me)?)\s+(?:to|with)|get me|i (?:want|need)"
    r"(?= an? (?:real )?(?:human|person|agent|operator)\b(?!['’])))",
    "fr": r"(?:parler|discuter|(?:être|etre) mise? en relation|contacter|passer)",
    "es": r"(?:hablar|chatear|comunicarme|contactar|p[aá]same|conectarme)",
    "it": r"(?:parlare|chattare|contattare|passami|mettermi in contatto)",
    "pt": r"(?:falar|conversar|contatar|contactar|atendido por)",
}
_EAST_ASIAN = (
    r"(?:人間|担当者|オペレーター|スタッフ|人).{0,6}(?:話|つない|繋い|代わっ|相談)",
    r"(?:상담원|상담사|사람|직원).{0,8}(?:연결|통화|이야기|얘기|상담|대화|바꿔)",
    r"(?:转|轉|找|联系|聯繫|接).{0,3}(?:人工|真人|客服)|(?:和|跟|与|與).{0,4}(?:真人|人工|客服|人).{0,4}(?:说话|說話|聊|谈|談|通话)|人工(?:客服|服务|服務)",
)
_DE = (
    rf"\bmit\s+(?:\w+\s+){{0,3}}{_PERSON['de']}\s+(?:\w+\s+){{0,2}}(?:sprechen|reden|chatten|verbinden|telefonieren)\b",
    rf"\b(?:sprechen|reden|verbinden)\b.{{0,15}}\bmit\s+(?:\w+\s+){{0,3}}{_PERSON['de']}\b",
    rf"\b(?:verbinde[nt]?)\b.{{0,10}}\bmit\s+(?:\w+\s+){{0,3}}{_PERSON['de']}\b",
)
_NOT = re.compile(r"\b(?:don['’]?t|do not|not|nicht|kein\w*|ne|pas|no|non|não|nao)\b")


def _latin(language: str) -> str:
    gap = r"\s+(?:\w+['’]?\s*){0,4}?"
    return rf"\b{_ASK[language]}{gap}\b{_PERSON[language]}\b"


_WHOLE = re.compile(
    r"(?:please\s+)?(?:human|agent|operator|real person|mensch|mitarbeiter|conseiller|humain|agente|humano|operatore|"
    r"atendente|人工|人工客服|オペレーター|担当者|상담원)(?:\s+(?:please|bitte))?"
)
_ASKS = re.compile("|".join([*(_latin(name) for name in _PERSON if name != "de"), *_DE, *_EAST_ASIAN]))


def asks_for_person(text: str, further: tuple[str, ...] = ()) -> bool:
    """Whether a message asks for a person. `further`: words of the bot's own that do."""
    plain = unicodedata.normalize("NFKC", text).casefold().strip(PUNCTUATION)
    if any(unicodedata.normalize("NFKC", words).casefold() in plain for words in further):
        return True
    if len(plain) > CHARS_MAX or _NOT.search(plain):
        return False
    return bool(_WHOLE.fullmatch(plain) or _ASKS.search(plain))
