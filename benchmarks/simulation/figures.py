"""What is read off a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.simulation.world import Chat
from scheduler.settings import ModelTargets


def ttft_s(chats: Iterable[Chat], tenant: str) -> list[float]:
    """Times to first token of a tenant's chats that were answered."""
    return [chat.ttft_s for chat in chats if chat.ticket.tenant == tenant and chat.ttft_s is not None]


def within(chat: Chat, targets: ModelTargets) -> bool:
    """Whether a chat was answered within its targets, its wait included."""
    if chat.ttft_s is None or chat.inter_token_s is None:
        return False
    first, inter = targets.first_token_s_max, targets.inter_token_ms_max
    return (first is None or chat.ttft_s <= first) and (inter is None or chat.inter_token_s * 1000.0 <= inter)


def goodput(chats: Iterable[Chat], targets: ModelTargets, from_s: float, until_s: float) -> float:
    """Answer tokens a second, of chats that arrived in the span and were answered within their targets."""
    good = (c.completion_tokens for c in chats if from_s <= c.ticket.created_s < until_s and within(c, targets))
    return sum(good) / (until_s - from_s)


def target_breaks(chats: Sequence[Chat], targets: ModelTargets) -> float:
    """Part of the answered chats that were slower per token than the target."""
    times = [chat.inter_token_s for chat in chats if chat.inter_token_s is not None]
    most = targets.inter_token_ms_max
    return sum(t * 1000.0 > most for t in times) / len(times) if times and most is not None else 0.0
