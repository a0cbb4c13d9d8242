"""One engine at a time, brought to the precision that is asked for: changed where it can be, else another one."""

from __future__ import annotations

import time
from dataclasses import dataclass

from services.contracts.chats import KvBits
from services.contracts.engines import EngineFacts
from services.engines.base import Engine

from .subject import Subject


@dataclass(frozen=True, slots=True)
class At:
    """A running engine at one precision. `change_s` None: it was started, not changed."""

    engine: Engine
    facts: EngineFacts
    change_s: float | None


class RunningEngine:
    """Use `at` for every precision in turn, and `stop` at the end."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._engine: Engine | None = None
        self._planes = False

    async def at(self, bits: int) -> At:
        """The engine at `bits`. Raises EngineError and ConfigError."""
        planes = self._subject.with_planes(bits)
        if self._engine is not None and planes == self._planes:
            begun = time.perf_counter()
            facts = await self._engine.set_kv_bits(KvBits(bits), silent)
            return At(self._engine, facts, time.perf_counter() - begun)
        await self.stop()
        engine = self._engine = self._subject.engine(bits)
        self._planes = planes
        return At(engine, await engine.start(silent), None)

    async def stop(self) -> None:
        """End the engine, if one runs."""
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.stop()


def silent(_words: str) -> None:
    """A Progress that says nothing."""
