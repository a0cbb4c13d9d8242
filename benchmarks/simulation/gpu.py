"""Devices and the engines on them, as far as scheduling can see them.

Decoding in turns: a step of any engine takes `friction x (sum over engines that decode (weights + KV read)) /
bandwidth`, and all of them step at that pace. `friction` is what the scheduler has to learn: its own formula has none.
Prompts are read one after another at `prefill_tokens_per_s`. An engine reads before it decodes, as SGLang does, so its
own chats pause meanwhile; the other engines keep their turns, and reading gets one part of n.

In space (`SharedGpu`) a step is as long alone, but engines take turns layer by layer: one is idle for `GAP_S`, works
for the rest of a layer's time, and waits before for one layer's work of each other engine that is not idle just then.
How long that is depends on how long theirs take, so the times are found by iteration; the scheduler's formula takes
one round for all. Prompts are read side by side and leave decoding `BESIDE_PROMPTS` of its speed.

KV grows by a token per chat and step; prefixes of past turns stay cached until their room is needed. Devices share
nothing but the clock.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from heapq import heappop, heappush

from services.contracts.chats import KvBits, Ticket
from services.contracts.devices import Sharing
from services.contracts.engines import EngineFacts, EngineReport, EngineState

GAP_S = 50e-6
LAYERS = 32  # of each model here
BESIDE_PROMPTS = 0.25
ROUNDS = 8  # after which the times change by less than 1%


@dataclass(slots=True)
class Job:
    """One chat in an engine."""

    ticket: Ticket
    kv_bits: KvBits
    completion_tokens: int
    admitted_s: float
    cached_tokens: int = 0
    prefill_left_s: float = 0.0
    reading_s: float = 0.0  # by the clock: others' turns included
    first_token_s: float = 0.0
    end_step: float = 0.0
    done_s: float = 0.0


class SimEngine:
    """One engine: what decodes, what is cached."""

    def __init__(self, facts: EngineFacts) -> None:
        self.facts = facts
        self.steps = 0.0
        self.kv_bytes = 0.0
        self.growth = 0  # bytes a step
        self.running: dict[str, Job] = {}  # decoding or being read
        self.decoding = 0
        self.ends: list[tuple[float, str]] = []
        self.cache: OrderedDict[str, tuple[int, int]] = OrderedDict()  # session -> (bytes, tokens)
        self.cached_bytes = 0
        self.high_water_bytes = 0.0
        self.decoding_s = 0.0  # since the last report, pauses for reading included
        self.reported_steps = 0.0
        self.read_prompts = 0  # since the last report
        self.read_tokens = 0  # of them
        self.reading_s = 0.0  # that they took

    def per_token(self, job: Job) -> int:
        return self.facts.kv_bytes_per_token[job.kv_bits]

    def evict(self) -> None:
        """Cached prefixes give way to running chats."""
        while self.cache and self.kv_bytes + self.cached_bytes > self.facts.kv_budget_bytes:
            _, (size, _) = self.cache.popitem(last=False)
            self.cached_bytes -= size


class Gpu:
    """All engines of one device, in turns. Time moves only in `advance`."""

    def __init__(
        self, engines: list[EngineFacts], bandwidth: float, prefill_tokens_per_s: float, friction: float = 1.0
    ) -> None:
        self.engines = {facts.model: SimEngine(facts) for facts in engines}
        self.now_s = 0.0
        self._bandwidth = bandwidth
        self._prefill_rate = prefill_tokens_per_s
        self._friction = friction
        self._prompts: deque[tuple[SimEngine, Job]] = deque()

    def _reading(self) -> list[tuple[SimEngine, Job]]:
        """The prompts that are read now."""
        return [self._prompts[0]] if self._prompts else []

    def _decoding(self) -> list[SimEngine]:
        """Engines whose chats get tokens now: not those that read a prompt."""
        readers = [engine for engine, _ in self._reading()]
        return [engine for engine in self.engines.values() if engine.decoding and engine not in readers]

    def _step_s(self, engine: SimEngine, decoding: list[SimEngine]) -> float:
        """Time of a step of an engine while these decode, with the device to themselves."""
        return self._friction * sum(e.facts.weight_bytes + e.kv_bytes for e in decoding) / self._bandwidth

    def start(self, ticket: Ticket, kv_bits: KvBits, completion_tokens: int) -> None:
        """A chat was let in."""
        engine = self.engines[ticket.model]
        job = Job(ticket, kv_bits, completion_tokens, self.now_s)
        size, tokens = engine.cache.pop(f"{ticket.tenant}/{ticket.session}", (0, 0))
        engine.cached_bytes -= size
        job.cached_tokens = min(tokens, ticket.prompt_tokens - 1)
        job.prefill_left_s = (ticket.prompt_tokens - job.cached_tokens) / self._prefill_rate
        engine.kv_bytes += ticket.prompt_tokens * engine.per_token(job)
        engine.running[ticket.chat] = job
        engine.evict()
        self._prompts.append((engine, job))

    def _parts(self, decoding: list[SimEngine]) -> tuple[float, float]:
        """(part of its speed that reading a prompt has, the same of decoding)."""
        reading = 1.0 / (1 + len(decoding)) if self._prompts else 0.0
        return reading, 1.0 - reading

    def next_event_s(self) -> float:
        """When the next prompt is read or chat done, at today's rates; inf: nothing runs."""
        decoding = self._decoding()
        reads, decodes = self._parts(decoding)
        best = float("inf")
        for _, job in self._reading():
            best = min(best, self.now_s + job.prefill_left_s / reads)
        for engine in decoding:
            step_s = self._step_s(engine, decoding)
            best = min(best, self.now_s + (engine.ends[0][0] - engine.steps) * step_s / decodes)
        return best

    def advance(self, to_s: float) -> list[Job]:
        """Move the clock, at most to the next event. Returns the chats that are done."""
        took_s = to_s - self.now_s
        decoding = self._decoding()
        reads, decodes = self._parts(decoding)
        steps_s = [self._step_s(engine, decoding) for engine in decoding]
        self.now_s = to_s
        for engine in self.engines.values():
            engine.decoding_s += took_s if engine.decoding else 0.0
        for engine, step_s in zip(decoding, steps_s, strict=True):
            steps = took_s * decodes / step_s
            engine.steps += steps
            engine.kv_bytes += steps * engine.growth
            engine.high_water_bytes = max(engine.high_water_bytes, engine.kv_bytes)
            engine.evict()
        for engine, job in self._reading():
            self._read(engine, job, took_s, took_s * reads)
        return [job for engine in decoding for job in self._done(engine)]

    def _read(self, engine: SimEngine, job: Job, took_s: float, work_s: float) -> None:
        job.prefill_left_s -= work_s
        job.reading_s += took_s
        if job.prefill_left_s > 1e-9:
            return
        self._prompts.remove((engine, job))
        engine.read_prompts += 1
        engine.read_tokens += job.ticket.prompt_tokens - job.cached_tokens
        engine.reading_s += job.reading_s
        engine.decoding += 1
        engine.growth += engine.per_token(job)
        job.first_token_s = self.now_s + self._step_s(engine, self._decoding())
        job.end_step = engine.steps + job.completion_tokens
        heappush(engine.ends, (job.end_step, job.ticket.chat))

    def _done(self, engine: SimEngine) -> list[Job]:
        done = []
        while engine.ends and engine.ends[0][0] <= engine.steps + 1e-6:
            job = engine.running.pop(heappop(engine.ends)[1])
            per_token = engine.per_token(job)
            tokens = job.ticket.prompt_tokens + job.completion_tokens
            engine.decoding -= 1
            engine.growth -= per_token
            engine.kv_bytes -= tokens * per_token
            engine.cache[f"{job.ticket.tenant}/{job.ticket.session}"] = (tokens * per_token, tokens)
            engine.cached_bytes += tokens * per_token
            engine.evict()
            job.done_s = self.now_s
            done.append(job)
        return done

    def demote(self, chat: str, model: str, bits: KvBits) -> bool:
        """Lower a running chat's KV. False: it is not there any more."""
        engine = self.engines[model]
        job = engine.running.get(chat)
        if job is None:
            return False
        before, decodes = engine.per_token(job), job.end_step > 0
        produced = max(0.0, job.completion_tokens - (job.end_step - engine.steps)) if decodes else 0.0
        job.kv_bits = bits
        change = engine.per_token(job) - before
        engine.kv_bytes += change * (job.ticket.prompt_tokens + produced)
        engine.growth += change if decodes else 0
        return True

    def report(self, model: str) -> EngineReport:
        """What the engine would say of itself now; inter-token time is the mean since its last report.

        Prompts are timed by the clock, as SGLang does: neighbours' turns make them look slow.
        """
        engine = self.engines[model]
        steps = engine.steps - engine.reported_steps
        inter_token_s = engine.decoding_s / steps if steps >= 1.0 else None
        tokens, prompts, seconds = engine.read_tokens, engine.read_prompts, engine.reading_s
        engine.decoding_s, engine.reported_steps = 0.0, engine.steps
        engine.read_tokens, engine.read_prompts, engine.reading_s = 0, 0, 0.0
        return EngineReport(
            model=model,
            at_s=self.now_s,
            state=EngineState.READY,
            kv_used_bytes=round(engine.kv_bytes),
            kv_cached_bytes=engine.cached_bytes,
            running=len(engine.running),
            inter_token_s=inter_token_s,
            prefill_tokens_per_s=tokens / seconds if tokens and seconds > 0 else None,
            prefill_tokens=tokens,
            prefill_prompts=prompts,
            step_kv_bytes=round(engine.kv_bytes),
        )


