"""The demo shop's order service: `python examples/widget/orders.py [PORT]`. Needs nothing but Python.

    GET  /v1/orders/{number}           200 {order, status, summary, ...}, or 404
    POST /v1/orders/{number}/cancel    200 {order, status, summary}; 409 where it is too late

Orders are those of orders.json. Cancellations last until it ends. A repeated Idempotency-Key gets the first answer.
With ORDERS_TOKEN set, requests need `Authorization: Bearer TOKEN`.
"""

from __future__ import annotations

import hmac
import json
import os
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ORDERS = Path(__file__).with_name("orders.json")
PORT = 8095
BODY_BYTES_MAX = 10_000
CANCELLABLE = ("in the workshop", "waiting for payment")
_PATH = re.compile(r"/v1/orders/([0-9]{1,12})(/cancel)?")


class OrderService(ThreadingHTTPServer):
    """Orders in memory, and the answers that were given by Idempotency-Key."""

    def __init__(self, address: tuple[str, int], token: str = "", orders: Path = ORDERS) -> None:
        super().__init__(address, OrderHandler)
        self.orders: dict[str, dict[str, Any]] = json.loads(orders.read_text(encoding="utf-8"))
        self.token = token
        self.given: dict[str, tuple[int, dict[str, Any]]] = {}
        self.lock = threading.Lock()

    def look_up(self, number: str) -> tuple[int, dict[str, Any]]:
        """One order."""
        if number not in self.orders:
            return 404, {"summary": f"There is no order {number}."}
        return 200, {"order": number, **self.orders[number]}

    def cancel(self, number: str, key: str) -> tuple[int, dict[str, Any]]:
        """Cancel one order, once for each key."""
        with self.lock:
            if key and key in self.given:
                return self.given[key]
            status, order = self.look_up(number)
            if status == 200 and order["status"] not in CANCELLABLE:
                status, order = (
                    409,
                    {"summary": f"Order {number} is {order['status']} and cannot be cancelled any more."},
                )
            elif status == 200:
                self.orders[number] = {"status": "cancelled", "summary": f"Order {number} was cancelled."}
                status, order = self.look_up(number)
            if key:
                self.given[key] = (status, order)
            return status, order


class OrderHandler(BaseHTTPRequestHandler):
    """JSON over HTTP."""

    server: OrderService

    def do_GET(self) -> None:
        self._answer(cancels=False)

    def do_POST(self) -> None:
        self.rfile.read(min(int(self.headers.get("content-length", 0)), BODY_BYTES_MAX))
        self._answer(cancels=True)

    def _answer(self, *, cancels: bool) -> None:
        asked = _PATH.fullmatch(self.path)
        presented = self.headers.get("authorization", "").encode()
        if self.server.token and not hmac.compare_digest(presented, f"Bearer {self.server.token}".encode()):
            self._send(401, {"summary": "The token is missing or wrong."})
        elif asked is None or bool(asked[2]) is not cancels:
            self._send(404, {"summary": "There is nothing here."})
        elif cancels:
            self._send(*self.server.cancel(asked[1], self.headers.get("idempotency-key", "")))
        else:
            self._send(*self.server.look_up(asked[1]))

    def _send(self, status: int, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """One line for each request, on stderr."""
        sys.stderr.write(f"orders: {format % args}\n")


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else PORT
    service = OrderService(("127.0.0.1", port), os.environ.get("ORDERS_TOKEN", ""))
    sys.stderr.write(f"orders: http://127.0.0.1:{port}/v1/orders/4711\n")
    service.serve_forever()
