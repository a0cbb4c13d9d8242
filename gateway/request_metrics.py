"""What one answer adds to the metrics, and to its headers."""

from __future__ import annotations

from time import perf_counter

from gateway.call import Call
from gateway.metrics import Metrics
from services.contracts.chats import Ticket
from services.contracts.replies import ReplyEnd, ReplyEntry


class RequestMetrics:
    """Counts while a reply is relayed; `close` records."""

    def __init__(self, metrics: Metrics, call: Call, ticket: Ticket) -> None:
        self._metrics = metrics
        self._call = call
        self._ticket = ticket
        self._first_s: float | None = None
        self._last_s = 0.0
        self._tokens = 0
        self._first_tokens = 0
        self.kv_bits: int | None = None
        self.queue_s: float | None = None
        self.served_by: str | None = None

    def see(self, entry: ReplyEntry) -> None:
        """One entry is about to be sent."""
        if entry.kind == "text":
            self._last_s = perf_counter()
            self._tokens += entry.tokens
            if self._first_s is None:
                self._first_s = self._last_s
                self._first_tokens = entry.tokens
        elif entry.kind == "start":
            self.kv_bits, self.queue_s, self.served_by = entry.kv_bits, entry.queue_s, entry.served_by
        elif entry.end is not None:
            self.served_by = entry.end.served_by

    def close(self, end: ReplyEnd | None) -> None:
        """Record the chat: times, and tokens where its usage is known."""
        bot = self._ticket.bot
        label = "" if self._call.label == "ok" else self._call.label
        self._metrics.duration.labels(bot, label).observe(self._call.elapsed_s)
        if self._first_s is not None:
            self._metrics.first_token.labels(bot).observe(self._first_s - self._call.began)
            later = self._tokens - self._first_tokens
            if later > 0:
                self._metrics.per_token.labels(bot).observe((self._last_s - self._first_s) / later)
        if end is not None and end.usage is not None:
            self._metrics.tokens.labels(bot, "input").observe(end.usage.prompt_tokens)
            self._metrics.tokens.labels(bot, "output").observe(end.usage.completion_tokens)
