"""What start-up still waits for."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import httpx

from services.config.schema import Config
from services.contracts.engines import EngineState, EngineView
from services.store.connection import Connection, QueueUnavailable
from services.store.engine_records import EngineRecords

HTTP_S_MAX = 1.0


@dataclass(frozen=True, slots=True)
class StartStep:
    """One line of the start-up display."""

    name: str
    done: bool
    words: str


class Readiness:
    """Asks Redis and the gateway. Reports from before `started_s` belong to an earlier run."""

    def __init__(self, config: Config, connection: Connection, gateway_url: str, started_s: float) -> None:
        self._config = config
        self._records = EngineRecords(connection)
        self._started_s = started_s
        self._http = httpx.AsyncClient(base_url=gateway_url, timeout=HTTP_S_MAX, trust_env=False)

    async def look(self, lost: Collection[str] = ()) -> list[StartStep]:
        """The state of each part now, but of the models that are `lost`: nobody waits for them."""
        try:
            models = [step for step in await self._models() if step.name.removeprefix("model ") not in lost]
            steps = [await self._scheduler(), *models]
        except QueueUnavailable as error:
            steps = [StartStep("redis", done=False, words=str(error))]
        return [await self._gateway(all(step.done for step in steps)), *steps]

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _gateway(self, others_done: bool) -> StartStep:
        """Until the others are up it only has to be alive; then `/ready` must answer."""
        try:
            answer = await self._http.get("/ready" if others_done else "/health")
        except httpx.TransportError:
            return StartStep("gateway", done=False, words="starting")
        if answer.status_code != httpx.codes.OK:
            words = "indexing what bots know" if _missing(answer) == ["knowledge"] else "waiting until it can serve"
            return StartStep("gateway", done=False, words=words)
        return StartStep("gateway", done=True, words="listening" if others_done else "listening, not yet serving")

    async def _scheduler(self) -> StartStep:
        there = await self._records.snapshot() is not None
        return StartStep(
            "scheduler", done=there, words="has the lease" if there else "starting, or waiting for the lease"
        )

    async def _models(self) -> Iterable[StartStep]:
        engines, words = await self._records.engines(), await self._records.progress()
        return [
            self._model(name, engines.get(name), words.get(name, "starting its worker")) for name in self._config.models
        ]

    def _model(self, name: str, seen: EngineView | None, words: str) -> StartStep:
        report = seen.report if seen else None
        done = report is not None and report.at_s >= self._started_s and report.state is EngineState.READY
        return StartStep(f"model {name}", done=done, words="ready" if done else words)


def _missing(answer: httpx.Response) -> object:
    """What `/ready` says is missing."""
    try:
        return answer.json()["missing"]
    except (ValueError, KeyError, TypeError):
        return None
