"""How much of a prompt an engine is expected to have in its prefix cache.

    a turn's         hit rate of the model's turns x tokens of the session's earlier turn
    a new session's  what the bot's new sessions shared (its system prompt), less than the whole prompt

Both are means of what settled chats had: plain ones of the first ten, then moving by a tenth. They start at 0: until a
hit was seen, prompts count in full (fails closed). A turn is expected to have at least what a new session has.
"""

from __future__ import annotations

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


class Hits:
    """What was cached of earlier chats, by model and by bot."""

    def __init__(self) -> None:
        self._rates: dict[str, Mean] = {}  # by model: part of the earlier turn
        self._shared: dict[str, Mean] = {}  # by bot: tokens

    def expected(self, model: str, bot: str, kept_tokens: int, prompt_tokens: int) -> int:
        """Of `prompt_tokens`, `kept_tokens` of them of an earlier turn, how many will not have to be read."""
        shared = self._shared.get(bot)
        found = int(shared.value) if shared is not None else 0
        if kept_tokens:
            rate = self._rates.get(model)
            found = max(found, int(rate.value * kept_tokens)) if rate is not None else found
        return min(found, prompt_tokens - 1)

    def settled(self, model: str, bot: str, kept_tokens: int, cached_tokens: int) -> None:
        """A chat had `cached_tokens` of its prompt in the engine's cache."""
        if kept_tokens:
            self._rates.setdefault(model, Mean()).add(min(1.0, cached_tokens / kept_tokens))
        else:
            self._shared.setdefault(bot, Mean()).add(cached_tokens)
