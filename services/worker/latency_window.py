"""Latencies as chats see them, for the scheduler's bandwidth model."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from statistics import median

from services.contracts.engines import EngineReport

WINDOW_S = 5.0


class LatencyWindow:
    """Keeps the last seconds' inter-token times and prefill speeds of one engine."""

    def __init__(self) -> None:
        self._gaps: deque[tuple[float, float, int]] = deque(maxlen=4096)  # (when, seconds, tokens)
        self._prefills: deque[tuple[float, float, int]] = deque(maxlen=256)  # (when, seconds, tokens)
        self._firsts = 0  # first tokens since the last report
        self._tokens: dict[str, int] = {}  # chat -> tokens of KV that it holds now
        self._reports_pace = False  # the engine has reported inter-token times
        self._reports_prefill = False  # the engine has reported prefill speeds

    def started(self, chat: str, prompt_tokens: int) -> None:
        """A chat was handed to the engine."""
        self._tokens[chat] = prompt_tokens

    def first(self, chat: str, now_s: float, waited_s: float, prompt_tokens: int) -> None:
        """Its first token came `waited_s` later, after a prompt of so many tokens."""
        self._firsts += 1
        if waited_s > 0 and prompt_tokens > 0:
            self._prefills.append((now_s, waited_s, prompt_tokens))
        self._tokens[chat] = self._tokens.get(chat, 0) + 1

    def token(self, chat: str, now_s: float, gap_s: float, tokens: int) -> None:
        """`tokens` more came after `gap_s`."""
        if tokens > 0:
            self._gaps.append((now_s, gap_s, tokens))
            self._tokens[chat] = self._tokens.get(chat, 0) + tokens

    def ended(self, chat: str) -> None:
        """It holds no KV any more."""
        self._tokens.pop(chat, None)

    def add_to(self, report: EngineReport, bytes_per_token: int) -> EngineReport:
        """The engine's report, completed with what was seen here. A figure that the engine reports itself wins.

        The time a token is a mean: a median would leave out the pauses for other chats' prompts.
        """
        since = report.at_s - WINDOW_S
        gaps = [(gap_s, tokens) for when, gap_s, tokens in self._gaps if when >= since]
        gap_s, tokens = sum(gap_s for gap_s, _ in gaps), sum(tokens for _, tokens in gaps)
        # Ours counts cached tokens as computed, so it is not used once the engine has reported its own.
        self._reports_prefill = self._reports_prefill or bool(report.prefill_tokens_per_s)
        self._reports_pace = self._reports_pace or bool(report.inter_token_s)
        prefills = [] if self._reports_prefill else [(s, tokens) for when, s, tokens in self._prefills if when >= since]
        prompts = self._firsts
        if report.prefill_tokens:
            self._firsts = 0
        held = sum(self._tokens.values()) * bytes_per_token
        return replace(
            report,
            kv_used_bytes=report.kv_used_bytes or held,
            running=report.running or len(self._tokens),
            inter_token_s=report.inter_token_s or (gap_s / tokens if tokens and not self._reports_pace else None),
            prefill_tokens_per_s=report.prefill_tokens_per_s
            or (median(tokens / waited_s for waited_s, tokens in prefills) if prefills else None),
            prefill_tokens=report.prefill_tokens or sum(tokens for _, tokens in prefills),
            prefill_prompts=len(prefills) or prompts,
            step_kv_bytes=report.step_kv_bytes or held,
        )
