"""Receives handovers: `BUNKHOUSE_WEBHOOK_SECRET=... python receiver.py [PORT]`. Needs nothing but Python.

The secret is shown on the dashboard, under Tenants, Support widgets. Deliveries come at least once: `id` tells repeats.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

AGE_S_MAX = 300
BODY_BYTES_MAX = 2_000_000


def genuine(header: str, body: bytes, secret: str, now_s: float) -> bool:
    """Whether `x-bunkhouse-signature` (`t=SECONDS,v1=HEX`) fits the body and is fresh."""
    seconds, _, presented = header.removeprefix("t=").partition(",v1=")
    if not seconds.isdigit() or abs(now_s - int(seconds)) > AGE_S_MAX:
        return False
    expected = hmac.new(secret.encode(), f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected, presented)


class Receiver(BaseHTTPRequestHandler):
    """Prints each visitor who asks for a person."""

    def do_POST(self) -> None:
        length = min(int(self.headers.get("content-length", 0)), BODY_BYTES_MAX)
        body = self.rfile.read(length)
        secret = os.environ["BUNKHOUSE_WEBHOOK_SECRET"]
        if not genuine(self.headers.get("x-bunkhouse-signature", ""), body, secret, time.time()):
            self.send_error(401)
            return
        self.send_response(204)
        self.end_headers()
        message = json.loads(body)
        sys.stdout.write(f"{message['contact']} of {message['page']}: {message['note'] or 'no note'}\n")
        for turn in message["turns"]:
            sys.stdout.write(f"  {turn['who']}: {turn['text']}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8090
    ThreadingHTTPServer(("127.0.0.1", port), Receiver).serve_forever()
