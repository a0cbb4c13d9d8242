"""Prometheus metrics, with OpenTelemetry's GenAI names where those fit. No ids and no text as labels.

Several gateway processes of one host share a port, so that a scrape meets any of them. They then keep their counters in
files of one folder, named by SHARED_ENV before this module is imported, and each answers for all.
"""

from __future__ import annotations

import os
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from gateway.host_metrics import HostCollector
from gateway.outcomes import Refused, raise_for_end
from services.contracts.chats import Ticket
from services.contracts.replies import ReplyEnd, ReplyEntry

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TOKEN_SECONDS = (0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)
SHARED_ENV = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's own name for it
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """One process's counters, in a registry of its own. `per_tenant`: labels name tenants and bots, else models."""

    def __init__(self, *, per_tenant: bool = False) -> None:
        self._per_tenant = per_tenant
        self.registry = CollectorRegistry()
        self.host = HostCollector(per_tenant=per_tenant)
        self.registry.register(self.host)
        self.requests = Counter(
            "bunkhouse_gateway_requests",
            "Requests by route, status and outcome.",
            ("route", "status", "outcome"),
            registry=self.registry,
        )
        self.unknown_parameters = Counter(
            "bunkhouse_gateway_unknown_parameters",
            "Request parameters that were ignored because no table has their name. The log has the names.",
            registry=self.registry,
        )
        self.action_calls = Counter(
            "bunkhouse_gateway_action_calls",
            "Calls that bots' actions made, by what came of them.",
            ("status",),
            registry=self.registry,
        )
        self.chats = Gauge(
            "bunkhouse_gateway_open_chats",
            "Chats being answered now.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.overhead = Histogram(
            "bunkhouse_gateway_overhead_seconds",
            "From a chat's request to its place in the waiting room.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.duration = Histogram(
            "gen_ai_server_request_duration_seconds",
            "From a chat's request to its end.",
            ("gen_ai_request_model", "error_type"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.first_token = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From a chat's request to the first piece of its answer.",
            ("gen_ai_request_model",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.per_token = Histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Mean time of a chat's tokens after the first.",
            ("gen_ai_request_model",),
            buckets=_TOKEN_SECONDS,
            registry=self.registry,
        )
        self.tokens = Histogram(
            "gen_ai_client_token_usage",
            "Tokens of a chat.",
            ("gen_ai_request_model", "gen_ai_token_type"),
            buckets=_TOKENS,
            registry=self.registry,
        )

    def model_of(self, ticket: Ticket) -> str:
        """A chat's gen_ai_request_model."""
        return ticket.bot if self._per_tenant else ticket.model

    def text(self) -> bytes:
        """The exposition format, over all of the host's gateway processes."""
        if SHARED_ENV not in os.environ:
            return generate_latest(self.registry)
        shared = CollectorRegistry()
        MultiProcessCollector(shared)  # type: ignore[no-untyped-call]  # prometheus_client has no types here
        shared.register(self.host)
        return generate_latest(shared)


class RequestMetrics:
    """What one answer adds to the metrics, and what its headers say. `began_s`: on perf_counter's clock."""

    def __init__(self, metrics: Metrics, ticket: Ticket, began_s: float) -> None:
        self._metrics = metrics
        self._model = metrics.model_of(ticket)
        self._began_s = began_s
        self._first_s: float | None = None
        self._last_s = 0.0
        self._later_tokens = 0  # after the first piece
        self.kv_bits: int | None = None
        self.queue_s: float | None = None
        self.served_by: str | None = None

    def see(self, entry: ReplyEntry) -> None:
        """One entry of the reply, as it is relayed."""
        if entry.kind == "text":
            self._last_s = perf_counter()
            if self._first_s is None:
                self._first_s = self._last_s
            else:
                self._later_tokens += entry.tokens
        elif entry.kind == "start":
            self.kv_bits, self.queue_s, self.served_by = entry.kv_bits, entry.queue_s, entry.served_by
        elif entry.end is not None:
            self.served_by = entry.end.served_by

    def close(self, end: ReplyEnd | None, outcome: str = "ok") -> None:
        """Record the chat: times, and tokens where its usage is known. A bad end overrules `outcome`."""
        if end is not None:
            try:
                raise_for_end(end)
            except Refused as refused:
                outcome = refused.code.value
        metrics, model = self._metrics, self._model
        error_type = "" if outcome == "ok" else outcome
        metrics.duration.labels(model, error_type).observe(perf_counter() - self._began_s)
        if self._first_s is not None:
            metrics.first_token.labels(model).observe(self._first_s - self._began_s)
            if self._later_tokens:
                metrics.per_token.labels(model).observe((self._last_s - self._first_s) / self._later_tokens)
        if end is not None and end.usage is not None:
            metrics.tokens.labels(model, "input").observe(end.usage.prompt_tokens)
            metrics.tokens.labels(model, "output").observe(end.usage.completion_tokens)
