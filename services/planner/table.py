"""A plan on a terminal."""

from __future__ import annotations

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from services.planner.plan import CardPlan, Plan
from services.planner.words import alternatives, size


def show(plan: Plan, console: Console) -> None:
    """Print each card: its models, then the card at 16, 8 and 4 KV bits, then the verdict."""
    for card in plan.cards:
        notes = [Text(f"Note: {placed.need.note}.", "yellow") for placed in card.models if placed.need.note]
        console.print(Group(_models(card), "", _bits(card), "", *notes, _verdict(card)))
    for name, why in plan.left_out.items():
        console.print(Text(f"{name} is left out: {why}.", "red"))


def _models(card: CardPlan) -> Table:
    title = f"{card.card.name}: {size(card.card.total_bytes)}, {size(card.reserve_bytes)} in reserve"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("model", no_wrap=True)
    chats = any(model.need.chats_bytes(model.kv_bits) for model in card.models)
    columns = (
        "weights",
        "overhead",
        "KV/token 16/8/4",
        *(["KV/chat"] if chats else []),
        "bits",
        "tokens",
        "KV",
        "total",
    )
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for model in card.models:
        need = model.need
        table.add_row(
            need.model,
            size(need.weight_bytes),
            size(need.overhead_bytes),
            "/".join(f"{need.per_token[bits] / 1000:.1f}" for bits in (16, 8, 4)) + " kB",
            *([size(need.per_chat.get(model.kv_bits, 0))] if chats else []),
            "4+8" if need.planes else str(model.kv_bits),
            f"{model.pool_tokens:,}",
            size(model.kv_bytes),
            size(model.total_bytes),
        )
    return table


def _bits(card: CardPlan) -> Table:
    table = Table(title="With all models at", title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("KV bits", "needed", "", "tokens of KV"):
        table.add_column(name, justify="right")
    for at in card.at_bits:
        verdict = "fits" if at.missing_bytes == 0 else f"{size(at.missing_bytes)} missing"
        tokens = f"{sum(at.pool_tokens.values()):,}" if at.missing_bytes == 0 else "-"
        table.add_row(str(at.bits), size(at.needed_bytes), verdict, tokens)
    return table


def _verdict(card: CardPlan) -> Text:
    if card.fits:
        return Text(f"It fits; {size(card.free_bytes)} stay free beside the reserve.", "green")
    return Text(f"{size(card.missing_bytes)} are missing. What would fit: {'; '.join(alternatives(card))}.", "red")
