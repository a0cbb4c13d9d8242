"""A TCP proxy that can be slow, silent or gone. It runs in the event loop of whoever makes it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

CHUNK_BYTES = 1 << 16
_GONE = (ConnectionError, OSError)


class Proxy:
    """`delay_s` is added to every answer. `answers` may change what comes back; it gets each chunk."""

    def __init__(self, target: Callable[[], int]) -> None:
        self._target = target  # the port behind it, asked at each connection
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._open = True
        self.delay_s = 0.0
        self.answers: Callable[[bytes], bytes] | None = None

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """Nothing passes any more, and no connection ends."""
        self._flows.clear()

    def go_on(self) -> None:
        """Undo `stop`."""
        self._flows.set()

    def cut(self) -> None:
        """End all connections, and take no new ones until `mend`."""
        self._open = False
        for link in self._links:
            link.cancel()

    def mend(self) -> None:
        """Undo `cut`."""
        self._open = True

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Proxy]:
        """Listen on a free port of loopback."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        try:
            yield self
        finally:
            self._server.close()
            self.go_on()
            for link in self._links:
                link.cancel()
            await asyncio.gather(*self._links, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._open:
            writer.transport.abort()
            return
        link = asyncio.create_task(self._link(reader, writer))
        self._links.add(link)
        link.add_done_callback(self._links.discard)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far: asyncio.StreamWriter | None = None
        try:
            far_reader, far = await asyncio.open_connection("127.0.0.1", self._target())
            pumps = [
                asyncio.create_task(self._pump(reader, far, answers=False)),
                asyncio.create_task(self._pump(far_reader, writer, answers=True)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except _GONE:
            pass
        finally:
            for side in (writer, far):
                if side is not None:
                    side.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answers: bool) -> None:
        """Chunks keep their distance: each comes `delay_s` late, none waits for the one before it."""
        loop = asyncio.get_running_loop()
        late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                due_s, chunk = await late.get()
                await asyncio.sleep(max(0.0, due_s - loop.time()))
                await self._flows.wait()
                sink.write(self.answers(chunk) if answers and self.answers else chunk)
                await sink.drain()
                late.task_done()

        tasks = [delivering := asyncio.create_task(deliver())]
        try:
            with contextlib.suppress(*_GONE):
                while chunk := await source.read(CHUNK_BYTES):
                    late.put_nowait((loop.time() + (self.delay_s if answers else 0.0), chunk))
                    if delivering.done():
                        return
                tasks.append(asyncio.create_task(late.join()))
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
