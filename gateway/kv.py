"""Which KV bits a chat asks for: its bot's policy, on its task, over what the engine holds now.

Where sessions cannot differ in bits the engine's own are asked for, and of the policy its lowest floor counts: that is
what the bot promises for every chat. What a policy adds for certain tasks needs an engine that can do it.
"""

from __future__ import annotations

from functools import lru_cache

from gateway.engines import EngineNow
from scheduler.policies import Choice, Policy, policy
from scheduler.types import KvBits, Task
from services.config import KvPolicyConfig

_ALL = (4, 8, 16)
_DEFAULT = KvPolicyConfig()
# The configuration's names for a policy's options -> the policy's own.
_RANGE = {"floor": "floor", "ceiling": "ceiling"}
_OPTIONS = {
    "fixed": {"bits": "bits"},
    "manufacturing": {"bits": "bits"},
    "pressure": {"floor": "low", "ceiling": "high"},
}


def choose(config: KvPolicyConfig, task: Task, engine: EngineNow) -> Choice:
    """Bits wanted, floor, demotable. Raises ValueError for a policy that does not take the bot's options."""
    if not engine.live:
        floor = promised(config)
        return Choice(max(KvBits(engine.bits_available[0]), floor), floor, demotable=False)
    chosen = policy_of(config).choose(task, engine.bits_available, engine.pressure)
    if config.demotable is None:
        return chosen
    return chosen._replace(demotable=config.demotable and chosen.floor < chosen.wanted)


@lru_cache(maxsize=512)
def promised(config: KvPolicyConfig) -> KvBits:
    """The lowest bits that the policy gives to any task. Raises ValueError."""
    return min(policy_of(config).choose(task, _ALL, 0.0).floor for task in Task)


@lru_cache(maxsize=512)
def policy_of(config: KvPolicyConfig) -> Policy:
    """The policy with what the bot sets of its options; what it leaves alone is the policy's own default.

    Raises ValueError.
    """
    options = {
        taken: getattr(config, name)
        for name, taken in _OPTIONS.get(config.policy, _RANGE).items()
        if getattr(config, name) != getattr(_DEFAULT, name)
    }
    return policy(config.policy, **options)
