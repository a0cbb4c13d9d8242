"""`make test-clients`: unmodified clients against a real host; a table, and figures.

    python -m tests.clients [CLIENT ...]

With clients' names, only those run and nothing is written.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks.output import write
from tests.clients import environments, report
from tests.clients.runner import CLIENTS, Result, clients_host, run_client

FIGURES = environments.ROOT / "docs" / "benchmarks" / "clients.json"
TABLE = environments.ROOT / "docs" / "clients.md"


def main(names: list[str]) -> int:
    """Exit code 0 when each check passed."""
    clients = [client for client in CLIENTS if not names or client.name in names or client.script in names]
    for name in {client.environment for client in clients}:
        environments.install(name)
    results: dict[str, list[Result]] = {}
    with tempfile.TemporaryDirectory(prefix="bh-clients-") as scratch, clients_host(Path(scratch)) as host:
        for client in clients:
            results[client.name] = run_client(client, host, Path(scratch))
            for each in results[client.name]:
                mark = "passed" if each.passed else "FAILED"
                print(f"{mark} {client.name}: {each.check} ({each.seconds} s) {each.detail}", flush=True)
    figures = report.figures(results)
    if not names:
        TABLE.write_text(report.table(results))
        write(FIGURES, figures)
    return 0 if figures["clients_checks"] == figures["clients_passed"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
