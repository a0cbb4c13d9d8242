"""The decision for one ticket: a pure function of ticket, engine, device, tenant and clock.

In order, and the first that holds decides:

    1. deadline passed                                             -> reject, deadline
    2. larger than the model's context, or than its whole KV pool  -> overflow or reject, never_fits
    3. the engine cannot hold KV at the ticket's floor             -> overflow or reject, kv_bits
    4. engine not ready, not heard of, without a slot, or with
       more than `prefill_ahead_s_max` of prompts to work off      -> wait
    5. tenant at a limit of its own                                -> wait, tenant_limit
    6. tenant above its share, and only kept slots left            -> wait, chats_max
    7. at the bits wanted, then, if demotable, at each lower precision down to the floor:
       KV bytes there, and no model's target broken                -> admit, admit_demoted
    8. else                                                        -> wait, with what was short

A tenant above its share of an engine meets a smaller one: `headroom` of its pool, slots and targets is
kept for the others, as far as that holds a chat like this one. Fails closed: without fresh telemetry
nothing is admitted.
"""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.bandwidth import Device
from scheduler.ledger import Account, reserve_bytes
from scheduler.settings import SchedulerSettings
from scheduler.types import Decision, EngineFacts, EngineState, KvBits, Outcome, Reason, Ticket

Numbers = dict[str, float | int | str]

_STATE_REASONS = {
    EngineState.STARTING: Reason.MODEL_DOWN,
    EngineState.DRAINING: Reason.MODEL_DOWN,
    EngineState.DOWN: Reason.MODEL_DOWN,
    EngineState.ASLEEP: Reason.MODEL_ASLEEP,
}


@dataclass(slots=True)
class TenantView:
    """What a decision sees of the tenant."""

    over_share: bool = False  # holds more of this engine than its fair part
    limit: str | None = None  # the limit that it is at
    limit_wait_s: float = 0.0
    prompt_tokens_new: int = 0  # without what the engine's cache is expected to hold


def precisions(ticket: Ticket, facts: EngineFacts) -> list[KvBits]:
    """Bits to try, best first: as wanted, or the next higher that the engine holds, then down to the floor.

    Empty where the engine holds nothing at or above the floor.
    """
    held = sorted(facts.kv_bytes_per_token)
    if not facts.live_kv_bits and facts.kv_bits in facts.kv_bytes_per_token:
        held = [int(facts.kv_bits)]
    enough = [bits for bits in held if bits >= ticket.kv_bits_floor]
    if not enough:
        return []
    first = next((bits for bits in enough if bits >= ticket.kv_bits), enough[-1])
    lower = [bits for bits in reversed(enough) if bits < first] if ticket.demotable else []
    return [KvBits(bits) for bits in (first, *lower)]


def decide(
    ticket: Ticket,
    account: Account | None,
    device: Device,
    tenant: TenantView,
    *,
    settings: SchedulerSettings,
    now_s: float,
) -> Decision:
    """Decide for one ticket. Changes nothing."""
    if now_s >= ticket.deadline_s:
        return _no(ticket, Outcome.REJECT, Reason.DEADLINE, waited_s=now_s - ticket.created_s)
    if account is None:
        return _no(ticket, Outcome.WAIT, Reason.MODEL_DOWN, state="unknown")
    refused = never(ticket, account.facts, settings)
    if refused is not None:
        return refused
    closed = closed_to_all(account, device, settings, now_s) or _closed_to_tenant(account, tenant, settings)
    if closed is not None:
        return Decision(ticket.chat, Outcome.WAIT, closed[0], ticket.kv_bits, numbers=closed[1])
    return _fit(ticket, account, device, tenant, settings=settings, now_s=now_s)


