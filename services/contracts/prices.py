"""What another provider takes for a chat."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TokenPrice:
    """US dollars for a million tokens."""

    prompt: float = 0.0
    completion: float = 0.0

    def microusd(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Millionths of a dollar."""
        return self.prompt * prompt_tokens + self.completion * completion_tokens
