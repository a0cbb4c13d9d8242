"""The message to a client whose chat is refused."""

from __future__ import annotations

from services.contracts.decisions import Decision, Reason
from services.contracts.units import bytes_in_words

WORDS = {
    Reason.NEVER_FITS: "This chat is longer than its model's context, or than all of its KV memory. "
    "Shorten the prompt or lower max_tokens.",
    Reason.KV_BITS: "This bot's model cannot keep a chat's memory at the precision that its policy asks for.",
    Reason.DEADLINE: "No room came free before this chat's deadline. Try again later.",
    Reason.QUEUE_FULL: "Too many chats are waiting. Try again later.",
    Reason.MODEL_DOWN: "This bot's model is not running right now.",
    Reason.TENANT_LIMIT: "Your limit of chats or memory at once is reached.",
    Reason.KV_MEMORY: "The GPU's KV memory is full. Try again later.",
    Reason.BANDWIDTH: "The GPU's memory bandwidth is taken. Try again later.",
}
OVER_LIMIT = (
    "This chat needs {need} of KV memory, and its tenant's limit is {limit}. Shorten the prompt or lower max_tokens."
)
OTHERS = "This chat cannot be served right now ({reason}). Try again later."


def refusal(decision: Decision) -> str:
    """One or two sentences that say what is wrong and what to do."""
    limit = decision.numbers.get("kv_bytes_max")
    if limit is not None:
        need = bytes_in_words(float(decision.numbers["need_bytes"]))
        return OVER_LIMIT.format(need=need, limit=bytes_in_words(float(limit)))
    template = WORDS.get(decision.reason, OTHERS)
    return template.format(reason=decision.reason.value)
