"""What a gateway process holds while it runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

from gateway.breaker import Breaker
from gateway.directory import Directory
from gateway.engines import Engines
from gateway.metrics import Metrics
from gateway.prompt import Prompts
from services.config.host_secrets import Secrets
from services.config.schema import Config
from services.store.connection import Connection
from services.store.replies import Reader, ReplyHub
from services.store.submission import SubmissionClient


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
        self.door = SubmissionClient(
            self.connection,
            waiting_max=scheduler.waiting_max,
            waiting_per_tenant_max=scheduler.waiting_per_tenant_max,
        )
        self.hub = ReplyHub(self.connection)
        self.breaker = Breaker()
        self.directory = Directory(self.door, self.secrets.pepper, self.clock, self.secrets.admin_key)
        self.engines = Engines(self.door, self.config.models)
        self.metrics = Metrics()

    def in_background(self, work: Coroutine[object, object, None]) -> None:
        """Let the end of a chat whose client went away outlive its request, until this process ends."""
        task = asyncio.create_task(work)
        self.lingering.add(task)
        task.add_done_callback(self.lingering.discard)
