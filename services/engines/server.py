"""An engine's server process: start, progress words from its log, last log lines in the error, stop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from services.engines.base import EngineStartError, Progress
from services.process.children import spawn, stop, tail

_POLL_S = 0.05
_LOG_READ_BYTES_MAX = 1 << 20

T = TypeVar("T")


class ServerProcess:
    """`words` maps a piece of a log line to what the start-up display says from that line on."""

    def __init__(self, name: str, log_path: Path, words: Mapping[str, str], grace_s: float) -> None:
        self.name, self.log_path, self.grace_s = name, log_path, grace_s
        self._words = words
        self._process: asyncio.subprocess.Process | None = None
        self._log_at = 0

    @property
    def pid(self) -> int | None:
        """None when it does not run."""
        return self._process.pid if self.running and self._process is not None else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        ready: Callable[[list[str]], Awaitable[T | None]],
        progress: Progress,
        timeout_s: float,
        *,
        base: Mapping[str, str] | None = None,
    ) -> T:
        """Spawn and return what `ready` answers, which is asked with the log's new lines until it is not None.

        `env` is added to `base`, or to this process's environment. Raises EngineStartError; nothing runs on then.
        """
        await self.stop()
        self._log_at = self.log_path.stat().st_size if self.log_path.exists() else 0
        try:
            self._process = await spawn(argv, {**(os.environ if base is None else base), **env}, self.log_path)
        except OSError as error:
            raise EngineStartError(f"{self.name}: cannot be started: {error}") from error
        answer = None
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._until(ready, progress)
        except TimeoutError:
            raise self.failure(f"did not answer within {timeout_s:g} s") from None
        finally:
            if answer is None:
                await self.stop()
        return answer

    async def _until(self, ready: Callable[[list[str]], Awaitable[T | None]], progress: Progress) -> T:
        while True:
            running = self.running  # before the log is read, so that a dead server's last lines are seen
            lines = self._new_lines()
            for line in lines:
                for piece, word in self._words.items():
                    if piece in line:
                        progress(word)
            answer = await ready(lines)
            if answer is not None:
                return answer
            if not running:
                code = self._process.returncode if self._process is not None else None
                raise self.failure(f"exited with status {code}")
            await asyncio.sleep(_POLL_S)

    def failure(self, what: str) -> EngineStartError:
        """An error that ends with the last log lines of this start."""
        lines = tail(self.log_path).strip()
        return EngineStartError(f"{self.name}: {what}. Its last log lines:\n{lines or '(none)'}")

    async def stop(self) -> None:
        """End the whole process group. Safe to call twice."""
        if self._process is not None:
            await stop(self._process, self.grace_s)
            self._process = None

    def _new_lines(self) -> list[str]:
        """Whole lines written since the last call."""
        try:
            with self.log_path.open("rb") as log:
                if os.fstat(log.fileno()).st_size < self._log_at:
                    self._log_at = 0  # it was cut meanwhile (services.process.log_files)
                log.seek(self._log_at)
                data = log.read(_LOG_READ_BYTES_MAX)
        except FileNotFoundError:
            return []
        end = data.rfind(b"\n") + 1
        self._log_at += end
        return data[:end].decode(errors="replace").splitlines()
