"""What a chat that the host asked for itself adds to the metrics: the same as one that came to /v1."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.outcomes import from_reply
from gateway.state import Gateway
from services.contracts.chats import Ticket
from services.contracts.replies import Finish, ReplyEnd, ReplyEntry


class Watch:
    """Sees one reply from its beginning. Times count from the ticket's."""

    def __init__(self, gateway: Gateway, ticket: Ticket) -> None:
        self._gateway = gateway
        self._ticket = ticket
        self._first_s: float | None = None
        self._last_s = 0.0
        self._later_tokens = 0

    def see(self, entries: Iterable[ReplyEntry]) -> None:
        """Entries that were just read. The last one records the chat."""
        now_s = self._gateway.clock()
        for entry in entries:
            if entry.text:
                if self._first_s is None:
                    self._first_s = now_s
                else:
                    self._later_tokens += entry.tokens
                self._last_s = now_s
            if entry.end is not None:
                self._record(entry.end, now_s)

    def _record(self, end: ReplyEnd, now_s: float) -> None:
        metrics, bot, began_s = self._gateway.metrics, self._ticket.bot, self._ticket.created_s
        label = from_reply(end.error).code.value if end.error else ""
        label = label or (end.finish.value if end.finish in (Finish.CANCELLED, Finish.ERROR) else "")
        metrics.duration.labels(bot, label).observe(max(0.0, now_s - began_s))
        if self._first_s is not None:
            metrics.first_token.labels(bot).observe(max(0.0, self._first_s - began_s))
            if self._later_tokens:
                metrics.per_token.labels(bot).observe(max(0.0, self._last_s - self._first_s) / self._later_tokens)
        if end.usage is not None:
            metrics.tokens.labels(bot, "input").observe(end.usage.prompt_tokens)
            metrics.tokens.labels(bot, "output").observe(end.usage.completion_tokens)
