"""Which running sessions to lower, so that a blocked head fits.

Only engines with live KV bits, and only sessions whose policy allows it. Largest saving first, and no more than the
ticket needs at its own floor; nothing at all where even that would not be enough. Fails closed: what was not confirmed
with `demoted` still counts at its higher precision.
"""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.admission import options
from scheduler.ledger import Account, reserve_bytes
from scheduler.settings import SchedulerSettings
from services.contracts.chats import KvBits, Ticket


@dataclass(frozen=True, slots=True)
class Demotion:
    """One running chat to lower to `kv_bits`, which frees `freed_bytes` of its reservation."""

    chat: str
    tenant: str
    session: str
    model: str
    kv_bits: KvBits
    freed_bytes: int


def plan(ticket: Ticket, account: Account, settings: SchedulerSettings) -> list[Demotion]:
    """Demotions that make room for `ticket`, or none. O(chats of the engine)."""
    facts = account.facts
    choices = options(ticket, facts, settings)
    if not facts.live_kv_bits or not choices:
        return []
    missing = choices[-1][1] - account.available_bytes
    if missing <= 0:
        return []
    found: list[Demotion] = []
    for held in account.reservations.values():
        lower = [b for b in facts.kv_bytes_per_token if held.kv_bits_floor <= b < held.kv_bits]
        if held.demotable and lower:
            to = KvBits(min(lower))
            freed = held.reserved_bytes - reserve_bytes(facts, held.tokens_max, to, settings.page_tokens)
            found.append(Demotion(held.chat, held.tenant, held.session, held.model, to, freed))
    found.sort(key=lambda d: d.freed_bytes, reverse=True)
    chosen: list[Demotion] = []
    for demotion in found:
        if missing <= 0:
            break
        chosen.append(demotion)
        missing -= demotion.freed_bytes
    return chosen if missing <= 0 else []
