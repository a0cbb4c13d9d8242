"""The control socket's far end: a thread takes requests, the scheduler's own thread answers them between steps."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socketserver
import threading
from collections.abc import Callable

from .control import LINE_BYTES_MAX, JsonObject

REQUESTS_MAX = 64
ANSWER_S_MAX = 30.0


class _Listener(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = REQUESTS_MAX  # a Unix socket refuses who finds the queue full


class ControlServer:
    """Listens at `path` (made fresh, for this user only). ``poll`` must be called by the thread that owns the pools."""

    def __init__(self, path: str, handle: Callable[[JsonObject], JsonObject]) -> None:
        self._handle = handle
        self._requests: queue.Queue[tuple[JsonObject, queue.Queue[JsonObject]]] = queue.Queue(REQUESTS_MAX)
        if os.path.exists(path):
            os.unlink(path)
        mask = os.umask(0o177)
        try:
            self._server = _Listener(path, self._handler())
        finally:
            os.umask(mask)
        threading.Thread(target=self._server.serve_forever, name="kvplanes-control", daemon=True).start()

    def _handler(self) -> type[socketserver.StreamRequestHandler]:
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(ConnectionError):  # a client may leave at any time
                    while line := self.rfile.readline(LINE_BYTES_MAX):
                        self.wfile.write(json.dumps(outer.exchange(line)).encode() + b"\n")

        return Handler

    def exchange(self, line: bytes) -> JsonObject:
        """Parse one request and wait for the scheduler's answer."""
        try:
            request = json.loads(line)
        except ValueError as error:
            return {"error": f"not JSON: {error}"}
        if not isinstance(request, dict):
            return {"error": "a request is a JSON object"}
        answer: queue.Queue[JsonObject] = queue.Queue(1)
        try:
            self._requests.put_nowait((request, answer))
            return answer.get(timeout=ANSWER_S_MAX)
        except queue.Full:
            return {"error": f"{REQUESTS_MAX} requests are waiting already"}
        except queue.Empty:
            return {"error": f"the scheduler did not answer in {ANSWER_S_MAX} s"}

    def poll(self) -> None:
        """JsonObject what has come in. Costs a fraction of a microsecond when nothing has."""
        while not self._requests.empty():
            request, answer = self._requests.get_nowait()
            try:
                answer.put(self._handle(request))
            except ValueError as error:
                answer.put({"error": str(error)})

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
