"""The whole measurement, in the order in which it runs.

Questions and positions that 16 bits reached in their time are asked at the others as well: every
comparison is over the same ones.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable, Sequence

import psutil

from services.config.schema import ConfigError
from services.contracts.chats import KvBits, Sampling
from services.contracts.engines import EngineFacts
from services.engines.base import Engine, EngineError, EngineStartError, KvBitsUnsupported
from services.evidence.corpus import dialogues

from . import quality, speed
from .capacity import models_held, sessions_held
from .chats import ChatDriver, ThoughtsRoom
from .distances import distance
from .logits import logits_of
from .memory import Sizes, held
from .results import MeasuredAtBits, Results
from .subject import RunningEngine, Subject, silent

BITS = (16, 8, 4)
TEXTS = 2
HOST_PART = 0.6  # of the memory that is free now: what trials may take
Say = Callable[[str], None]


class Study:
    """Measures one subject and fills `results`, which says on what card, for which targets and how thoroughly."""

    def __init__(self, subject: Subject, results: Results, say: Say) -> None:
        self.subject = subject
        self.results = results
        self._say = say
        self._settings = results.settings
        self._facts: dict[int, EngineFacts] = {}
        self._begun = time.perf_counter()
        self._idle_from = _busy_s() - _own_s()

    async def run(self) -> Results:
        """All phases. Raises EngineError when not even 16 bits can be started."""
        results = self.results
        results.at = {bits: MeasuredAtBits(bits) for bits in BITS}
        await self._speed()
        self._memory()
        await self._fidelity()
        await self._models()
        await self._answers()
        await self._sessions()
        results.seconds = self._seconds()
        results.foreign_cpu_share = max(0.0, (_busy_s() - _own_s() - self._idle_from) / (results.seconds * cores()))
        return results

    def _seconds(self) -> float:
        return time.perf_counter() - self._begun

    def _left(self) -> float:
        return max(0.0, self._settings.seconds_max - self._seconds())

    def _late(self, what: str, part: float = 1.0) -> bool:
        """Whether `part` of the time is over. Notes what is left out then."""
        if self._seconds() < part * self._settings.seconds_max:
            return False
        self.results.notes.append(f"Left out for lack of time: {what}.")
        return True

    @property
    def _usable(self) -> list[MeasuredAtBits]:
        return [at for at in self.results.at.values() if at.unavailable is None]

    async def _speed(self) -> None:
        """Bursts round all precisions, then what a change of precision takes."""
        engines: dict[int, tuple[Engine, ChatDriver]] = {}
        running = {kind: RunningEngine(self.subject) for kind in (*BITS, "planes")}
        try:
            for at in list(self.results.at.values()):
                self._say(f"starting {self.subject.name} at {at.bits} KV bits")
                kind = "planes" if self.subject.with_planes(at.bits) else at.bits
                if (engine := await self._bring(running[kind], at)) is not None:
                    engines[at.bits] = engine, self._driver(at.bits)
            self._say(f"decoding in turn at {', '.join(map(str, engines))} KV bits")
            found = await speed.decode(
                engines, self._long_prompts(), self._settings.bursts, self._settings.burst_tokens
            )
            for bits, bursts in found.items():
                at = self.results.at[bits]
                at.decode_tokens_per_s, at.first_token_s = bursts.tokens_per_s, bursts.first_s
        finally:
            await asyncio.gather(*(one.stop() for one in running.values()))

    def _long_prompts(self) -> list[Sequence[int] | str]:
        context, settings = self._facts[BITS[0]].context_tokens, self._settings
        tokens = min(int(context * settings.fill), context - settings.burst_tokens - 1)
        self.results.prompt_tokens = tokens
        return [speed.long_prompt(self.subject.tokenizer, tokens, seed) for seed in range(speed.PROMPTS)]

    async def _bring(self, running: RunningEngine, at: MeasuredAtBits) -> Engine | None:
        """The engine at this precision; None, and a note, if it cannot run. Raises for 16 bits."""
        try:
            found = await running.at(at.bits)
        except (KvBitsUnsupported, EngineStartError, ConfigError) as error:
            if at.bits == BITS[0]:
                raise
            at.unavailable = str(error).splitlines()[0]
            self.results.notes.append(f"{at.bits} KV bits: {at.unavailable}")
            return None
        self._facts[at.bits] = found.facts
        self.results.live_kv_bits |= found.facts.live_kv_bits
        if found.change_s is not None:
            at.change_s = max(found.change_s, at.change_s or 0.0)
        return found.engine

    def _driver(self, bits: int) -> ChatDriver:
        return ChatDriver(self.subject.tokenizer, KvBits(bits))

    def _thoughtful(self, bits: int) -> ChatDriver:
        """A driver whose answers have their thoughts beside them."""
        room = ThoughtsRoom(self._settings.reasoning_tokens_max, self._facts[bits].context_tokens)
        return ChatDriver(self.subject.tokenizer, KvBits(bits), room)

    async def _answers(self) -> None:
        """Questions and style at each precision; what is compared are the questions that all of them reached."""
        asked = quality.question_order()[: self._settings.questions]
        found: dict[int, quality.QuestionScores] = {}
        style: dict[int, list[str]] = {}
        running = RunningEngine(self.subject)
        try:
            for at in self._usable:
                if self._late(f"questions and style at {at.bits} bits"):
                    continue
                engine = await self._bring(running, at)
                if engine is None:
                    continue
                driver, slots = self._thoughtful(at.bits), self._facts[at.bits].chats_max
                self._say(f"{len(asked)} questions at {at.bits} KV bits")
                seconds = self._left() if found else self._settings.questions_s_max
                found[at.bits] = await quality.ask(engine, driver, asked, slots, seconds=seconds)
                asked = [q for q in asked if q.id in found[at.bits].given]
                self._say(f"style of answers at {at.bits} KV bits")
                style[at.bits] = await self._style_sample(engine, driver, slots, seed=1)
                if at.bits == BITS[0]:
                    others = [await self._style_sample(engine, driver, slots, seed=seed) for seed in (2, 3)]
                    self.results.style_yardstick = max(
                        distance(style[at.bits], others[0]), distance(style[at.bits], others[1]), distance(*others)
                    )
        finally:
            await running.stop()
        self._compare_answers({bits: answers.only(asked) for bits, answers in found.items()}, style)

    def _compare_answers(self, found: dict[int, quality.QuestionScores], style: dict[int, list[str]]) -> None:
        for bits, answers in found.items():
            at = self.results.at[bits]
            at.maths, at.logic = answers.share("maths"), answers.share("logic")
            at.answers = answers.listed()
            at.reasoning_tokens = answers.reasoning_tokens if self._driver(bits).thinks else None
            if BITS[0] in found:
                at.same_answers = answers.same_as(found[BITS[0]])
            if BITS[0] in style and bits != BITS[0]:
                at.style_distance = distance(style[BITS[0]], style[bits])

    async def _style_sample(self, engine: Engine, driver: ChatDriver, at_once: int, seed: int) -> list[str]:
        settings = self._settings
        wanted = [d for d in dialogues() if d.language == "en" and d.task in ("creative", "complaint")]
        requests = [
            driver.request(d.turns[0].user, settings.style_tokens, Sampling(temperature=0.7, seed=seed))
            for d in wanted[: settings.style_prompts]
        ]
        return [timed.text for timed in await driver.all_of(engine, requests, at_once)]

    def _memory(self) -> None:
        """What the card holds, by this engine's own sizes."""
        first = self._facts[BITS[0]]
        need = self.subject.need
        per_token = {
            bits: self._facts[bits].kv_bytes_per_token.get(bits, need.per_token[bits])
            if bits in self._facts
            else need.per_token[bits]
            for bits in BITS
        }
        # A small card's overhead is the measured one; zero says that the engine cannot tell.
        overhead = max((f.overhead_bytes for f in self._facts.values()), default=0) or need.overhead_bytes
        sizes = Sizes(first.weight_bytes, overhead, per_token, need.context_tokens, need.chats_max)
        self.results.sizes = sizes
        if not self.results.card_bytes:
            self.results.card_bytes = math.ceil(
                self.results.card_models * sizes.model_bytes(BITS[0]) / (1 - self.results.reserve)
            )
        budget = int(self.results.card_bytes * (1 - self.results.reserve))
        for at in self._usable:
            at.overhead_bytes = self._facts[at.bits].overhead_bytes
            at.held = held(sizes, at.bits, budget)

    async def _fidelity(self) -> None:
        """Perplexity and divergence, on servers of their own."""
        if not self.subject.tokenizer.exact:
            self.results.notes.append("Perplexity and divergence: not measured; the tokenizer's family is unknown.")
            return
        settings, tokenizer = self._settings, self.subject.tokenizer
        texts = [tokenizer.encode(text)[: settings.text_tokens] for text in quality.support_text(TEXTS)]
        places = [list(range(len(t) // 2, len(t)))[: settings.positions // TEXTS] for t in texts]
        base: quality.Readings | None = None
        for at in self._usable:
            if self._late(f"predictions at {at.bits} bits"):
                continue
            self._say(f"perplexity at {at.bits} KV bits")
            async with logits_of(self.subject, at.bits, settings.text_tokens + 64, TEXTS) as logits:
                seconds = settings.positions_s_max if base is None else self._left()
                readings = await quality.read(logits, texts, places, seconds)
            if base is None:
                base = readings
                places = [sorted(p for t, p in base if t == slot) for slot in range(TEXTS)]
            at.fidelity = quality.fidelity(base, readings, texts, self.subject.shape.vocabulary)

    async def _sessions(self) -> None:
        for at in self._usable:
            if at.held is None:
                continue
            per_session = at.held.per_token_bytes * self.subject.need.context_tokens
            limit = min(at.held.sessions, self._settings.sessions_max, int(_free_bytes() / per_session))
            if limit < 1 or self._late(f"sessions within the targets at {at.bits} bits"):
                continue
            self._say(f"sessions at {at.bits} KV bits: searching up to {limit}")
            engine = self.subject.engine(at.bits, chats=limit)
            try:
                await engine.start(silent)
                at.sessions = await sessions_held(
                    engine, self._driver(at.bits), limit, self.results.targets, self._settings
                )
            except EngineError as error:
                self.results.notes.append(f"Sessions at {at.bits} bits: {str(error).splitlines()[0]}")
            finally:
                await engine.stop()

    async def _models(self) -> None:
        for at in self._usable:
            if at.held is None or at.held.model_bytes == 0:
                continue
            limit = min(at.held.models, self._settings.models_max, int(_free_bytes() / at.held.model_bytes))
            if limit < 1 or self._late(f"models within the targets at {at.bits} bits"):
                continue
            self._say(f"models at {at.bits} KV bits: searching up to {limit}")
            engines = [self.subject.engine(at.bits, name=f"{self.subject.name}-{n}") for n in range(limit)]
            try:
                found = await models_held(engines, self._driver(at.bits), self.results.targets, self._settings, silent)
            except EngineError as error:
                self.results.notes.append(f"Models at {at.bits} bits: {str(error).splitlines()[0]}")
                continue
            at.models, at.contention = found.capacity, found.contention


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _busy_s() -> float:
    """CPU seconds that the machine has spent on anything."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0))


def _own_s() -> float:
    """CPU seconds of this process and of the engines that it has ended."""
    return sum(os.times()[:4])


def _free_bytes() -> float:
    return float(psutil.virtual_memory().available) * HOST_PART
