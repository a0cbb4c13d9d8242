"""Why a chat waits, runs or was refused, in numbers.

Keeps the last `KEPT` final decisions, and up to as many before them; older ones are unknown.
"""

from __future__ import annotations

from scheduler.flow_queues import Waiting
from services.contracts.chats import Ticket
from services.contracts.decisions import Decision, Outcome, Reason, Reservation

KEPT = 512

SENTENCES = {
    Reason.ROOM: "There is room: it goes in at the next step.",
    Reason.KV_MEMORY: "The model's KV memory is taken: it needs {need_bytes} bytes, {available_bytes} are to be had"
    " ({kept_bytes} more are kept for tenants below their share).",
    Reason.BANDWIDTH: "One more chat would make {breaks} too slow: {predicted_ms:.1f} ms a token,"
    " at most {most_ms:.1f}.",
    Reason.FIRST_TOKEN: "Prompts that were let in before have to be read first.",
    Reason.CHATS_MAX: "All of the engine's slots are taken: {running} chats run,"
    " {kept} slots are kept for other tenants.",
    Reason.TENANT_LIMIT: "Its tenant is at a limit of its own: {limit}.",
    Reason.TELEMETRY_STALE: "The engine was not heard of for {age_s:.1f} s, so it counts as full.",
    Reason.MODEL_DOWN: "The model's engine is not up ({state}).",
    Reason.MODEL_ASLEEP: "The model sleeps and has to be woken.",
    Reason.NEVER_FITS: "It is larger than the model's context or than all of its KV memory.",
    Reason.KV_BITS: "The engine holds KV at {engine_bits} bits, its floor is {floor}.",
    Reason.DEADLINE: "It waited until its deadline, or would have.",
    Reason.QUEUE_FULL: "The queue was full: {waiting} chats waited, {waiting_tenant} of its tenant.",
}


def sentence(decision: Decision) -> str:
    """The reason in words, with the numbers that decided it."""
    try:
        return SENTENCES[decision.reason].format_map(decision.numbers)
    except KeyError:  # decided for another cause than the sentence's; the numbers are beside it
        return decision.reason.value.replace("_", " ")


class DecisionLog:
    """Remembers final decisions."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[Ticket, Decision, float]] = {}
        self._before: dict[str, tuple[Ticket, Decision, float]] = {}

    def record(self, ticket: Ticket, decision: Decision, now_s: float) -> Decision:
        """Note a final decision; gives it back."""
        self._last[ticket.chat] = (ticket, decision, now_s)
        if len(self._last) >= KEPT:
            self._before, self._last = self._last, {}
        return decision

    def waiting(
        self, entry: Waiting, decision: Decision, counter: float, holder: Waiting | None, now_s: float
    ) -> dict[str, object]:
        """Of a ticket in the queue; `decision` is what would be decided for it if it came first now."""
        found = _common(entry.ticket, decision)
        found |= {
            "state": "waiting",
            "waited_s": now_s - entry.ticket.created_s,
            "deadline_in_s": entry.ticket.deadline_s - now_s,
            "position": decision.position,
            "expected_wait_s": decision.expected_wait_s,
            "turn_of_admitted_session": entry.turn,
            "tenant_counter": counter,
            "overtaken": entry.overtaken,
            "model_kept_for": holder.ticket.chat if holder is not None and holder is not entry else None,
        }
        return found

    def known(self, chat: str, held: Reservation | None, now_s: float) -> dict[str, object]:
        """Of a chat that was decided, or that runs."""
        last = self._last.get(chat) or self._before.get(chat)
        found: dict[str, object] = {"chat": chat, "state": "unknown"}
        if last is not None:
            ticket, decision, at_s = last
            done = "settled" if decision.outcome in (Outcome.ADMIT, Outcome.ADMIT_DEMOTED) else "refused"
            found = _common(ticket, decision) | {
                "state": done,
                "waited_s": at_s - ticket.created_s,
                "retry_after_s": decision.retry_after_s,
                "expected_wait_s": decision.expected_wait_s,
            }
        if held is not None:
            found |= {
                "state": "running",
                "tenant": held.tenant,
                "model": held.model,
                "kv_bits": int(held.kv_bits),
                "reserved_bytes": held.reserved_bytes,
                "running_s": now_s - held.admitted_s,
            }
        return found


def _common(ticket: Ticket, decision: Decision) -> dict[str, object]:
    return {
        "chat": ticket.chat,
        "tenant": ticket.tenant,
        "bot": ticket.bot,
        "model": ticket.model,
        "session": ticket.session,
        "task": ticket.task.value,
        "prompt_tokens": ticket.prompt_tokens,
        "max_tokens": ticket.max_tokens,
        "kv_bits_wanted": int(ticket.kv_bits),
        "kv_bits_floor": int(ticket.kv_bits_floor),
        "kv_bits": int(decision.kv_bits),
        "outcome": decision.outcome.value,
        "reason": decision.reason.value,
        "why": sentence(decision),
        "numbers": dict(decision.numbers),
    }
