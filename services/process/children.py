"""Child processes that never outlive their parent.

Every long-running child of the host (engines, Redis, gateway, workers) is started here: in a process
group of its own, with its output in a log file, and with the kernel asked to kill it when the parent dies.
The kernel's promise covers the child itself. What the child starts must watch its own parent (SGLang's
processes do), or be started through here, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

_SHIM = Path(__file__).with_name("die_with_parent.py")
_GROUP_GONE_S_MAX = 2.0
_POLL_S = 0.02


def interpreter_environment(python: Path | None) -> dict[str, str]:
    """This process's environment, for a program that `python` runs (None: this interpreter).

    Another interpreter gets no PYTHON* variables: with the host's PYTHONPATH it would import the host's packages.
    """
    own = python is None or python == Path(sys.executable)
    return {name: value for name, value in os.environ.items() if own or not name.startswith("PYTHON")}


def raise_open_files_limit() -> int:
    """Lift this process's soft limit on open files to the hard one, and return it. With a shell's usual 1,024 a
    gateway's next client would hang."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def mortal(argv: Sequence[str], death_signal: signal.Signals = signal.SIGKILL) -> list[str]:
    """A command that runs `argv` and sends it `death_signal` when the thread that started it ends.

    Where `argv` cannot be run, the command prints why on stderr and exits with a status other than 0.
    """
    return [sys.executable, "-I", "-S", str(_SHIM), str(os.getpid()), str(int(death_signal)), *argv]


async def spawn(
    argv: Sequence[str],
    env: Mapping[str, str] | None,
    log_path: Path,
    death_signal: signal.Signals = signal.SIGKILL,
) -> asyncio.subprocess.Process:
    """Start `argv` in a new session, its stdout and stderr appended to `log_path`.

    `env` is the whole environment (None: this process's). The child gets `death_signal` when the thread
    that called this ends, so call it from the thread that lives as long as the process: the event loop's.
    A program that cannot be run exits at once with a line in the log; a log that cannot be opened is an
    OSError here.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("ab") as log:
        return await asyncio.create_subprocess_exec(
            *mortal(argv, death_signal),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=dict(os.environ if env is None else env),
            start_new_session=True,
        )


def tail(log_path: Path, lines: int = 20, bytes_max: int = 16_384) -> str:
    """The last `lines` lines of a log, for an error message. Empty when there is no log."""
    try:
        with log_path.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - bytes_max))
            text = log.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


async def stop(process: asyncio.subprocess.Process, grace_s: float) -> None:
    """SIGTERM the whole group, SIGKILL what is left after `grace_s`, and reap. Safe to call twice."""
    if process.returncode is None:
        _signal_group(process.pid, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), grace_s)
    _signal_group(process.pid, signal.SIGKILL)
    await process.wait()
    loop = asyncio.get_running_loop()
    gone_by = loop.time() + _GROUP_GONE_S_MAX
    while _group_lives(process.pid) and loop.time() < gone_by:  # noqa: ASYNC110  (no event for it)
        await asyncio.sleep(_POLL_S)


def _signal_group(group: int, number: int) -> None:
    """Send a signal to a process group, if anyone is there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _group_lives(group: int) -> bool:
    """Whether the group has a process that is not a zombie: one that holds memory and ports."""
    for process in psutil.process_iter(["status"]):
        try:
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                return True
        except ProcessLookupError:
            continue
    return False