class SharedGpu(Gpu):
    """All engines of one device, in space."""

    def _reading(self) -> list[tuple[SimEngine, Job]]:
        first: dict[str, tuple[SimEngine, Job]] = {}
        for engine, job in self._prompts:
            first.setdefault(engine.facts.model, (engine, job))
        return list(first.values())

    def _step_s(self, engine: SimEngine, decoding: list[SimEngine]) -> float:
        layers_s = {e.facts.model: super(SharedGpu, self)._step_s(e, [e]) / LAYERS for e in (engine, *decoding)}
        works_s = {model: max(0.0, layer_s - GAP_S) for model, layer_s in layers_s.items()}
        for _ in range(ROUNDS):
            waits_s = {model: work_s * (1.0 - GAP_S / layers_s[model]) for model, work_s in works_s.items()}
            all_s = sum(waits_s.values())
            layers_s = {model: GAP_S + works_s[model] + all_s - waits_s[model] for model in works_s}
        return LAYERS * layers_s[engine.facts.model]

    def _parts(self, decoding: list[SimEngine]) -> tuple[float, float]:
        readers = len(self._reading())
        return (1.0 / readers, BESIDE_PROMPTS) if readers else (0.0, 1.0)


class Devices:
    """All devices of a host on one clock, with the same methods as one of them. Engines say how they share theirs."""

    def __init__(
        self, engines: list[EngineFacts], bandwidth: float, prefill_tokens_per_s: float, friction: float = 1.0
    ) -> None:
        on: dict[str, list[EngineFacts]] = {}
        for facts in engines:
            on.setdefault(facts.device, []).append(facts)
        kinds = {Sharing.TURNS: Gpu, Sharing.SPACE: SharedGpu}
        self._gpus = {
            name: kinds[those[0].sharing](those, bandwidth, prefill_tokens_per_s, friction)
            for name, those in on.items()
        }
        self._gpu_of = {facts.model: self._gpus[facts.device] for facts in engines}
        self.engines = {model: gpu.engines[model] for model, gpu in self._gpu_of.items()}
        self.now_s = 0.0

    def start(self, ticket: Ticket, kv_bits: KvBits, completion_tokens: int) -> None:
        self._gpu_of[ticket.model].start(ticket, kv_bits, completion_tokens)

    def next_event_s(self) -> float:
        return min(gpu.next_event_s() for gpu in self._gpus.values())

    def advance(self, to_s: float) -> list[Job]:
        self.now_s = to_s
        return [job for gpu in self._gpus.values() for job in gpu.advance(to_s)]

    def demote(self, chat: str, model: str, bits: KvBits) -> bool:
        return self._gpu_of[model].demote(chat, model, bits)

    def report(self, model: str) -> EngineReport:
        return self._gpu_of[model].report(model)
