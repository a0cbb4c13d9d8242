"""Proposals of KV bits for each bot, from what they were measured to cost its model and how short its memory is.

    allowed = the lowest bits whose perplexity is at most `perplexity_change_max` above 16 bits'
    short   = reserved over budget at or above `SHORT`

    bot's policy now                  proposed
    fixed                             fixed at `allowed`
    medical, finance                  nothing: a trade's floor is not for sale
    others, memory short              pressure, floor `allowed`
    others                            auto, floor `allowed`, ceiling at least 8

A model that was not measured gets no proposals. One that promises more bits than the bot's model holds now is dropped.
Proposals are carried out only when asked for, and only where the bot's policy is still what it was and the model holds
the bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from services.config.schema import TRADE_FLOORS, KvPolicyConfig
from services.contracts.engines import EngineView
from services.contracts.snapshot import Snapshot
from services.planner.kv_change import unkept
from services.store.audit_log import Note
from services.store.connection import Connection
from services.store.quality import Measured
from services.store.registry import Registry
from services.store.registry_edit import edit, with_tenant
from services.store.submission import SubmissionClient

SHORT = 0.75


@dataclass(frozen=True, slots=True)
class Proposal:
    """What to change for one bot (`tenant/bot`)."""

    bot: str
    model: str
    before: Mapping[str, object]  # its policy, as JSON
    after: Mapping[str, object]
    why: str


@dataclass(frozen=True, slots=True)
class Dropped:
    """A bot whose model cannot keep what was proposed for it, and why."""

    bot: str
    why: str


@dataclass(frozen=True, slots=True)
class AutotuneResult:
    """What became of the proposals. `changed` and `left` name bots, where the proposals were carried out."""

    proposals: Sequence[Proposal] = ()
    dropped: Sequence[Dropped] = ()
    changed: Sequence[str] = ()
    left: Sequence[str] = ()


def shortness(snapshot: Snapshot | None) -> dict[str, float]:
    """Part of each model's KV memory that is reserved."""
    return {
        name: seen.reserved_bytes / seen.budget_bytes
        for name, seen in (snapshot.models if snapshot else {}).items()
        if seen.budget_bytes
    }


def proposals(
    registry: Registry, quality: Mapping[str, Sequence[Measured]], short: Mapping[str, float], change_max: float
) -> list[Proposal]:
    """See the module's table."""
    found = []
    for tenant, record in registry.tenants.items():
        for name, bot in record.config.bots.items():
            rows = quality.get(bot.model, ())
            allowed = [row.bits for row in rows if row.perplexity_change <= change_max]
            if not allowed or bot.kv.policy in TRADE_FLOORS:
                continue
            after = _after(bot.kv, min(allowed), short.get(bot.model, 0.0))
            if after != bot.kv:
                why = _why(rows, min(allowed), change_max, short.get(bot.model, 0.0))
                found.append(Proposal(f"{tenant}/{name}", bot.model, _plain(bot.kv), _plain(after), why))
    return found


def possible(wished: Sequence[Proposal], engines: Mapping[str, EngineView]) -> tuple[list[Proposal], list[Dropped]]:
    """Proposals that the bots' models can keep, and the bots of the others, with why not."""
    found, dropped = [], []
    for proposal in wished:
        after = KvPolicyConfig.model_validate(proposal.after)
        why = unkept(after, proposal.model, engines.get(proposal.model))
        if why is None:
            found.append(proposal)
        else:
            dropped.append(Dropped(proposal.bot, f"{proposal.why} {why}"))
    return found, dropped


def _after(before: KvPolicyConfig, allowed: int, short: float) -> KvPolicyConfig:
    if before.policy == "fixed":
        return before.model_copy(update={"bits": allowed})
    policy = "pressure" if short >= SHORT else "auto"
    return before.model_copy(
        update={"policy": policy, "bits": None, "floor": allowed, "ceiling": max(allowed, min(before.ceiling, 8))}
    )


def _why(rows: Sequence[Measured], allowed: int, change_max: float, short: float) -> str:
    costs = {row.bits: row.perplexity_change for row in rows}
    words = [f"{allowed} bits cost {costs[allowed]:.1%} perplexity here, at most {change_max:.1%} is allowed."]
    words += [f"{bits} bits would cost {cost:.1%}." for bits, cost in sorted(costs.items()) if bits < allowed]
    if short >= SHORT:
        words.append(f"{short:.0%} of the model's KV memory is reserved.")
    return " ".join(words)


async def apply(connection: Connection, found: Sequence[Proposal], note: Note) -> tuple[list[str], list[str]]:
    """Carry proposals out, each with its own audit entry. Returns the bots changed, and those left alone because their
    policy is not what it was or their model does not hold the bits. Raises TooManyEdits, QueueUnavailable."""
    changed: list[str] = []
    engines = await SubmissionClient(connection).engines()
    for proposal in found:

        def change(registry: Registry, proposal: Proposal = proposal) -> tuple[Registry, Note] | None:
            tenant, _, name = proposal.bot.partition("/")
            record = registry.tenants.get(tenant)
            bot = record.config.bots.get(name) if record else None
            after = KvPolicyConfig.model_validate(proposal.after)
            if record is None or bot is None or _plain(bot.kv) != proposal.before:
                return None
            if unkept(after, bot.model, engines.get(bot.model)) is not None:
                return None
            fresh = bot.model_copy(update={"kv": after})
            config = record.config.model_copy(update={"bots": {**record.config.bots, name: fresh}})
            written = replace(note, target=proposal.bot, before=proposal.before, after=proposal.after)
            changed.append(proposal.bot)
            return with_tenant(registry, tenant, record.model_copy(update={"config": config})), written

        await edit(connection, change)
    done = set(changed)
    return sorted(done), [proposal.bot for proposal in found if proposal.bot not in done]


def _plain(kv: KvPolicyConfig) -> dict[str, object]:
    return kv.model_dump(mode="json")
