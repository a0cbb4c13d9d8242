"""KV policies: which bits a chat asks for. One policy, one module; `policy(name, **options)` makes one.

Every policy answers `choose(task, bits_available, pressure)` with a `KvChoice`:

    task             what the chat asks for (classify.py, or the bot's or the client's word)
    bits_available   bits that the model's engine can hold now
    pressure         part of the engine's KV memory that is taken, 0..1
    KvChoice           wanted: asked for first. floor: never less. demotable: the scheduler may go below
                     `wanted`, down to `floor`, at admission or, where the engine can, while the chat runs

They hold for all of them: floor <= wanted; demotable only where floor < wanted; more pressure never asks for
more bits; same question, same answer. A floor is a promise: where the engine holds nothing that high, the chat
is refused (fails closed) instead of served lower.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

from gateway.directory import EngineNow
from services.config.schema import ONE_PRECISION, KvPolicyConfig
from services.contracts.chats import KvBits, Task


class KvChoice(NamedTuple):
    """What a chat asks for."""

    wanted: KvBits
    floor: KvBits
    demotable: bool


class Policy(Protocol):
    """Anything that chooses bits."""

    def choose(self, task: Task, bits_available: Sequence[int], pressure: float) -> KvChoice:
        """The bits for one chat. Never fails."""


def choice(wanted: KvBits, floor: KvBits, bits_available: Sequence[int]) -> KvChoice:
    """Fit a wish to what the engine holds: the next higher, else the highest, never below the floor."""
    held = sorted(bits_available)
    higher = [bits for bits in held if bits >= wanted]
    fitting = higher[0] if higher else (held[-1] if held else wanted)
    wanted = max(KvBits(fitting), floor)
    return KvChoice(wanted, floor, floor < wanted)


def kv_bits(value: int, name: str) -> KvBits:
    """`value` as KV bits. Raises ValueError that names the option."""
    try:
        return KvBits(value)
    except ValueError:
        raise ValueError(f"{name} must be 4, 8 or 16, not {value!r}") from None


def policy(name: str, **options: object) -> Policy:
    """The policy of that name. Raises ValueError for an unknown name or option, or a bad value."""
    from gateway.kv_policies import auto, fixed, pressure, trade  # noqa: PLC0415  (they import from here)

    makers: dict[str, Callable[..., Policy]] = {
        "fixed": fixed.Fixed,
        "auto": auto.Auto,
        "pressure": pressure.Pressure,
        **trade.TRADES,
    }
    if name not in makers:
        raise ValueError(f"no KV policy is named {name!r}; there are {', '.join(sorted(makers))}")
    try:
        return makers[name](**options)
    except TypeError as error:
        raise ValueError(f"KV policy {name!r}: {error}") from None


NAMES = ("fixed", "auto", "pressure", "medical", "finance", "manufacturing", "retail")


def choose(config: KvPolicyConfig, task: Task, engine: EngineNow) -> KvChoice:
    """What a chat asks for: its bot's policy, applied to its task and to what the engine holds now.

    Where sessions cannot differ in bits the engine's own are asked for, and only the policy's lowest floor counts: the
    bot promises it for every chat. Raises ValueError for a policy that does not take the bot's options.
    """
    chosen_by = policy_of(config)
    if not engine.live:
        floor = KvBits(config.promised_bits)
        return KvChoice(max(KvBits(engine.bits_available[0]), floor), floor, demotable=False)
    chosen = chosen_by.choose(task, engine.bits_available, engine.pressure)
    if config.demotable is None:
        return chosen
    return chosen._replace(demotable=config.demotable and chosen.floor < chosen.wanted)


@lru_cache(maxsize=512)
def policy_of(config: KvPolicyConfig) -> Policy:
    """The policy with the bot's options. Raises ValueError for options that `KvPolicyConfig.problem` names."""
    if config.policy in ONE_PRECISION:
        return policy(config.policy, bits=config.promised_bits)
    low, high = config.promised_bits, config.ceiling
    if config.policy == "pressure":
        return policy(config.policy, low=low, high=max(low, min(high, 8)))
    return policy(config.policy, floor=low, ceiling=high)
