"""Start-up and the process: `python -m gateway CONFIG`."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import FrameType

import structlog
import uvicorn

from gateway import background
from gateway.app import App
from gateway.prompt import Prompts
from gateway.protocol import BoundedProtocol
from gateway.state import Gateway
from services.contracts.engines import provider_model
from services.process import garbage, logs
from services.process.children import raise_open_files_limit
from services.store import unread_chats
from services.store.connection import QueueUnavailable
from services.store.runtime import PATIENCE_S, Runtime, open_runtime
from services.store.unread_chats import UnreadChats

KEEP_ALIVE_S = 30
BACKLOG = 4096
DRAIN_POLL_S = 0.05

log = structlog.get_logger()


@asynccontextmanager
async def opened(runtime: Runtime, prompts: Prompts | None = None) -> AsyncIterator[Gateway]:
    """A gateway with everything that runs beside its requests. Loads tokenizers unless it is given them."""
    if prompts is None:
        prompts = await asyncio.to_thread(Prompts.load, runtime.config)
    async with runtime.connect(PATIENCE_S) as connection:
        gateway = Gateway(runtime.config, runtime.secrets, connection, prompts)
        await gateway.directory.reload()
        tasks = background.begin(
            gateway.hub.run(),
            gateway.directory.watch(),
            gateway.directory.guard(),
            gateway.engines.watch(),
            _cancel_unread(gateway),
            gateway.knowledge.watch(),
        )
        try:
            yield gateway
        finally:
            await background.end(
                [*tasks, *gateway.lingering]
            )  # lingering chats go on: a shutdown cancels nobody's chat


async def _cancel_unread(gateway: Gateway) -> None:
    """Cancel chats whose readers were all at gateways that were killed, unless one takes them up soon."""
    config = gateway.config
    unread = UnreadChats(gateway.connection, {*config.models, *map(provider_model, config.overflow)})
    while True:
        await asyncio.sleep(max(unread_chats.SWEEP_S_MIN, config.gateway.resume_grace_s))
        with suppress(QueueUnavailable):
            await unread.sweep(config.gateway.reply_keep_s, gateway.clock())


def create_app(runtime: Runtime) -> App:
    """The ASGI application of one host."""
    return App(lambda: opened(runtime))


class Server(uvicorn.Server):
    """uvicorn, but a signal first drains: /ready says no and new chats are refused while others finish.

    `started` is called once, when everything is there.
    """

    def __init__(
        self, app: App, config: uvicorn.Config, drain_s: float, started: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(config)
        self._app = app
        self._started = started
        self._drain_s = drain_s
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  (uvicorn's signature)
        """First signal: drain. Second: now."""
        gateway = self._app.state
        if gateway is None or gateway.draining:
            self.should_exit = True
            self.force_exit = gateway is not None
            return
        gateway.draining = True

    async def on_tick(self, counter: int) -> bool:
        gateway = self._app.state
        if gateway is not None and gateway.draining and self._draining is None:
            self._draining = asyncio.create_task(self._drain(gateway))
        return await super().on_tick(counter)

    async def _drain(self, gateway: Gateway) -> None:
        """Chats finish within drain_s; streams still open then end, and their clients resume elsewhere."""
        log.info("gateway.drains", requests=gateway.open_requests, drain_s=self._drain_s)
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self._drain_s
        while gateway.open_requests and loop.time() < until_s:  # noqa: ASYNC110  (seldom, short, and simple)
            await asyncio.sleep(DRAIN_POLL_S)
        gateway.hand_over = True
        for reader in list(gateway.readers):
            reader.wake()
        log.info("gateway.drained", handed_over=gateway.open_requests)
        self.should_exit = True


def serve(config_path: Path) -> None:
    """Serve until a signal. Raises ConfigError, SecretsError; exits with 3 when start-up fails."""
    logs.setup("gateway")
    raise_open_files_limit()
    runtime = open_runtime(config_path)
    bounds = runtime.config.gateway
    app = create_app(runtime)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=BoundedProtocol.bounded(bounds.request_read_s_max),
        lifespan="on",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(bounds.trusted_proxies),
        forwarded_allow_ips=[str(network) for network in bounds.trusted_proxies],
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=5,
        backlog=BACKLOG,
    )
    with listening(bounds.host, bounds.port) as listener:
        host, port = listener.getsockname()[:2]
        log.info("gateway.listens", host=host, port=port)
        Server(app, config, bounds.drain_s, garbage.freeze_heap).run(sockets=[listener])


def listening(host: str, port: int) -> socket.socket:
    """A listening socket that several gateway processes of one host may share."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((host, port))
    return listener
