"""`make test-clients`: unmodified clients against a real host; a table, and figures.

    python -m tests.clients [CLIENT ...]

With clients' names, only those run and nothing is written.
"""

from __future__ import annotations

import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.output import write
from tests.clients import environments, report
from tests.clients.runner import CLIENTS, Result, clients_host, prepare, run_client

FIGURES = environments.ROOT / "docs" / "benchmarks" / "clients.json"
SIDE_BY_SIDE = 3  # clients wait for imports and for answers more than they compute
TABLE = environments.ROOT / "docs" / "clients.md"


def main(names: list[str]) -> int:
    """Exit code 0 when each check passed."""
    clients = [client for client in CLIENTS if not names or client.name in names or client.script in names]
    for name in {name for client in clients for name in (client.environment, client.engine)} - {"llamacpp"}:
        environments.install(name)
    if any(client.engine == environments.SGLANG for client in clients):
        environments.install_sglang_weights()
    results: dict[str, list[Result]] = {}
    for engine in sorted({client.engine for client in clients}):
        mine = [client for client in clients if client.engine == engine]
        with tempfile.TemporaryDirectory(prefix="bh-clients-") as scratch, clients_host(Path(scratch), engine) as host:
            prepare(Path(scratch))
            with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
                found = pool.map(lambda client: run_client(client, host, Path(scratch)), mine)
                for client, each in zip(mine, found, strict=True):
                    results[client.name] = each
                    _show(client.name, each)
    figures = report.figures(results)
    if not names:
        TABLE.write_text(report.table(results))
        write(FIGURES, figures)
    return 0 if figures["clients_checks"] == figures["clients_passed"] else 1


def _show(name: str, results: list[Result]) -> None:
    for each in results:
        mark = "passed" if each.passed else "FAILED"
        print(f"{mark} {name}: {each.check} ({each.seconds} s) {each.detail}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
