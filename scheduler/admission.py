"""The decision for one ticket: a pure function of ticket, engine, device, tenant and clock.

In order, and the first that holds decides:

    1. deadline passed                                             -> reject, deadline
    2. larger than the model's context, or than its whole KV pool  -> overflow or reject, never_fits
       larger than its tenant's limit of KV bytes                  -> reject, never_fits
    3. the engine cannot hold KV at the ticket's floor             -> overflow or reject, kv_bits
    4. engine not ready, telemetry stale, no slot free, or with
       more than `prefill_ahead_s_max` of prompts to work off      -> wait
    5. tenant at a limit of its own                                -> wait, tenant_limit
    6. only slots left that are kept from the tenant               -> wait, chats_max
    7. at the bits wanted, then, if demotable, at each lower precision down to the floor:
       KV bytes there, and no model's target broken                -> admit, admit_demoted
    8. else                                                        -> wait, with what was short

A tenant above its share of an engine meets a smaller one, while others are about: `headroom` of its pool is kept for
them, as far as that holds a chat like this one, and `latency_headroom` of each target; its prompts are let in one at a
time. `headroom` of the slots, one at least, is kept from it and from tenants that used more than their part lately
(`fairness.SlotUse`). Fails closed: without fresh telemetry nothing is admitted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from scheduler.ledger import Account, reserve_bytes
from scheduler.settings import SchedulerSettings
from scheduler.step_time import StepTimeModel
from services.contracts.chats import KvBits, Ticket
from services.contracts.decisions import Decision, Number, Outcome, Reason
from services.contracts.engines import EngineFacts, EngineState

Numbers = dict[str, Number]
Options = tuple[tuple[KvBits, int], ...]

# Looked up here once: each look at an enum's class costs as much as a call.
_READY, _KV_MEMORY, _ROOM = EngineState.READY, Reason.KV_MEMORY, Reason.ROOM
_WAIT, _ADMIT, _ADMIT_DEMOTED = Outcome.WAIT, Outcome.ADMIT, Outcome.ADMIT_DEMOTED

_STATE_REASONS = {
    EngineState.STARTING: Reason.MODEL_DOWN,
    EngineState.DRAINING: Reason.MODEL_DOWN,
    EngineState.DOWN: Reason.MODEL_DOWN,
    EngineState.ASLEEP: Reason.MODEL_ASLEEP,
}


@dataclass(slots=True)
class AdmissionContext:
    """What a decision sees beside ticket, engine, device and clock."""

    options: Options
    prompt_tokens_new: int  # without what the engine's cache is expected to hold
    prompt_tokens_kept: int = 0  # that the engine saw in the session's earlier turn
    over_share: bool = False  # the tenant holds more of this engine than its fair part
    leaves_slots: bool = False  # no slot is free but those kept from this tenant
    limit: str | None = None  # the limit that the tenant is at
    bytes_left: int | None = None  # of the tenant's own limit


def options(ticket: Ticket, facts: EngineFacts, settings: SchedulerSettings) -> Options:
    """(bits, bytes to reserve) to try, best first: as wanted, or the next higher that the engine holds, then,
    if the ticket is demotable, down to its floor. Empty where the engine holds nothing at or above the floor.
    """
    held: tuple[int, ...] = tuple(facts.kv_bytes_per_token)
    if not facts.live_kv_bits and facts.kv_bits in held:
        held = (facts.kv_bits,)
    choices: Options = ()
    tokens, page = ticket.tokens_max, settings.page_tokens
    for bits in _precisions(held, ticket.kv_bits, ticket.kv_bits_floor, ticket.demotable):
        choices += ((bits, reserve_bytes(facts, tokens, bits, page)),)
    return choices


@cache
def _precisions(held: tuple[int, ...], wanted: int, floor: int, demotable: bool) -> tuple[KvBits, ...]:
    """Bits to try, best first."""
    enough = sorted(bits for bits in held if bits >= floor)
    if not enough:
        return ()
    first = next((bits for bits in enough if bits >= wanted), enough[-1])
    lower = [bits for bits in reversed(enough) if bits < first] if demotable else []
    return tuple(KvBits(bits) for bits in (first, *lower))


def decide(
    ticket: Ticket, account: Account, device: StepTimeModel, context: AdmissionContext, now_s: float
) -> Decision:
    """Decide for one ticket; `device` is the one that the account's engine is on. Changes nothing."""
    if now_s >= ticket.deadline_s:
        return _too_late(ticket, now_s)
    refused = never(ticket, account.facts, context.options, device.settings)
    if refused is not None:
        return refused
    return decide_now(ticket, account, device, context, now_s)


def engine_unknown(ticket: Ticket, now_s: float) -> Decision:
    """The decision for a ticket whose engine has not reported yet."""
    if now_s >= ticket.deadline_s:
        return _too_late(ticket, now_s)
    return Decision(ticket.chat, _WAIT, Reason.MODEL_DOWN, ticket.kv_bits, numbers={"state": "unknown"})


def _too_late(ticket: Ticket, now_s: float) -> Decision:
    numbers: Numbers = {"waited_s": now_s - ticket.created_s}
    return Decision(ticket.chat, Outcome.REJECT, Reason.DEADLINE, ticket.kv_bits, numbers=numbers)


def decide_now(
    ticket: Ticket, account: Account, device: StepTimeModel, context: AdmissionContext, now_s: float
) -> Decision:
    """Steps 4 to 8, for a ticket that fits an idle engine."""
    closed = closed_to_all(account, device, now_s)
    if closed is None and (context.over_share or context.leaves_slots or context.limit is not None):
        closed = _closed_to_tenant(account, device, context, now_s)
    if closed is not None:
        return Decision(ticket.chat, _WAIT, closed[0], ticket.kv_bits, numbers=closed[1])
    return _fit(ticket, account, device, context, now_s)


