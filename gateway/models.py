"""The model routes: what a tenant may name as `model`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.call import Call
from gateway.state import Gateway


async def index(gateway: Gateway, call: Call) -> None:
    """GET /v1/models: the tenant's bots."""
    call.tenant = await gateway.directory.authenticate(call.authorization)
    bots = gateway.directory.bots(call.tenant)
    shown = [_shown(gateway, call.tenant, bot) for bot in bots]
    if call.header(b"anthropic-version"):
        await call.respond_json({"data": list(map(_as_anthropic, shown)), "has_more": False, **_ends(bots)})
        return
    await call.respond_json({"object": "list", "data": shown})


async def show(gateway: Gateway, call: Call, name: str) -> None:
    """GET /v1/models/{tenant}/{bot}, or the bare bot."""
    call.tenant = await gateway.directory.authenticate(call.authorization)
    shown = _shown(gateway, call.tenant, gateway.directory.bot(call.tenant, name).id)
    await call.respond_json(_as_anthropic(shown) if call.header(b"anthropic-version") else shown)


def _shown(gateway: Gateway, tenant: str, bot_id: str) -> dict[str, object]:
    bot = gateway.directory.bot(tenant, bot_id)
    engine = gateway.engines.get(bot.config.model)
    contexts = [tokens for tokens in (bot.config.context_tokens, engine and engine.context_tokens) if tokens]
    return {
        "id": bot.id,
        "object": "model",
        "created": 0,
        "owned_by": tenant,
        "context_length": min(contexts) if contexts else None,
        "kv_bits": engine.bits_available if engine else (),
    }


def _as_anthropic(shown: Mapping[str, object]) -> dict[str, object]:
    """A bot as Anthropic's clients read it."""
    return {
        "type": "model",
        "id": shown["id"],
        "display_name": shown["id"],
        "created_at": "1970-01-01T00:00:00Z",
        "max_input_tokens": shown["context_length"],
    }


def _ends(bots: Sequence[str]) -> dict[str, object]:
    return {"first_id": bots[0] if bots else None, "last_id": bots[-1] if bots else None}
