"""`bunkhouse up CONFIG`."""

from __future__ import annotations

import asyncio
from pathlib import Path

from services.cli.errors import fail, out, reported_errors
from services.config.schema import check_documents
from services.host.display import Display, JsonDisplay, TerminalDisplay
from services.host.host import LOGS, Host
from services.planner.plan import plan
from services.planner.words import refusal
from services.process import logs
from services.store.runtime import open_runtime


def run(config_path: Path, as_json: bool) -> None:
    """Run a host in the foreground. The supervisor's own log goes to a file, beside those of its children."""
    with reported_errors():
        runtime = open_runtime(config_path)
        check_documents(runtime.config)
        planned = plan(runtime.config)
        if not planned.fits:
            fail(refusal(planned))
        display: Display = JsonDisplay() if as_json else TerminalDisplay(out)
        folder = runtime.config.data_dir / LOGS
        folder.mkdir(parents=True, exist_ok=True)
        with logs.log_file(folder / "supervisor.log") as stream:
            logs.setup("supervisor", json=True, stream=stream)
            for note in planned.notes:
                display.event(f"Note: {note}.")
            asyncio.run(Host(runtime, display, planned.left_out).run())
