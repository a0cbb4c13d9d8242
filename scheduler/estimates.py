"""What settled chats teach: how much of a prompt is cached, and how fast a model serves its queue.

**Prefix cache.** Expected of a prompt, in tokens:

    a turn's         hit rate of the model's turns x tokens of the session's earlier turn
    a new session's  what the bot's new sessions share: its system prompt

The hit rate is the mean of the first ten turns, then moves by a tenth. What new sessions share is the lower quartile
of the last `WINDOW`: one that found the cache cold does not make it. New are conversations without an earlier answer.
Both start at 0, and are 0 again when the engine starts: until hits were seen, prompts count in full (fails closed). A
turn is expected to have at least what a new session has.

**Pace.** How long a ticket is expected to wait, in seconds:

    chats per second = max(chats running, as a rule) / their mean duration           (Little's law)
    expected wait    = tickets ahead in the flow / (chats per second x the tenant's part of the weights that wait)

Workers measure durations: the wall clock, by which chats are let in, may be set while they run. "As a rule" is
a mean over settlements: chats that were let in together end together, and an engine whose report is late gets no new
ones for a moment, which must not look like a slow model. Unknown (None) until a chat of the model was settled, or while
none runs; nothing is refused early then.

A stall is not the engine's pace: chats that ran before this scheduler took over are left out (what made it take over
stalled them, too), and one run counts as a few usual ones at most.
"""

from __future__ import annotations

from collections import deque

from services.contracts.engines import Learned

WINDOW = 8  # new sessions of a bot that are remembered
WINDOW_MIN = 4  # before so many nothing is expected
_SMOOTHING = 0.1


class Mean:
    """A mean that forgets."""

    __slots__ = ("count", "value")

    def __init__(self) -> None:
        self.value, self.count = 0.0, 0

    def add(self, value: float) -> None:
        """One more observation."""
        self.count += 1
        self.value += max(_SMOOTHING, 1.0 / self.count) * (value - self.value)


class SharedPrefix:
    """Tokens that a bot's new sessions had cached."""

    __slots__ = ("last", "tokens")

    def __init__(self) -> None:
        self.last: deque[int] = deque(maxlen=WINDOW)
        self.tokens = 0

    def add(self, tokens: int) -> None:
        """One more new session."""
        self.last.append(tokens)
        if len(self.last) >= WINDOW_MIN:
            self.tokens = sorted(self.last)[len(self.last) // 4]


class PrefixCacheEstimator:
    """What was cached of earlier chats, by model and by bot."""

    def __init__(self) -> None:
        self._turns: dict[str, Mean] = {}  # by model: part of the earlier turn
        self._shared: dict[str, dict[str, SharedPrefix]] = {}  # by model and bot

    def learned(self, model: str) -> Learned:
        """What is known of the model's cache."""
        turns = self._turns.get(model) or Mean()
        shared = {bot: list(seen.last) for bot, seen in self._shared.get(model, {}).items()}
        return Learned(model, turn_hits=turns.value, turns=turns.count, shared_tokens=shared)

    def recall(self, learned: Learned) -> None:
        """Know what another scheduler knew."""
        self.forget(learned.model)
        turns = self._turns[learned.model] = Mean()
        turns.value, turns.count = learned.turn_hits, learned.turns
        for bot, last in learned.shared_tokens.items():
            for tokens in last:
                self.session_settled(learned.model, bot, tokens)

    def forget(self, model: str) -> None:
        """Its engine starts with nothing cached."""
        self._turns.pop(model, None)
        self._shared.pop(model, None)

    def expected(self, model: str, bot: str, kept_tokens: int, prompt_tokens: int) -> int:
        """Of `prompt_tokens`, `kept_tokens` of them of an earlier turn, how many will not have to be read."""
        bots = self._shared.get(model)
        shared = bots.get(bot) if bots is not None else None
        found = shared.tokens if shared is not None else 0
        if kept_tokens > 0:
            turns = self._turns.get(model)
            found = max(found, int(turns.value * kept_tokens)) if turns is not None else found
        return min(found, prompt_tokens - 1) if found else 0

    def turn_settled(self, model: str, kept_tokens: int, cached_tokens: int) -> None:
        """A turn had `cached_tokens` of its prompt in the cache, where its session's earlier one had `kept_tokens`."""
        self._turns.setdefault(model, Mean()).add(min(1.0, cached_tokens / kept_tokens))

    def session_settled(self, model: str, bot: str, cached_tokens: int) -> None:
        """The first chat of a new session had `cached_tokens` of its prompt in the cache."""
        self._shared.setdefault(model, {}).setdefault(bot, SharedPrefix()).add(cached_tokens)


_PACE_SMOOTHING = 0.05
_OUTLIER = 4.0  # a run counts as at most so many usual ones


class ServiceRate:
    """Mean duration of chats, per model, smoothed."""

    def __init__(self) -> None:
        self.duration_s: dict[str, float] = {}
        self._running: dict[str, float] = {}

    def settled(self, model: str, seconds: float, running: int) -> None:
        """A chat is over; `running` counts it and those that ran beside it."""
        before = self.duration_s.get(model)
        if before is None:
            self.duration_s[model] = seconds
        else:
            self.duration_s[model] = before + _PACE_SMOOTHING * (min(seconds, _OUTLIER * before) - before)
        usual = self._running.get(model, float(running))
        self._running[model] = usual + _PACE_SMOOTHING * (running - usual)

    def per_s(self, model: str, running: int) -> float | None:
        """Chats per second that the model finishes."""
        duration_s = self.duration_s.get(model)
        if not running or not duration_s:
            return None
        return max(running, self._running[model]) / duration_s


def expected_wait_s(per_s: float, ahead: int, part: float) -> float:
    """Seconds until a ticket with `ahead` before it is served, for a tenant that gets `part` of the service."""
    return (ahead + 1) / (per_s * max(part, 1e-6))
