"""What decoding will cost: predicted latencies of all engines that share a device.

    read_s         = (weight bytes + KV bytes of the model's chats) / bandwidth
    step_s         = correction x sum of read_s over the n engines with chats                            in turns
                     layers x (gap_s + work_s + (1 - gap_s / round_s) x others' work_s)                  in space
    work_s         = correction x read_s / layers, of one layer         round_s = gap_s + sum of all work_s
    inter_token_s  = step_s / (1 - prefill duty)
    first_token_s  = (prefill backlog + prompt tokens / prefill rate) x slowdown + inter_token_s
    slowdown       = n in turns; in space, step_s over the same with no others

Decoding is bound by memory: each step reads all weights once and each chat's KV once. Of a mixture of experts it
reads those that some chat's token is routed to: each token leaves out 1 - used / count of them, so n chats leave out
that part to the power of n, as if experts were drawn anew for each. KV counts as large as a chat may grow, so that a
prediction stays good for as long as the chat runs. Prefill is bound by compute: its duty is the part of the last
`DUTY_S` seconds that admitted prompts take.

In turns, an engine waits for a step of every other one, so their bytes add up, and everybody's prompts slow every step.
In space (CUDA MPS), engines take turns kernel by kernel. Of each layer an engine leaves the GPU idle for `gap_s` (48 us
on an H200: launches, small kernels, ends of large ones), in which others work. So it waits, in each of its layers, for
one layer's work of each neighbour, unless it meets the neighbour's gap: a model of small layers is slowed by one of
large layers more than it slows that one. `work_s` holds all reads, so together they read no more than the bandwidth.
Of a neighbour's prompts, 0.75 pause one's chats; one's own all do.

How well it fits, in space: shapes of 3B, 7B and 32B on an H200, one to four busy, KV planes at 4 and at 8 bits, with
corrections taken from each model alone: 6% off in the mean, 13% at most, 28 rows (docs/scheduling.md). In turns: 5%.

The correction is observed over predicted inter-token time, from the engine's reports (means, pauses for prompts
included) and the KV bytes that those steps really read. In turns it moves by a tenth of the way at each report. In
space a report is an equation in the corrections of all busy engines, so each has a variance (`doubt`) and takes its
share of the error by that and by its part of the step: a Kalman filter without covariances. What was learned alone is
certain, and an engine that is known well is not blamed for a newcomer. A correction stays below 8 on a GPU. Below 1 it
may be where prompts turned out cheaper than their duty, but no prediction is shorter than its bytes allow. On a machine
without a GPU, engines compute longer than they read, all the more with chats and neighbours; there it goes up to 64.

The prefill rate is what a prompt would run at alone. Engines time prompts by the clock, and with n engines at work a
prompt has a turn in n (on an H100 22,000 tokens a second alone, 10,000 and 5,000 beside one and three others): what is
reported is multiplied by the slowdown. It may hold other waits, too, which make prompts look dearer than they are,
never cheaper, so the rate rises faster than it falls. A prompt that came nearly whole from the cache says nothing of
it, since reading the last token costs a step whatever the rate: reports count by their tokens a prompt, `RATE_TOKENS`
in full, and short ones that look slow even less, since a first prompt may have waited for kernels to compile. Until so
many were seen, those of prompts below `PROMPT_TOKENS` in part, there is no rate; the report with most a prompt makes
the first.

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
_CORRECTION_IN_SPACE = 1.6  # before any report: of a 7B and a 32B shape with weights of 4 bits
_DOUBT, _DOUBT_RECALLED = 0.03, 0.01  # variance of a correction at first, as a part of it; of another scheduler's
_DOUBT_MORE = 3e-4  # that each report adds, since loads change
_NOISE = 2.5e-3  # variance of a report
_NOISE_BESIDE = 0.06  # times the part of the step that neighbours take, since the form is not exact
_OFF_MAX = 0.25  # of a prediction: more says that something else happened
_CORRECTION_MIN, _CORRECTION_MAX = 0.25, 8.0
_CORRECTION_MAX_CPU = 64.0
_GAP_S = 48e-6  # of each layer, in which an engine leaves the GPU to others
_LAYERS = 32  # where an engine does not say
_OTHERS_PROMPTS = 0.75  # of the time of neighbours' prompts, that pauses one's chats in space
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
        "doubt",
        "duty",
        "first_token_s_max",
        "inter_token_s_max",
        "kv_bytes",
        "layers",
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
        "work_s",
    )

    def __init__(self) -> None:
        self.chats = 0
        self.kv_bytes = 0
        self.weight_bytes = 0
        self.routed_bytes = 0
        self.unrouted_part = 0.0  # of them that one token leaves unread
        self.correction = 1.0
        self.doubt = _DOUBT  # in space
        self.duty = PrefillDuty()
        self.sharing = Sharing.TURNS
        self.layers = _LAYERS
        self.work_s = 0.0  # in space, of one layer while it has chats
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
        self._all_s = 0.0  # in space, one layer's work of all engines with chats
        self._harmless_layer_s = 0.0  # a layer this long breaks no target of engines with chats
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
        load.weight_bytes, load.sharing, load.layers = facts.weight_bytes, facts.sharing, facts.layers or _LAYERS
        load.routed_bytes, load.unrouted_part = facts.routed_bytes, 1.0 - facts.routed_part
        self._round_bytes += load.weights_read(load.chats)
        self._find_sharing()
        load.observed_s, load.step_kv_bytes, load.doubt = None, 0, _DOUBT
        load.correction = _CORRECTION_IN_SPACE if facts.sharing is Sharing.SPACE else 1.0
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
        if self.sharing is Sharing.SPACE:
            self._find_round()
            return
        self._harmless_s = _ROUNDING * min(
            (
                load.inter_token_s_max / max(1.0, load.correction)
                for load in self.loads.values()
                if load.inter_token_s_max is not None and not load.unattainable
            ),
            default=float("inf"),
        )

    def _find_round(self) -> None:
        """Work, and targets of engines with chats, in space."""
        busy = self._busy()
        for load in self.loads.values():
            load.work_s = self._work_s(load) if load.chats else 0.0
        self._all_s = sum(load.work_s for load in busy)
        self._harmless_layer_s = _ROUNDING * min(
            (
                load.inter_token_s_max / load.layers
                for load in busy
                if load.inter_token_s_max is not None and not load.unattainable
            ),
            default=float("inf"),
        )

    def add(self, model: str, kv_bytes: int) -> None:
        """A chat that may grow to `kv_bytes` runs now."""
        load = self.loads[model]
        self._count(load, load.chats + 1, kv_bytes)

    def remove(self, model: str, kv_bytes: int) -> None:
        load = self.loads[model]
        self._count(load, load.chats - 1, -kv_bytes)

    def _count(self, load: EngineLoad, chats: int, more_bytes: int) -> None:
        turns = not chats or not load.chats
        if turns or load.routed_bytes:
            self._round_bytes += load.weights_read(chats) - load.weights_read(load.chats)
        load.chats = chats
        load.kv_bytes += more_bytes
        self._round_bytes += more_bytes
        if self.sharing is Sharing.SPACE:
            if turns:
                self._find_round()
            else:
                self._renew(load)

    def _renew(self, load: EngineLoad) -> None:
        """An engine with chats reads more, or less."""
        before, load.work_s = load.work_s, self._work_s(load)
        self._all_s += load.work_s - before

    def grow(self, model: str, more_bytes: int) -> None:
        """A running chat may now grow to `more_bytes` more, or less."""
        load = self.loads[model]
        load.kv_bytes += more_bytes
        self._round_bytes += more_bytes
        if load.chats and self.sharing is Sharing.SPACE:
            self._renew(load)

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
        self._find_harmless()

    def prefill_s(self, model: str, tokens: int) -> float:
        """Seconds that `tokens` of prompt take the device alone; 0 while no rate was measured."""
        load = self.loads.get(model)
        rate = load.prefill_tokens_per_s if load else None
        return tokens / rate if rate else 0.0

    def prefill_backlog_s(self, now_s: float) -> float:
        """Prompt work that was admitted and is not done yet, as the device alone would read it."""
        left_s = self._prefill_until_s - now_s
        return left_s if left_s > 0.0 else 0.0

    def _busy(self, mine: EngineLoad | None = None) -> list[EngineLoad]:
        """Engines with chats, and this one."""
        return [load for load in self.loads.values() if load.chats or load is mine]

    def _slowdown(self, load: EngineLoad, busy: Sequence[EngineLoad]) -> float:
        """How much longer than alone an engine takes for its work, where these are busy."""
        if self.sharing is Sharing.TURNS or not self._bandwidth:
            return float(len(busy))
        own_s = self._work_s(load)
        return _layer_s(own_s, sum(self._work_s(other) for other in busy)) / _layer_s(own_s, own_s)

    def _work_s(self, load: EngineLoad, more_chats: int = 0, more_bytes: int = 0) -> float:
        """One layer's work of an engine, with so many more chats that read so much more."""
        return load.correction * self._read_s(load, more_chats, more_bytes) / load.layers

    def _read_s(self, load: EngineLoad, more_chats: int = 0, more_bytes: int = 0) -> float:
        weights = load.weights_read(max(1, load.chats + more_chats))
        return (weights + load.kv_bytes + more_bytes) / (self._bandwidth or 1.0)

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
                first_s = self._slowdown(mine, self._busy(mine)) * (backlog_s + prefill_s) + own_s
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
        """The same in space."""
        mine_s = self._work_s(mine, 1, kv_bytes)
        all_s = self._all_s - mine.work_s + mine_s
        least_s = self._read_s(mine, 1, kv_bytes)
        own_s = max(least_s, self._token_in_space_s(mine, mine_s, all_s, now_s, prefill_s))
        most = mine.inter_token_s_max
        if most is not None and not mine.unattainable and own_s > most * keep:
            name = next(name for name, load in self.loads.items() if load is mine)
            return (name, own_s, most * keep), own_s
        # No model's prompts take a larger part than all do, and no layer is longer than everybody's work and a gap.
        runs = 1.0 - min(DUTY_MAX, self._duty.now(now_s) + prefill_s / DUTY_S)
        if _GAP_S + all_s <= self._harmless_layer_s * keep * runs:
            return None, own_s
        for name, load in self.loads.items():
            most = load.inter_token_s_max
            if most is None or load.unattainable or not load.chats or load is mine:
                continue
            if load.layers * _layer_s(load.work_s, all_s) > most * keep * runs:
                other_s = self._token_in_space_s(load, load.work_s, all_s, now_s, _OTHERS_PROMPTS * prefill_s)
                if other_s > most * keep:
                    return (name, other_s, most * keep), own_s
        return None, own_s

    def _token_in_space_s(
        self, load: EngineLoad, own_s: float, all_s: float, now_s: float, prefill_s: float = 0.0
    ) -> float:
        """Inter-token time of an engine, `own_s` of whose work is in a layer of all busy engines' `all_s`."""
        own_duty = load.duty.now(now_s)
        duty = own_duty + _OTHERS_PROMPTS * (self._duty.now(now_s) - own_duty) + prefill_s / DUTY_S
        return load.layers * _layer_s(own_s, all_s) / (1.0 - min(DUTY_MAX, duty))

    def predicted_s(self, model: str, now_s: float) -> float | None:
        """Inter-token time as predicted for now; None with no bandwidth measured or no chat."""
        load = self.loads.get(model)
        if load is None or not load.chats or not self._bandwidth:
            return None
        if self.sharing is Sharing.SPACE:
            return max(self._read_s(load), self._token_in_space_s(load, load.work_s, self._all_s, now_s))
        step_s, least_s = self.steps_s(now_s)
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
        all_s = sum(self._work_s(load) for load in self._busy())
        if self.sharing is Sharing.SPACE and abs(self._all_s - all_s) > 1e-6 * all_s:
            raise AssertionError(f"work a layer: {self._all_s} is not {all_s}")

    def recall(self, learned: Learned) -> None:
        """Know of an engine that is up what another scheduler knew of it."""
        load = self.loads[learned.model]
        load.correction, load.prefill_tokens_per_s = learned.correction, learned.prefill_tokens_per_s
        load.doubt = _DOUBT_RECALLED
        self._find_harmless()

    def _prefilled(self, load: EngineLoad, reported: float, report: EngineReport) -> None:
        # Whoever decoded in the last second slowed these prompts; a chat that just began did not yet.
        rate = reported * self._slowdown(load, self._decoded_with(load, report.at_s))
        tokens = max(0, report.prefill_tokens) or RATE_TOKENS
        a_prompt = tokens / max(1, report.prefill_prompts)
        before = load.prefill_tokens_per_s
        if before is None:
            load.prefill_tokens_seen += tokens * min(1.0, a_prompt / PROMPT_TOKENS)
            load.prefill_first = max(load.prefill_first, (a_prompt, rate))
            if load.prefill_tokens_seen >= RATE_TOKENS:
                load.prefill_tokens_per_s = load.prefill_first[1]
        else:
            weight = min(1.0, a_prompt / RATE_TOKENS)
            part = _RATE_UP * weight if rate > before else _RATE_DOWN * weight**2
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
            if read:
                seen = max(1.0, report.inter_token_s * self._bandwidth / read) * (1.0 - min(DUTY_MAX, duty))
                load.correction += _SMOOTHING * (min(self._correction_max, seen) - load.correction)
                self._find_harmless()
        else:
            self._correct_in_space(load, decoded, report)

    def _correct_in_space(self, load: EngineLoad, decoded: Sequence[EngineLoad], report: EngineReport) -> None:
        works_s = [self._work_s(other, 0, other.step_kv_bytes - other.kv_bytes) for other in decoded]
        own_s, all_s = works_s[decoded.index(load)], sum(works_s)
        predicted_s = self._token_in_space_s(load, own_s, all_s, report.at_s)
        off = (report.inter_token_s or predicted_s) / predicted_s - 1.0
        off = min(_OFF_MAX, max(-_OFF_MAX, off))
        layer_s = _layer_s(own_s, all_s)
        parts = [work_s / layer_s for work_s in works_s]
        beside = 1.0 - _layer_s(own_s, own_s) / layer_s
        spread = (
            _NOISE
            + _NOISE_BESIDE * beside
            + sum(part * part * other.doubt for part, other in zip(parts, decoded, strict=True))
        )
        for part, other in zip(parts, decoded, strict=True):
            gain = other.doubt * part / spread
            corrected = other.correction * (1.0 + gain * off)
            other.correction = min(self._correction_max, max(_CORRECTION_MIN, corrected))
            other.doubt *= 1.0 - gain * part
        load.doubt = min(_DOUBT, load.doubt + _DOUBT_MORE)
        self._find_round()

    def _decoded_with(self, load: EngineLoad, at_s: float) -> list[EngineLoad]:
        """The engine, and those that took steps in the second or so before `at_s`."""
        return [other for other in self.loads.values() if other is load or other.decoded(at_s)]


def _layer_s(own_s: float, all_s: float) -> float:
    """Time of one layer in space, of `own_s` of work where all busy engines' come to `all_s`."""
    return _GAP_S + own_s + all_s / (_GAP_S + all_s) * (all_s - own_s)
