"""Whether this worker's engine shares its GPU in space: seen in the MPS daemon's list of clients, not assumed.

An engine that did not join takes turns without a word, and slows those that did. One that joined and whose server is
gone cannot go on: CUDA fails in it sooner or later, or hangs.
"""

from __future__ import annotations

import asyncio
import os

import psutil
import structlog

from services.contracts.devices import Sharing
from services.devices.mps import MpsControl, MpsSilent

LOOK_S = 2.0
DAEMON_S_MAX = 20.0
DAEMON_POLL_S = 0.2
MISSES_MAX = 2  # looks in a row that do not find an engine which had joined
REJOINS_MAX = 2

log = structlog.get_logger()


class GpuSharing:
    """Looks for the processes below this one among the daemon's clients."""

    def __init__(self, control: MpsControl) -> None:
        self.sharing = Sharing.TURNS
        self._control = control
        self._misses = 0
        self._had_joined = False  # ever
        self._rejoins = 0  # starts in a row for the sake of joining

    async def look(self) -> bool:
        """Bring `sharing` up to date. False: start the engine anew. It had joined a server that is gone, or it came
        back and did not join again, although there is a daemon."""
        joined = await self._joined()
        if joined:
            if self.sharing is Sharing.TURNS:
                log.info("engine.joined_mps", pipe=str(self._control.pipe))
            self.sharing, self._had_joined = Sharing.SPACE, True
            self._misses = self._rejoins = 0
            return True
        lost = self.sharing is Sharing.SPACE
        if not lost and (joined is None or not self._had_joined or self._rejoins == REJOINS_MAX):
            return True
        self._misses += 1
        if self._misses < MISSES_MAX:
            return True
        self._rejoins += not lost
        return False

    async def until_daemon(self) -> None:
        """Before an engine starts again that had joined: wait until the daemon is back, `DAEMON_S_MAX` at most. An
        engine that finds none takes turns for as long as it runs."""
        if not self._had_joined:
            return
        try:
            async with asyncio.timeout(DAEMON_S_MAX):
                while not await self._control.answers():  # noqa: ASYNC110  (no event for it)
                    await asyncio.sleep(DAEMON_POLL_S)
        except TimeoutError:
            log.warning("engine.no_mps", pipe=str(self._control.pipe))

    def restarted(self) -> None:
        """The engine was started anew: it has to join again."""
        self.sharing, self._misses = Sharing.TURNS, 0

    async def _joined(self) -> bool | None:
        """None: there is no daemon."""
        try:
            servers = await self._control.servers()
        except MpsSilent:
            return None
        clients = {client for those in servers.values() for client in those}
        return bool(clients) and not clients.isdisjoint(_below())


def _below() -> set[int]:
    """Process ids of everything that this process started."""
    return {child.pid for child in psutil.Process(os.getpid()).children(recursive=True)}
