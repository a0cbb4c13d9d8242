"""Prometheus metrics, with OpenTelemetry's GenAI names where those fit. No ids and no text as labels.

Several gateway processes of one host share a port, so that a scrape meets any of them. They then keep their counters in
files of one folder, named by SHARED_ENV before this module is imported, and each answers for all.
"""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from gateway.host_metrics import HostCollector

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TOKEN_SECONDS = (0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)
SHARED_ENV = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's own name for it
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """One process's counters, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.host = HostCollector()
        self.registry.register(self.host)
        self.requests = Counter(
            "bunkhouse_gateway_requests",
            "Requests by route, status and outcome.",
            ("route", "status", "outcome"),
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

    def text(self) -> bytes:
        """The exposition format, over all of the host's gateway processes."""
        if SHARED_ENV not in os.environ:
            return generate_latest(self.registry)
        shared = CollectorRegistry()
        MultiProcessCollector(shared)  # type: ignore[no-untyped-call]  # prometheus_client has no types here
        shared.register(self.host)
        return generate_latest(shared)
