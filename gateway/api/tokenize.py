"""POST /tokenize, as vLLM has it: the tokens of a text, or of messages as the bot's model reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import ConfigDict, Field

from gateway.api.shapes import Shape, checked
from gateway.call import Call
from gateway.chats import json_body
from gateway.outcomes import Code, Refused
from gateway.prompt import Prompt
from gateway.request import checked_chat
from gateway.state import Gateway
from gateway.submit import served

CHAT = "messages"
NOT_EXACT = "The engine alone knows this model's token ids; the count is near its own, or an upper bound."


class TokenizeRequest(Shape):
    """The body of POST /tokenize: `prompt`, or `messages` and what else a chat request has."""

    model_config = ConfigDict(extra="allow")

    model: Annotated[str, Field(min_length=1, max_length=160)]
    prompt: str | None = None
    add_special_tokens: bool = True


async def create(gateway: Gateway, call: Call) -> None:
    """POST /tokenize. Raises Refused, QueueUnavailable, ClientGone."""
    body = await json_body(gateway, call)
    request = checked(TokenizeRequest, body)
    if (request.prompt is None) == (CHAT not in body):
        raise Refused(Code.INVALID_VALUE, "Send either `prompt` or `messages`.", param="prompt")
    bot, engine = served(gateway, call.tenant or "", request.model)
    if request.prompt is not None:
        prompt = await gateway.prompts.raw(bot, request.prompt, engine, special=request.add_special_tokens)
    else:
        prompt = await gateway.prompts.prepare(bot, checked_chat(_chat(body)), engine)
    await call.respond_json(_shown(prompt))


def _chat(body: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in body.items() if name not in ("prompt", "add_special_tokens")}


def _shown(prompt: Prompt) -> dict[str, object]:
    exact = not isinstance(prompt.content, str)
    shown: dict[str, object] = {"count": prompt.tokens, "max_model_len": prompt.context_tokens}
    return {**shown, "tokens": prompt.content if exact else None, "token_strs": None} | (
        {} if exact else {"note": NOT_EXACT}
    )
