"""A plan in words, and as JSON."""

from __future__ import annotations

from services.contracts.units import bytes_in_words
from services.planner.plan import CardPlan, Placed, Plan


def size(count: int) -> str:
    """Bytes as a person reads them, to three or four digits."""
    return bytes_in_words(count, precise=True)


def refusal(plan: Plan) -> str:
    """Why a host is not started, and what would fit. Only for a plan that does not fit."""
    return "\n".join(_refusal(card) for card in plan.cards if not card.fits)


def alternatives(card: CardPlan) -> list[str]:
    """What would fit on this card, in sentences; best first."""
    found = [
        f"all models at {at.bits} KV bits fit (at least {size(at.needed_bytes)})"
        for at in card.at_bits
        if at.missing_bytes == 0
    ]
    fixed = sum(model.need.fixed_bytes for model in card.models)
    if not found and fixed >= card.budget_bytes:
        found += _fewer(card)
    elif not found:
        left = card.budget_bytes - fixed - sum(model.need.chats_bytes(4) for model in card.models)
        asked = sum(model.need.tokens_min(4) * model.need.per_token[4] for model in card.models)
        found.append(
            f"at 4 KV bits, {max(0, left) / asked:.0%} of the tokens asked for: lower context_tokens or chats_max"
        )
    return found


def _fewer(card: CardPlan) -> list[str]:
    """Models that fit together when the largest are left out."""
    kept: list[Placed] = []
    for model in sorted(card.models, key=lambda each: each.need.bytes_min(4)):
        if sum(each.need.bytes_min(4) for each in [*kept, model]) <= card.budget_bytes:
            kept.append(model)
    if not kept:
        return ["none of these models fits alone: take smaller weights"]
    return [f"at 4 KV bits, {', '.join(each.need.model for each in kept)} alone"]


def _refusal(card: CardPlan) -> str:
    needed = card.budget_bytes + card.missing_bytes
    models = "; ".join(
        f"{model.need.model}: weights {size(model.need.weight_bytes)}, overhead {size(model.need.overhead_bytes)}, "
        f"KV {size(model.need.bytes_min(model.kv_bits) - model.need.fixed_bytes)} at {model.kv_bits} bits"
        for model in card.models
    )
    would = "; ".join(alternatives(card))
    return (
        f"{size(card.missing_bytes)} are missing: the models need {size(needed)}, and {card.card.name} has "
        f"{size(card.card.total_bytes)}, of which {size(card.reserve_bytes)} stay in reserve.\n"
        f"  {models}\n  What would fit: {would}."
    )


def as_json(plan: Plan) -> dict[str, object]:
    """The plan for programs. All sizes are bytes."""
    return {"fits": plan.fits, "cards": [_card(card) for card in plan.cards], "left_out": dict(plan.left_out)}


def _card(card: CardPlan) -> dict[str, object]:
    return {
        "device": card.card.device,
        "name": card.card.name,
        "total_bytes": card.card.total_bytes,
        "reserve_bytes": card.reserve_bytes,
        "free_bytes": card.free_bytes,
        "missing_bytes": card.missing_bytes,
        "fits": card.fits,
        "models": [_model(model) for model in card.models],
        "at_kv_bits": {
            str(at.bits): {
                "fits": at.missing_bytes == 0,
                "needed_bytes": at.needed_bytes,
                "missing_bytes": at.missing_bytes,
                "pool_tokens": dict(at.pool_tokens),
            }
            for at in card.at_bits
        },
        "would_fit": [] if card.fits else alternatives(card),
    }


def _model(model: Placed) -> dict[str, object]:
    need = model.need
    return {
        "model": need.model,
        "engine": need.engine,
        "weights": need.weights,
        "weight_bytes": need.weight_bytes,
        "overhead_bytes": need.overhead_bytes,
        "kv_bits": "mixed" if need.planes else model.kv_bits,
        "kv_bytes_per_token": {str(bits): count for bits, count in need.per_token.items()},
        "kv_bytes_per_chat": {str(bits): count for bits, count in need.per_chat.items()},
        "pool_tokens": model.pool_tokens,
        "kv_bytes": model.kv_bytes,
        "total_bytes": model.total_bytes,
        "chats_of_full_context": model.chats,
    }
