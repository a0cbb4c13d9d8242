"""What a gateway process holds while it runs, and the circuit breaker around its steps on Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from time import monotonic

from gateway.directory import Directory, Engines
from gateway.knowledge.catalog import KnowledgeCatalog
from gateway.metrics import Metrics
from gateway.prompt import Prompts
from services.config.host_secrets import Secrets
from services.config.schema import Config
from services.store.connection import Connection, QueueUnavailable
from services.store.knowledge import KnowledgeStore
from services.store.replies import Reader, ReplyHub
from services.store.submission import SubmissionClient

PAUSE_S = 0.5


class CircuitBreaker:
    """`with breaker:` around a step that needs Redis. When Redis does not answer, one request finds out for all.

    After a failure requests are refused for PAUSE_S without asking Redis; then one goes through as a probe, and the
    rest wait for its result. So a Redis that hangs costs each client one short timeout at most.
    """

    def __init__(self, clock: Callable[[], float] = monotonic, pause_s: float = PAUSE_S) -> None:
        self._clock = clock
        self._pause_s = pause_s
        self._again_s: float | None = None  # None: Redis answers

    def __enter__(self) -> None:
        if self._again_s is None:
            return
        now_s = self._clock()
        if now_s < self._again_s:
            raise QueueUnavailable("Redis did not answer a moment ago")
        self._again_s = now_s + self._pause_s  # this one is the probe

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            self._again_s = None
        elif isinstance(error, QueueUnavailable):
            self._again_s = self._clock() + self._pause_s


@dataclass
class Gateway:
    """One process's connections, caches and counters. `clock` is Unix time."""

    config: Config
    secrets: Secrets
    connection: Connection
    prompts: Prompts
    clock: Callable[[], float] = time.time
    draining: bool = False
    hand_over: bool = False  # drain_s is up: streams still open end now
    open_requests: int = 0
    readers: set[Reader] = field(default_factory=set)  # of the chats whose client is being answered here
    lingering: set[asyncio.Task[None]] = field(default_factory=set)  # see `in_background`

    def __post_init__(self) -> None:
        scheduler = self.config.scheduler
        self.hub = ReplyHub(self.connection)
        self.submissions = SubmissionClient(
            self.connection,
            waiting_max=scheduler.waiting_max,
            waiting_per_tenant_max=scheduler.waiting_per_tenant_max,
            reply_channel=self.hub.channel,
        )
        self.breaker = CircuitBreaker()
        self.directory = Directory(self.submissions, self.secrets.pepper, self.clock, self.secrets.admin_key)
        self.knowledge = KnowledgeCatalog(
            self.config.data_dir / "knowledge", KnowledgeStore(self.connection), lambda: self.directory.registry
        )
        self.engines = Engines(self.submissions, self.config.models)
        self.metrics = Metrics(per_tenant=self.config.gateway.metrics_per_tenant)

    def in_background(self, work: Coroutine[object, object, None]) -> None:
        """Let the end of a chat whose client went away outlive its request, until this process ends."""
        task = asyncio.create_task(work)
        self.lingering.add(task)
        task.add_done_callback(self.lingering.discard)
