"""The model routes: what a tenant may name as `model`."""

from __future__ import annotations

from typing import Any

from gateway.call import Call
from gateway.state import Gateway


async def index(gateway: Gateway, call: Call) -> None:
    """GET /v1/models: the tenant's bots."""
    call.tenant = await gateway.directory.authenticate(call.authorization)
    bots = gateway.directory.bots(call.tenant)
    await call.respond_json({"object": "list", "data": [_shown(gateway, call.tenant, bot) for bot in bots]})


async def show(gateway: Gateway, call: Call, name: str) -> None:
    """GET /v1/models/{tenant}/{bot}, or the bare bot."""
    call.tenant = await gateway.directory.authenticate(call.authorization)
    await call.respond_json(_shown(gateway, call.tenant, gateway.directory.bot(call.tenant, name).id))


def _shown(gateway: Gateway, tenant: str, bot_id: str) -> dict[str, Any]:
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
