"""Questions about topics that a bot does not talk about: refused before its actions, its knowledge and its model."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.request import ChatRequest
from services.config.localized import LANGUAGES, Language, in_language
from services.config.schema import BotConfig
from services.knowledge.terms import language_of
from services.knowledge.topics import says_any

REFUSED: Mapping[Language, str] = {
    "en": "I am sorry, I cannot talk about that. Can I help you with something else?",
    "de": "Darüber kann ich leider nicht sprechen. Kann ich Ihnen anders helfen?",
    "fr": "Désolé, je ne peux pas en parler. Puis-je vous aider autrement ?",
    "es": "Lo siento, no puedo hablar de eso. ¿Puedo ayudarle con otra cosa?",
    "it": "Mi dispiace, non posso parlarne. Posso aiutarla con altro?",
    "pt": "Desculpe, não posso falar sobre isso. Posso ajudar com outra coisa?",
    "ja": "申し訳ありませんが、その話題にはお答えできません。ほかにお手伝いできることはありますか。",
    "ko": "죄송하지만 그 주제는 말씀드릴 수 없습니다. 다른 것을 도와드릴까요?",
    "zh": "抱歉，我无法谈论这个话题。还有其他可以帮您的吗？",
}


def refusal_of(bot: BotConfig, request: ChatRequest) -> str | None:
    """What a bot answers to a question of a refused topic; None: the question is answered as ever.

    A request whose client constrains the answer, by tools or a `response_format`, is left as it is.
    """
    if not bot.refuses or not request.asks_freely:
        return None
    asked = request.messages[-1].text
    for topic in bot.refuses.values():
        if says_any(asked, topic.phrases):
            return in_language(topic.says if topic.says is not None else REFUSED, _language(asked))
    return None


def _language(text: str) -> Language:
    found = language_of(text)
    return next((language for language in LANGUAGES if language == found), "en")
