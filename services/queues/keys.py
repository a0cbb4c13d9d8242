"""Every Redis key the host uses, named once.

key                     type    holds
bh:chat:CHAT            hash    ticket, payload, state, attempt, cancelled, kv_bits, entry (in the ready stream)
bh:reply:CHAT           stream  the answer; entry ids are ATTEMPT-PLACE, so a newer attempt fences an older one
bh:wait:TENANT          zset    waiting chats by arrival number
bh:waiting              hash    tenant -> how many of its chats wait
bh:arrivals             string  counter behind the arrival numbers
bh:events               stream  what the scheduler must hear: arrivals, cancellations, settlements
bh:reservations         hash    chat -> reservation: the ledger as Redis keeps it
bh:ready:MODEL          stream  admitted chats; consumer group `workers`
bh:engines              hash    model -> facts and last report
bh:lease, bh:fence      string  who schedules, and the number of takeovers
bh:snapshot             string  what the scheduler last saw, for gateways and the dashboard
bh:registry             hash    version, and the document of tenants, keys and bots
bh:idempotency:T:KEY    string  chat that an Idempotency-Key stands for
bh:usage:DAY:T:BOT      hash    counters for billing
bh:limit:T:...          string  windows of the rate limits
bh:session:T:S          hash    a session's KV bits and last use
"""

from __future__ import annotations

WAITING = "bh:waiting"
ARRIVALS = "bh:arrivals"
EVENTS = "bh:events"
RESERVATIONS = "bh:reservations"
ENGINES = "bh:engines"
PROGRESS = "bh:progress"
LEASE = "bh:lease"
FENCE = "bh:fence"
SNAPSHOT = "bh:snapshot"
REGISTRY = "bh:registry"

GROUP = "workers"

# Channels carry hints. What they point at is stored; a lost hint costs time, never a token.
REPLY_HINTS = "bh:hint:replies"
REGISTRY_HINTS = "bh:hint:registry"


def chat(chat_id: str) -> str:
    """Hash of one chat."""
    return f"bh:chat:{chat_id}"


def reply(chat_id: str) -> str:
    """Stream of one chat's answer."""
    return f"bh:reply:{chat_id}"


def wait(tenant: str) -> str:
    """A tenant's waiting room."""
    return f"bh:wait:{tenant}"


def ready(model: str) -> str:
    """Stream of a model's admitted chats."""
    return f"bh:ready:{model}"


def control_channel(model: str) -> str:
    """Channel on which a model's worker hears of cancellations and commands."""
    return f"bh:control:{model}"


def idempotency(tenant: str, key: str) -> str:
    """Chat behind an Idempotency-Key."""
    return f"bh:idempotency:{tenant}:{key}"


def usage(day: str, tenant: str, bot: str) -> str:
    """Counters of one bot on one day (UTC, YYYY-MM-DD)."""
    return f"bh:usage:{day}:{tenant}:{bot}"


def limit(tenant: str, what: str, window: int) -> str:
    """Counter of one rate-limit window."""
    return f"bh:limit:{tenant}:{what}:{window}"


def session(tenant: str, session_id: str) -> str:
    """A session's KV bits and last use."""
    return f"bh:session:{tenant}:{session_id}"
