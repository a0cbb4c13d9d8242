"""Remembers what was decided and how chats ended, and explains it in words and numbers.

Keeps the last `KEPT` chats, and up to as many before them; older ones are unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from scheduler.wait_queue import Waiting
from services.contracts.chats import ChatUsage, Ticket
from services.contracts.decisions import Decision, Number, Reason, Reservation
from services.contracts.explanation import Explanation
from services.contracts.units import bytes_in_words

KEPT = 512

SENTENCES = {
    Reason.ROOM: "Memory and bandwidth are free: it goes in at the next step.",
    Reason.KV_MEMORY: "The model's KV memory is taken: it needs {need_bytes}, {available_bytes} are available"
    " ({kept_bytes} more are kept for tenants below their share).",
    Reason.BANDWIDTH: "One more chat would make {breaks} too slow: {predicted_ms:.1f} ms a token,"
    " at most {most_ms:.1f} (engines share the device in {sharing}).",
    Reason.FIRST_TOKEN: "Prompts that were let in before have to be read first.",
    Reason.CHATS_MAX: "All of the engine's slots are taken: {running} chats run,"
    " {kept} slots are kept for other tenants.",
    Reason.TENANT_LIMIT: "Its tenant is at a limit of its own: {limit}.",
    Reason.TELEMETRY_STALE: "The engine has not reported for {age_s:.1f} s, so it counts as full.",
    Reason.MODEL_DOWN: "The model's engine is not up ({state}).",
    Reason.MODEL_ASLEEP: "The model sleeps and has to be woken.",
    Reason.NEVER_FITS: "It is larger than the model's context, than all of its KV memory, or than its tenant's limit.",
    Reason.KV_BITS: "The engine holds KV at {engine_bits} bits, its floor is {floor}.",
    Reason.DEADLINE: "It waited until its deadline, or would have.",
    Reason.QUEUE_FULL: "The queue was full: {waiting} chats waited, {waiting_tenant} of its tenant.",
}


def sentence(decision: Decision) -> str:
    """The reason in words, with the numbers that decided it."""
    try:
        return SENTENCES[decision.reason].format_map(_readable(decision.numbers))
    except KeyError:  # decided for another cause than the sentence's; the numbers are beside it
        return decision.reason.value.replace("_", " ")


def _readable(numbers: Mapping[str, Number]) -> dict[str, Number]:
    return {name: bytes_in_words(float(value)) if name.endswith("_bytes") else value for name, value in numbers.items()}


@dataclass(slots=True)
class _Logged:
    """What is known of one chat. Times are Unix seconds."""

    ticket: Ticket | None = None
    decision: Decision | None = None
    decided_s: float = 0.0
    held: Reservation | None = None  # once it has ended
    usage: ChatUsage | None = None
    ended_s: float | None = None


class DecisionLog:
    """The last chats that were decided, ended or withdrawn."""

    def __init__(self) -> None:
        self._last: dict[str, _Logged] = {}
        self._before: dict[str, _Logged] = {}

    def record(self, ticket: Ticket, decision: Decision, now_s: float) -> Decision:
        """Note a final decision; gives it back."""
        self._note(ticket.chat, _Logged(ticket, decision, now_s))
        return decision

    def ended(self, held: Reservation, usage: ChatUsage | None, now_s: float) -> None:
        """A chat that was admitted is over. `usage` None: nobody reported what it took."""
        logged = self._entry(held.chat)
        logged.held, logged.usage, logged.ended_s = held, usage, now_s

    def cancelled(self, chat: str, ticket: Ticket | None, now_s: float) -> None:
        """A chat was withdrawn before it ran; its ticket, if it was waiting still."""
        logged = self._entry(chat)
        logged.ticket, logged.ended_s = ticket or logged.ticket, now_s

    def _find(self, chat: str) -> _Logged | None:
        return self._last.get(chat) or self._before.get(chat)

    def _entry(self, chat: str) -> _Logged:
        """What is known of the chat, to add to."""
        found = self._find(chat)
        if found is None:
            found = _Logged()
            self._note(chat, found)
        return found

    def _note(self, chat: str, logged: _Logged) -> None:
        self._last[chat] = logged
        if len(self._last) >= KEPT:
            self._before, self._last = self._last, {}

    def waiting(
        self, entry: Waiting, decision: Decision, counter: float, holder: Waiting | None, now_s: float
    ) -> Explanation:
        """A ticket in the queue; `decision` is what would be decided for it if it came first now."""
        return replace(
            _of_ticket(entry.ticket, decision),
            state="waiting",
            why=sentence(decision),
            waited_s=now_s - entry.ticket.created_s,
            deadline_in_s=entry.ticket.deadline_s - now_s,
            position=decision.position,
            turn_of_admitted_session=entry.turn,
            tenant_counter=counter,
            overtaken=entry.overtaken,
            model_kept_for=holder.ticket.chat if holder is not None and holder is not entry else None,
        )

    def known(self, chat: str, held: Reservation | None, now_s: float) -> Explanation:
        """A chat that does not wait. `held`: its reservation, while it runs."""
        logged = self._find(chat) or _Logged()
        found = Explanation(chat=chat, state="unknown")
        if logged.ticket is not None:
            found = _of_ticket(logged.ticket, logged.decision)
        if logged.ticket is not None and logged.decision is not None:
            found = replace(
                found,
                state="refused",
                why=sentence(logged.decision),
                waited_s=logged.decided_s - logged.ticket.created_s,
            )
        if held is not None:
            return _running(found, held, now_s)
        if logged.ended_s is not None:
            return _ended(found, logged, now_s - logged.ended_s)
        return found


def _running(found: Explanation, held: Reservation, now_s: float) -> Explanation:
    running_s = now_s - held.admitted_s
    why = (
        f"It was let in {running_s:.1f} s ago and runs, with {bytes_in_words(held.reserved_bytes)} of KV memory "
        f"reserved at {int(held.kv_bits)} bits."
    )
    return replace(_admitted(found, held), state="running", why=why, running_s=running_s)


def _ended(found: Explanation, logged: _Logged, ago_s: float) -> Explanation:
    held, usage = logged.held, logged.usage
    if held is None:
        why = f"Its client left {ago_s:.1f} s ago, before it ran."
        return replace(found, state="cancelled", why=why, ended_ago_s=ago_s)
    tokens = usage.completion_tokens if usage is not None else None
    took = f", after {tokens} tokens" if tokens is not None else ""
    ran = f" in {usage.ran_s:.1f} s" if usage is not None and usage.ran_s is not None else ""
    why = f"It ran and ended {ago_s:.1f} s ago{took}{ran}."
    return replace(_admitted(found, held), state="settled", why=why, ended_ago_s=ago_s, completion_tokens=tokens)


def _admitted(found: Explanation, held: Reservation) -> Explanation:
    return replace(
        found, tenant=held.tenant, model=held.model, kv_bits=int(held.kv_bits), reserved_bytes=held.reserved_bytes
    )


def _of_ticket(ticket: Ticket, decision: Decision | None) -> Explanation:
    found = Explanation(
        chat=ticket.chat,
        state="unknown",
        tenant=ticket.tenant,
        bot=ticket.bot,
        model=ticket.model,
        session=ticket.session,
        task=ticket.task.value,
        prompt_tokens=ticket.prompt_tokens,
        max_tokens=ticket.max_tokens,
        kv_bits_wanted=int(ticket.kv_bits),
        kv_bits_floor=int(ticket.kv_bits_floor),
    )
    if decision is None:
        return found
    return replace(
        found,
        kv_bits=int(decision.kv_bits),
        outcome=decision.outcome.value,
        reason=decision.reason.value,
        numbers=dict(decision.numbers),
        expected_wait_s=decision.expected_wait_s,
        retry_after_s=decision.retry_after_s,
    )