def closed_to_all(account: Account, device: StepTimeModel, now_s: float) -> tuple[Reason, Numbers] | None:
    """Why the engine takes nobody at all right now, with the numbers, or None."""
    settings = device.settings
    if account.state is not _READY:
        return _STATE_REASONS[account.state], {"state": account.state.value}
    age_s = now_s - account.reported_s
    if age_s > settings.telemetry_age_s_max:
        return Reason.TELEMETRY_STALE, {"age_s": age_s, "age_s_max": settings.telemetry_age_s_max}
    running = len(account.reservations)
    if running >= account.facts.chats_max:
        return Reason.CHATS_MAX, {"running": running, "kept": 0}
    backlog_s = device.prefill_backlog_s(now_s)
    if backlog_s > settings.prefill_ahead_s_max:
        return Reason.FIRST_TOKEN, {"backlog_s": backlog_s, "ahead_s_max": settings.prefill_ahead_s_max}
    return None


def _closed_to_tenant(
    account: Account, device: StepTimeModel, context: AdmissionContext, now_s: float
) -> tuple[Reason, Numbers] | None:
    settings = device.settings
    if context.limit is not None:
        return Reason.TENANT_LIMIT, {"limit": context.limit}
    if context.leaves_slots:
        kept = slots_kept(account.facts.chats_max, settings.headroom)
        return Reason.CHATS_MAX, {"running": len(account.reservations), "kept": kept}
    if not context.over_share:
        return None
    backlog_s = device.prefill_backlog_s(now_s)
    if settings.latency_headroom and backlog_s > 0:
        return Reason.FIRST_TOKEN, {"backlog_s": backlog_s, "ahead_s_max": 0.0}
    return None


def slots_kept(slots: int, headroom: float) -> int:
    """Slots kept from a tenant above its share: at least one, where there are two, so that a few slots are no reason
    to wait for a whole answer."""
    return max(int(headroom * slots), min(1, slots - 1)) if headroom else 0


def never(ticket: Ticket, facts: EngineFacts, choices: Options, settings: SchedulerSettings) -> Decision | None:
    """The refusals that no waiting can change."""
    least = choices[-1][1] if choices else 0
    allowed = settings.share(ticket.tenant).kv_bytes_max
    if allowed is not None and least > allowed:  # nor another provider: the limit is the tenant's own
        numbers: Numbers = {"need_bytes": least, "kv_bytes_max": allowed}
        return Decision(ticket.chat, Outcome.REJECT, Reason.NEVER_FITS, ticket.kv_bits, numbers=numbers)
    tokens = ticket.tokens_max
    if choices and least <= facts.kv_budget_bytes and tokens <= facts.context_tokens:
        return None
    reason, numbers = Reason.NEVER_FITS, {}
    if tokens > facts.context_tokens:
        numbers = {"tokens": tokens, "context_tokens": facts.context_tokens}
    elif not choices:
        reason = Reason.KV_BITS
        best = max(facts.kv_bytes_per_token) if facts.live_kv_bits else int(facts.kv_bits)
        numbers = {"floor": int(ticket.kv_bits_floor), "engine_bits": best}
    else:
        numbers = {"need_bytes": least, "budget_bytes": facts.kv_budget_bytes}
    outcome = Outcome.OVERFLOW if ticket.overflow else Outcome.REJECT
    return Decision(ticket.chat, outcome, reason, ticket.kv_bits, reserve_bytes=least, numbers=numbers)


def headroom_bytes(account: Account, context: AdmissionContext, settings: SchedulerSettings) -> int:
    """Bytes that the tenant must leave to the others, by a chat that is no larger than that."""
    return int(settings.headroom * account.facts.kv_budget_bytes) if context.over_share else 0


def _fit(ticket: Ticket, account: Account, device: StepTimeModel, context: AdmissionContext, now_s: float) -> Decision:
    """Find the best precision at which memory and bandwidth are there."""
    settings = device.settings
    margin, headroom = settings.latency_margin, 0
    if context.over_share:
        margin, headroom = max(margin, settings.latency_headroom), headroom_bytes(account, context, settings)
    available = account.available_bytes
    reason, numbers = _KV_MEMORY, Numbers()
    for bits, need in context.options:
        if context.bytes_left is not None and need > context.bytes_left:
            continue  # at its last precision it is within the limit
        kept = headroom if headroom >= need else 0
        if need > available - kept:
            reason = _KV_MEMORY
            numbers = {"need_bytes": need, "available_bytes": available, "kept_bytes": kept}
            continue
        prefill_s = device.prefill_s(ticket.model, context.prompt_tokens_new)
        broken = device.breaks(ticket.model, need, prefill_s, now_s, margin)
        if broken is None:
            outcome = _ADMIT_DEMOTED if bits < ticket.kv_bits else _ADMIT
            numbers = {"need_bytes": need, "available_bytes": available, "prefill_s": prefill_s}
            return Decision(ticket.chat, outcome, _ROOM, bits, reserve_bytes=need, numbers=numbers)
        reason, model, predicted_s, most_s = broken
        numbers = {
            "breaks": model,
            "predicted_ms": predicted_s * 1e3,
            "most_ms": most_s * 1e3,
            "sharing": device.sharing.value,
        }
    return Decision(ticket.chat, _WAIT, reason, ticket.kv_bits, numbers=numbers)