def closed_to_all(
    account: Account, device: Device, settings: SchedulerSettings, now_s: float
) -> tuple[Reason, Numbers] | None:
    """Why the engine takes nobody at all right now, with the numbers, or None."""
    if account.state is not EngineState.READY:
        return _STATE_REASONS[account.state], {"state": account.state.value}
    age_s = now_s - account.heard_s
    if age_s > settings.telemetry_age_s_max:
        return Reason.TELEMETRY_STALE, {"age_s": age_s, "age_s_max": settings.telemetry_age_s_max}
    if account.chats_free <= 0:
        return Reason.CHATS_MAX, {"running": len(account.reservations), "kept": 0}
    backlog_s = device.prefill_backlog_s(now_s)
    if backlog_s > settings.prefill_ahead_s_max:
        return Reason.FIRST_TOKEN, {"backlog_s": backlog_s, "ahead_s_max": settings.prefill_ahead_s_max}
    return None


def _closed_to_tenant(
    account: Account, tenant: TenantView, settings: SchedulerSettings
) -> tuple[Reason, Numbers] | None:
    if tenant.limit is not None:
        return Reason.TENANT_LIMIT, {"limit": tenant.limit, "limit_wait_s": tenant.limit_wait_s}
    slots_kept = int(settings.headroom * account.facts.chats_max) if tenant.over_share else 0
    if account.chats_free <= slots_kept:
        return Reason.CHATS_MAX, {"running": len(account.reservations), "kept": slots_kept}
    return None


def never(ticket: Ticket, facts: EngineFacts, settings: SchedulerSettings) -> Decision | None:
    """The refusals that no waiting can change."""
    outcome = Outcome.OVERFLOW if ticket.overflow else Outcome.REJECT
    tokens = ticket.tokens_max
    if tokens > facts.context_tokens:
        return _no(ticket, outcome, Reason.NEVER_FITS, tokens=tokens, context_tokens=facts.context_tokens)
    bits = precisions(ticket, facts)
    if not bits:
        best = max(facts.kv_bytes_per_token) if facts.live_kv_bits else int(facts.kv_bits)
        return _no(ticket, outcome, Reason.KV_BITS, floor=int(ticket.kv_bits_floor), engine_bits=best)
    least = reserve_bytes(facts, tokens, bits[-1], settings.page_tokens)
    if least > facts.kv_budget_bytes:
        return _no(ticket, outcome, Reason.NEVER_FITS, need_bytes=least, budget_bytes=facts.kv_budget_bytes)
    return None


def _fit(
    ticket: Ticket, account: Account, device: Device, tenant: TenantView, *, settings: SchedulerSettings, now_s: float
) -> Decision:
    """Find the best precision at which memory and bandwidth are there."""
    facts, tokens = account.facts, ticket.tokens_max
    prefill_s = device.prefill_s(ticket.model, tenant.prompt_tokens_new)
    available = account.available_bytes
    short: Decision | None = None
    for bits in precisions(ticket, facts):
        need = reserve_bytes(facts, tokens, bits, settings.page_tokens)
        kept = int(settings.headroom * facts.kv_budget_bytes) if tenant.over_share else 0
        kept = kept if kept >= need else 0
        if need > available - kept:
            short = _no(
                ticket, Outcome.WAIT, Reason.KV_MEMORY, need_bytes=need, available_bytes=available, kept_bytes=kept
            )
            continue
        margin = settings.headroom if tenant.over_share else 0.0
        broken = device.breaks(ticket.model, need, prefill_s, now_s, margin)
        if broken is not None:
            reason, model, predicted_s, most_s = broken
            short = _no(
                ticket, Outcome.WAIT, reason, breaks=model, predicted_ms=predicted_s * 1e3, most_ms=most_s * 1e3
            )
            continue
        outcome = Outcome.ADMIT_DEMOTED if bits < ticket.kv_bits else Outcome.ADMIT
        numbers = {"need_bytes": need, "available_bytes": available, "prefill_s": prefill_s}
        return Decision(ticket.chat, outcome, Reason.ROOM, bits, reserve_bytes=need, numbers=numbers)
    assert short is not None  # noqa: S101  (never() saw at least one precision)
    return short


def _no(ticket: Ticket, outcome: Outcome, reason: Reason, **numbers: float | int | str) -> Decision:
    return Decision(ticket.chat, outcome, reason, ticket.kv_bits, numbers=numbers)
