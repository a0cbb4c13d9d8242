"""A bot's KV policy: it counts from the next chat on, so changing it costs nothing and needs no job."""

from __future__ import annotations

from typing import Any

from gateway.admin.auth import Operator
from gateway.admin.bots import check_policy, with_bot
from gateway.admin.catalog import at_bits, configured, quality_of
from gateway.admin.common import Host, bot_of, note, routes
from gateway.admin.errors import BadValue, Conflict
from gateway.admin.schemas import BotKv, BotKvAnswer
from gateway.directory import EngineNow, engine_now
from gateway.kv_policies import choose
from gateway.state import Gateway
from services.config.schema import BotConfig, KvPolicyConfig
from services.contracts.chats import Task
from services.contracts.engines import EngineView
from services.planner.kv_change import held_bits, unkept
from services.store.registry import Registry
from services.store.registry_edit import edit, read_registry

router = routes("bots")


@router.put("/bots/{tenant}/{bot}/kv")
async def put_kv(tenant: str, bot: str, wanted: BotKv, host: Host, actor: Operator) -> BotKvAnswer:
    """Give a bot another KV policy, or fixed bits."""
    before = bot_of(await read_registry(host.connection), tenant, bot)
    after = _policy(wanted)
    configured(host, before.model)
    engine = (await host.submissions.engines()).get(before.model)
    _check(before, after, engine)
    if not wanted.dry_run:

        def change(registry: Registry) -> tuple[Registry, Any]:
            now = bot_of(registry, tenant, bot)
            entry = note(host, actor, "bot.kv", f"{tenant}/{bot}", before=now.kv, after=after)
            return with_bot(registry, tenant, bot, now.model_copy(update={"kv": after})), entry

        await edit(host.connection, change)
    return await _answer(host, f"{tenant}/{bot}", before, after, engine, dry_run=wanted.dry_run)


def _policy(wanted: BotKv) -> KvPolicyConfig:
    if (wanted.policy is None) == (wanted.bits is None):
        raise BadValue("Give either `policy` or `bits`.", param="policy")
    policy = wanted.policy or KvPolicyConfig(policy="fixed", bits=wanted.bits)
    check_policy(policy)
    return policy


def _check(bot: BotConfig, after: KvPolicyConfig, engine: EngineView | None) -> None:
    """Raises Conflict for a promise that the model cannot keep."""
    why = unkept(after, bot.model, engine)
    if engine is not None and why is not None:
        raise Conflict(why, code="kv_bits", param="policy", would_fit=held_bits(engine))


async def _answer(
    host: Gateway, bot: str, before: BotConfig, after: KvPolicyConfig, engine: EngineView | None, *, dry_run: bool
) -> BotKvAnswer:
    now = _engine_now(host, before.model, engine)
    task = Task(before.task or Task.SUPPORT)
    bits_now, bits_new = (int(choose(kv, task, now).wanted) for kv in (before.kv, after))
    sizes = engine.facts.kv_bytes_per_token if engine else {}
    quality = await quality_of(host, before.model)
    return BotKvAnswer(
        bot=bot,
        dry_run=dry_run,
        done=not dry_run,
        before=before.kv,
        after=after,
        bits_typical=bits_new,
        bytes_per_token_now=sizes.get(bits_now),
        bytes_per_token_new=sizes.get(bits_new),
        quality_now=at_bits(quality, bits_now),
        quality_new=at_bits(quality, bits_new),
        words=_words(bits_now, bits_new, now),
    )


def _engine_now(host: Gateway, model: str, engine: EngineView | None) -> EngineNow:
    known = host.engines.get(model)
    if engine is None and known is not None:
        return known
    if engine is None:
        return EngineNow((4, 8, 16), live=True, context_tokens=0)
    return engine_now(engine.facts)


def _words(bits_now: int, bits_new: int, engine: EngineNow) -> str:
    if not engine.live:
        return f"All chats of this model have {engine.bits_available[0]} bits; only the policy's floor applies."
    if bits_now == bits_new:
        return f"A typical chat keeps {bits_new} bits."
    return f"A typical chat changes from {bits_now} to {bits_new} bits, starting with the next chat."
