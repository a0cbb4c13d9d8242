"""What decoding will cost: predicted latencies of all engines that share a device.

    alone_s        = (weight bytes + KV bytes of the model's chats) / bandwidth
    step_s         = sum of alone_s over the n engines with chats                  in turns
                     alone_s x slowdown                                            in space
    slowdown       = n                                                             in turns
                     max(1 + 0.57 x (n - 1), sum of 1 / correction)                in space
    inter_token_s  = correction(model) x step_s / (1 - prefill duty)
    first_token_s  = (prefill backlog + prompt tokens / prefill rate) x slowdown + inter_token_s

Decoding is bound by memory: each step reads all weights once and each chat's KV once. Of a mixture of experts it
reads those that some chat's token is routed to: each token leaves out 1 - used / count of them, so n chats leave out
that part to the power of n, as if experts were drawn anew for each. KV counts as large as a chat may grow, so that a
prediction stays good for as long as the chat runs. Prefill is bound by compute: its duty is the part of the last
`DUTY_S` seconds that admitted prompts take.

In turns, an engine waits for a step of every other one, so their bytes add up, and everybody's prompts slow every step.
In space (CUDA MPS), kernels run side by side: a step is no shorter than alone, and a busy neighbour makes it longer by
0.57 of that, whatever the neighbour's size, since it reads all the time. Nor is it shorter than the bytes of all allow:
alone an engine reads 1 / correction of the bandwidth, and together they read all of it at most. Prompts overlap with
the others' steps, so only a model's own pause its chats, and they take `slowdown` times as long.

How well it fits, in space: four stock servers of a 7B shape on an H200 had 3.29, 5.0 and 9.0 ms a token with 1, 2 and 4
busy, and the formula says 3.29, 5.17 and 8.92 (3% off at most). Other sizes side by side, and long prompts, were not
measured apart from one row: 19.5 ms, where it says 16.5 to 18 (docs/scheduling.md). In turns: 5% (docs/gpu.md).

The correction is observed over predicted inter-token time, from the engine's reports (means, pauses for prompts
included) and the KV bytes that those steps really read. It moves by a tenth at each report and stays below 4 on a GPU.
Below 1 it may be where prompts turned out cheaper than their duty, but no prediction is shorter than its bytes allow.
On a machine without a GPU, engines compute longer than they read, all the more with chats and neighbours; there the
correction says so, up to 64.

The prefill rate is what a prompt would run at alone. Engines time prompts by the clock, and with n engines at work a
prompt has a turn in n (on an H100 22,000 tokens a second alone, 10,000 and 5,000 beside one and three others): what is
reported is multiplied by the slowdown. It may hold other waits, too, which make prompts look dearer than they are,
never cheaper, so the rate rises faster than it falls. A prompt that came nearly whole from the cache says nothing of
it, since reading the last token costs a step whatever the rate: reports count by their tokens a prompt, `RATE_TOKENS`
in full. Until so many were seen, those of prompts below `PROMPT_TOKENS` in part, there is no rate; the report with most
a prompt makes the first.

Bandwidth is bytes per second, measured on the device. Fails open where nothing was measured: with no bandwidth, or
no target, nothing is refused here. A target that the model could not meet alone on an idle device is not weighed,
since waiting would not help (`unattainable` in the snapshot).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp

from scheduler.ledger import Ledger
from scheduler.settings import SchedulerSettings
from services.contracts.decisions import Reason
from services.contracts.devices import CPU, Sharing
from services.contracts.engines import EngineFacts, EngineReport, Learned

DUTY_S = 5.0
DUTY_MAX = 0.8
RATE_TOKENS = 512
PROMPT_TOKENS = 64
_SMOOTHING = 0.1
_RATE_UP, _RATE_DOWN = 0.2, 0.1  # parts of the way that the prefill rate goes at a faster and at a slower report
_CORRECTION_MAX = 4.0
_CORRECTION_MAX_CPU = 64.0
_NEIGHBOUR = 0.57  # of a step alone, that a busy neighbour adds to it in space
_REPORT_S_MAX = 2.0  # an engine's word on its pace is of the last second; older, it says nothing of now
_ROUNDING = 1.0 - 1e-9  # what arithmetic in another order may make of a bound


class PrefillDuty:
    """The part of the last `DUTY_S` seconds that admitted prompts take."""

    __slots__ = ("_at_s", "_part")

    def __init__(self) -> None:
        self._part = 0.0
        self._at_s = 0.0

    def now(self, now_s: float) -> float:
        return self._part * exp(-max(0.0, now_s - self._at_s) / DUTY_S) if self._part else 0.0

    def add(self, seconds: float, now_s: float) -> None:
        self._part = self.now(now_s) + seconds / DUTY_S
        self._at_s = now_s

    def undo(self, seconds: float) -> None:
        self._part = max(0.0, self._part - seconds / DUTY_S)


class EngineLoad:
    """One engine's part of the device."""

    __slots__ = (
        "chats",
        "correction",
        "duty",
        "first_token_s_max",
        "inter_token_s_max",
        "kv_bytes",
        "observed_at_s",
        "observed_s",
        "prefill_first",
        "prefill_tokens_per_s",
        "prefill_tokens_seen",
        "routed_bytes",
        "sharing",
        "step_kv_bytes",
        "unattainable",
        "unrouted_part",
        "weight_bytes",
    )

    def __init__(self) -> None:
        self.chats = 0
        self.kv_bytes = 0
        self.weight_bytes = 0
        self.routed_bytes = 0
        self.unrouted_part = 0.0  # of them that one token leaves unread
        self.correction = 1.0
        self.duty = PrefillDuty()
        self.sharing = Sharing.TURNS
        self.prefill_tokens_per_s: float | None = None
        self.prefill_tokens_seen = 0.0  # while there is no rate
        self.prefill_first = (0.0, 0.0)  # of the report with most tokens a prompt: (those, tokens a second)
        self.observed_s: float | None = None
        self.observed_at_s = 0.0
        self.step_kv_bytes = 0
        self.inter_token_s_max: float | None = None
        self.first_token_s_max: float | None = None
        self.unattainable = False

    def weights_read(self, chats: int) -> int:
        """Bytes of weights that a step of so many chats reads."""
        if not self.routed_bytes or not chats:
            return self.weight_bytes if chats else 0
        return self.weight_bytes - int(self.routed_bytes * self.unrouted_part**chats)

    def decoded(self, at_s: float) -> bool:
        """Whether it took steps in the second or so before `at_s`, by its own word."""
        return self.observed_s is not None and self.observed_at_s >= at_s - _REPORT_S_MAX


