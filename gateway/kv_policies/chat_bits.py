"""Which KV bits a chat asks for: its bot's policy, on its task, over what the engine holds now.

Where sessions cannot differ in bits the engine's own are asked for, and of the policy its lowest floor counts: that is
what the bot promises for every chat. What a policy adds for certain tasks needs an engine that can do it.
"""

from __future__ import annotations

from functools import lru_cache

from gateway import kv_policies as policies
from gateway.engines import EngineNow
from gateway.kv_policies import KvChoice, Policy
from services.config.schema import ONE_PRECISION, KvPolicyConfig
from services.contracts.chats import KvBits, Task


def choose(config: KvPolicyConfig, task: Task, engine: EngineNow) -> KvChoice:
    """Bits wanted, floor, demotable. Raises ValueError for a policy that does not take the bot's options."""
    policy = policy_of(config)
    if not engine.live:
        floor = KvBits(config.promised_bits)
        return KvChoice(max(KvBits(engine.bits_available[0]), floor), floor, demotable=False)
    chosen = policy.choose(task, engine.bits_available, engine.pressure)
    if config.demotable is None:
        return chosen
    return chosen._replace(demotable=config.demotable and chosen.floor < chosen.wanted)


@lru_cache(maxsize=512)
def policy_of(config: KvPolicyConfig) -> Policy:
    """The policy with the bot's options. Raises ValueError for options that `KvPolicyConfig.problem` names."""
    if config.policy in ONE_PRECISION:
        return policies.policy(config.policy, bits=config.promised_bits)
    low, high = config.promised_bits, config.ceiling
    if config.policy == "pressure":
        return policies.policy(config.policy, low=low, high=max(low, min(high, 8)))
    return policies.policy(config.policy, floor=low, ceiling=high)