class StepTimeModel:
    """The memory bandwidth and prefill compute of one device, which its engines share."""

    def __init__(self, settings: SchedulerSettings, device: str) -> None:
        self.device = device
        self.sharing = Sharing.TURNS  # in space where every engine is: one that waits for its turn holds up all
        self.loads: dict[str, EngineLoad] = {}  # by model
        self._round_bytes = 0  # of engines with chats
        self._duty = PrefillDuty()
        self._correction_max = _CORRECTION_MAX_CPU if device == CPU else _CORRECTION_MAX
        self._prefill_until_s = 0.0
        self._harmless_s = 0.0  # a step this long, uncorrected, breaks nobody's target
        self._slowdown = 1.0  # of engines with chats
        self.configure(settings)

    def configure(self, settings: SchedulerSettings) -> None:
        self.settings = settings
        self._bandwidth = settings.bandwidth_bytes_per_s.get(self.device)
        for model in self.loads:
            self._set_targets(model)
        self._find_harmless()

    def started(self, facts: EngineFacts) -> None:
        load = self.loads.setdefault(facts.model, EngineLoad())
        self._round_bytes -= load.weights_read(load.chats)
        load.weight_bytes, load.sharing = facts.weight_bytes, facts.sharing
        load.routed_bytes, load.unrouted_part = facts.routed_bytes, 1.0 - facts.routed_part
        self._round_bytes += load.weights_read(load.chats)
        self._find_sharing()
        load.observed_s, load.step_kv_bytes, load.correction = None, 0, 1.0
        self._set_targets(facts.model)
        self._find_harmless()

    def _find_sharing(self) -> None:
        together = bool(self.loads) and all(load.sharing is Sharing.SPACE for load in self.loads.values())
        self.sharing = Sharing.SPACE if together else Sharing.TURNS

    def _set_targets(self, model: str) -> None:
        load, targets = self.loads[model], self.settings.target(model)
        most = targets.inter_token_ms_max
        load.inter_token_s_max = None if most is None else most / 1000.0
        load.first_token_s_max = targets.first_token_s_max
        alone = load.weights_read(1) / self._bandwidth if self._bandwidth else 0.0
        load.unattainable = load.inter_token_s_max is not None and alone > load.inter_token_s_max

    def _find_harmless(self) -> None:
        """Targets or corrections changed. Models without chats count here, which `breaks` looks at more closely."""
        self._find_slowdown()
        self._harmless_s = _ROUNDING * min(
            (
                load.inter_token_s_max / max(1.0, load.correction)
                for load in self.loads.values()
                if load.inter_token_s_max is not None and not load.unattainable
            ),
            default=float("inf"),
        )

    def add(self, model: str, kv_bytes: int) -> None:
        """A chat that may grow to `kv_bytes` runs now."""
        load = self.loads[model]
        self._count(load, load.chats + 1)
        load.kv_bytes += kv_bytes
        self._round_bytes += kv_bytes

    def remove(self, model: str, kv_bytes: int) -> None:
        load = self.loads[model]
        self._count(load, load.chats - 1)
        load.kv_bytes -= kv_bytes
        self._round_bytes -= kv_bytes

    def _count(self, load: EngineLoad, chats: int) -> None:
        turns = not chats or not load.chats
        if turns or load.routed_bytes:
            self._round_bytes += load.weights_read(chats) - load.weights_read(load.chats)
        load.chats = chats
        if turns:
            self._find_slowdown()

    def grow(self, model: str, more_bytes: int) -> None:
        """A running chat may now grow to `more_bytes` more, or less."""
        self.loads[model].kv_bytes += more_bytes
        self._round_bytes += more_bytes

    def leave(self, model: str) -> None:
        """The engine goes to another device, with its chats."""
        load = self.loads.pop(model)
        self._round_bytes -= load.kv_bytes + load.weights_read(load.chats)
        self._find_sharing()
        self._find_harmless()

    def clear(self) -> None:
        """Forget all chats, keep what was learned."""
        for load in self.loads.values():
            load.chats = load.kv_bytes = 0
        self._round_bytes = 0
        self._find_slowdown()

    def prefill_s(self, model: str, tokens: int) -> float:
        """Seconds that `tokens` of prompt take the device alone; 0 while no rate was measured."""
        load = self.loads.get(model)
        rate = load.prefill_tokens_per_s if load else None
        return tokens / rate if rate else 0.0

    def prefill_backlog_s(self, now_s: float) -> float:
        """Prompt work that was admitted and is not done yet, as the device alone would read it."""
        left_s = self._prefill_until_s - now_s
        return left_s if left_s > 0.0 else 0.0

    def _slowdown_of(self, busy: Sequence[EngineLoad]) -> float:
        """How much longer than alone an engine takes for its work, where these are busy."""
        if self.sharing is Sharing.TURNS:
            return float(len(busy))
        return max(1.0 + _NEIGHBOUR * (len(busy) - 1), sum(1.0 / max(1.0, load.correction) for load in busy))

    def _find_slowdown(self) -> None:
        self._slowdown = self._slowdown_of([load for load in self.loads.values() if load.chats])

    def _slowdown_with(self, mine: EngineLoad) -> float:
        """The same, once an engine has a chat."""
        if mine.chats:
            return self._slowdown
        return self._slowdown_of([load for load in self.loads.values() if load.chats or load is mine])

    def prefill(self, model: str, seconds: float, now_s: float) -> None:
        """So much prompt work of a model was admitted."""
        self._prefill_until_s = max(now_s, self._prefill_until_s) + seconds
        self._duty.add(seconds, now_s)
        self.loads[model].duty.add(seconds, now_s)

    def prefill_undone(self, model: str, seconds: float) -> None:
        """Prompt work that was admitted will not come."""
        self._prefill_until_s -= seconds
        self._duty.undo(seconds)
        self.loads[model].duty.undo(seconds)

    def steps_s(self, now_s: float, more_bytes: int = 0, prefill_s: float = 0.0) -> tuple[float, float]:
        """In turns, a step's time before correction, with `more_bytes` read and `prefill_s` of prompt work added: with
        pauses for prompts, and without."""
        if not self._bandwidth:
            return 0.0, 0.0
        duty = min(DUTY_MAX, self._duty.now(now_s) + prefill_s / DUTY_S)
        least_s = (self._round_bytes + more_bytes) / self._bandwidth
        return least_s / (1.0 - duty), least_s

    def _steps_in_space_s(
        self, load: EngineLoad, slowdown: float, now_s: float, more_bytes: int = 0, prefill_s: float = 0.0
    ) -> tuple[float, float]:
        """The same in space, of one engine, with one more chat where that reads `more_bytes`; the second is its time
        alone. There must be a bandwidth."""
        duty = min(DUTY_MAX, (load.duty.now(now_s) + prefill_s / DUTY_S) * slowdown)
        weights = load.weights_read(load.chats + (more_bytes > 0))
        alone_s = (weights + load.kv_bytes + more_bytes) / (self._bandwidth or 1.0)
        return alone_s * slowdown / (1.0 - duty), alone_s

    def breaks(
        self, model: str, kv_bytes: int, prefill_s: float, now_s: float, margin: float = 0.0
    ) -> tuple[Reason, str, float, float] | None:
        """Which target the admission of a chat would break: (reason, model, predicted s, most s), or None.

        `margin` is the part of each target that is kept free.
        """
        if not self._bandwidth:
            return None
        mine, keep = self.loads[model], 1.0 - margin
        weigh = self._weigh_turns if self.sharing is Sharing.TURNS else self._weigh_space
        broken, own_s = weigh(mine, kv_bytes, prefill_s, now_s, keep)
        if broken is not None:
            return (Reason.BANDWIDTH, *broken)
        most = mine.first_token_s_max
        if most is not None:
            backlog_s = self.prefill_backlog_s(now_s)
            if backlog_s > 0:
                first_s = self._slowdown_with(mine) * (backlog_s + prefill_s) + own_s
                if first_s > most * keep:
                    return Reason.FIRST_TOKEN, model, first_s, most * keep
        return None

    def _weigh_turns(
        self, mine: EngineLoad, kv_bytes: int, prefill_s: float, now_s: float, keep: float
    ) -> tuple[tuple[str, float, float] | None, float]:
        """The target that one more chat would break, as (model, predicted s, most s), and the chat's own step time."""
        more_weights = mine.weights_read(mine.chats + 1) - mine.weights_read(mine.chats)
        step_s, least_s = self.steps_s(now_s, kv_bytes + more_weights, prefill_s)
        if step_s > self._harmless_s * keep:
            for name, load in self.loads.items():
                most = load.inter_token_s_max
                if most is None or load.unattainable or not (load.chats or load is mine):
                    continue
                predicted_s = max(least_s, step_s * load.correction)
                if predicted_s > most * keep:
                    return (name, predicted_s, most * keep), predicted_s
        return None, max(least_s, step_s * mine.correction)

    def _weigh_space(
        self, mine: EngineLoad, kv_bytes: int, prefill_s: float, now_s: float, keep: float
    ) -> tuple[tuple[str, float, float] | None, float]:
        """The same in space. A chat slows its own model; one that is its model's first slows the others, too."""
        slowdown, own_s = self._slowdown_with(mine), 0.0
        for name, load in self.loads.items():
            if load is mine:
                step_s, alone_s = self._steps_in_space_s(load, slowdown, now_s, kv_bytes, prefill_s)
                predicted_s = own_s = max(alone_s, step_s * load.correction)
            elif load.chats and not mine.chats:
                step_s, alone_s = self._steps_in_space_s(load, slowdown, now_s)
                predicted_s = max(alone_s, step_s * load.correction)
            else:
                continue
            most = load.inter_token_s_max
            if most is not None and not load.unattainable and predicted_s > most * keep:
                return (name, predicted_s, most * keep), predicted_s
        return None, own_s

    def predicted_s(self, model: str, now_s: float) -> float | None:
        """Inter-token time as predicted for now; None with no bandwidth measured or no chat."""
        load = self.loads.get(model)
        if load is None or not load.chats or not self._bandwidth:
            return None
        if self.sharing is Sharing.TURNS:
            step_s, least_s = self.steps_s(now_s)
        else:
            step_s, least_s = self._steps_in_space_s(load, self._slowdown, now_s)
        return max(least_s, step_s * load.correction)

    def check_integrity(self, ledger: Ledger) -> None:
        """Raise AssertionError where the bytes read differ from the ledger's."""
        chats: dict[str, int] = {}
        sizes: dict[str, int] = {}
        for model in self.loads:
            held = ledger.accounts[model].reservations.values()
            chats[model], sizes[model] = len(held), sum(one.reserved_bytes for one in held)
        round_bytes = sum(sizes.values())
        for model, load in self.loads.items():
            round_bytes += load.weights_read(load.chats)
            if (load.chats, load.kv_bytes) != (chats[model], sizes[model]):
                raise AssertionError(f"{model}: bandwidth counts {load.chats} chats, {load.kv_bytes} bytes")
        if round_bytes != self._round_bytes:
            raise AssertionError(f"bytes a round: {self._round_bytes} is not {round_bytes}")

    def recall(self, learned: Learned) -> None:
        """Know of an engine that is up what another scheduler knew of it."""
        load = self.loads[learned.model]
        load.correction, load.prefill_tokens_per_s = learned.correction, learned.prefill_tokens_per_s
        self._find_harmless()

    def _prefilled(self, load: EngineLoad, reported: float, report: EngineReport) -> None:
        # Whoever decoded in the last second slowed these prompts; a chat that just began did not yet.
        rate = reported * self._slowdown_of(self._decoded_with(load, report.at_s))
        tokens = max(0, report.prefill_tokens) or RATE_TOKENS
        a_prompt = tokens / max(1, report.prefill_prompts)
        before = load.prefill_tokens_per_s
        if before is None:
            load.prefill_tokens_seen += tokens * min(1.0, a_prompt / PROMPT_TOKENS)
            load.prefill_first = max(load.prefill_first, (a_prompt, rate))
            if load.prefill_tokens_seen >= RATE_TOKENS:
                load.prefill_tokens_per_s = load.prefill_first[1]
        else:
            part = (_RATE_UP if rate > before else _RATE_DOWN) * min(1.0, a_prompt / RATE_TOKENS) ** 2
            load.prefill_tokens_per_s = before + part * (rate - before)

    def reported(self, report: EngineReport) -> None:
        """Learn from an engine's observed latencies."""
        load = self.loads.get(report.model)
        if load is None:
            return
        if report.prefill_tokens_per_s:
            self._prefilled(load, report.prefill_tokens_per_s, report)
        load.observed_s, load.observed_at_s = report.inter_token_s, report.at_s
        load.step_kv_bytes = report.step_kv_bytes
        if not self._bandwidth or not report.inter_token_s:
            return
        decoded = self._decoded_with(load, report.at_s)
        if self.sharing is Sharing.TURNS:
            read: float = sum(other.weights_read(max(1, other.chats)) + other.step_kv_bytes for other in decoded)
            duty = self._duty.now(report.at_s)
        else:  # as if it had the device alone and read so much more
            slowdown = self._slowdown_of(decoded)
            read = (load.weights_read(max(1, load.chats)) + load.step_kv_bytes) * slowdown
            duty = load.duty.now(report.at_s) * slowdown
        if read:
            seen = max(1.0, report.inter_token_s * self._bandwidth / read) * (1.0 - min(DUTY_MAX, duty))
            load.correction += _SMOOTHING * (min(self._correction_max, seen) - load.correction)
            self._find_harmless()

    def _decoded_with(self, load: EngineLoad, at_s: float) -> list[EngineLoad]:
        """The engine, and those that took steps in the second or so before `at_s`."""
        return [other for other in self.loads.values() if other is load or other.decoded(at_s)]
