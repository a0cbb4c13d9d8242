"""The claims A1 to A15 of the article, each beside the figure measured here, and every figure's method.

The article is an account of 4-bit KV caches with QwQ-32B (4-bit weights) in LM Studio on one 24 GB GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.evidence.charts import duration, size
from services.evidence.statistics import share_interval

from .memory import qwq_kv_bytes, qwq_tokens_for_saving
from .results import MeasuredAtBits, Results, Share

# Four bits against sixteen: what this project sets out to reach. The article's figures: 2, none, 1.5 and 0.8.
TARGETS = {"models": 2.0, "sessions": 3.0, "context": 3.0, "speed": 1.0}
GB = 1e9
BUSY = 0.15  # share of the cores that other work may take before speed says nothing
FLOOR = 0.1  # an accuracy that may be below it has no way to fall
DASH = "not measured"
NO_FIGURE = "no figure"

METHODS = {
    "memory": "Arithmetic over sizes that the running engine reported: weights, overhead (resident memory less weights "
    "and KV pool, just after the start) and KV bytes a token, scales included. A model counts with its configuration's "
    "sessions and context. Two models count their weights twice, even where they map the same file.",
    "context": "(card less reserve, weights and overhead) divided by KV bytes a token: what memory allows one chat to "
    "hold, whatever length the model was trained for.",
    "targets": "Bisection over real load: support questions from the corpus, each user asking again at once, a few "
    "seconds a trial, a failure tried twice. A number holds when 95 of 100 chats met both targets. KV memory is "
    "allocated for full contexts, but these chats are short: the figure is about compute.",
    "speed": "Tokens over the time from a request to its last token, after a long prompt that is in the cache, greedy; "
    "the fastest of several short bursts that go round all precisions, so that other work on the machine falls on all "
    "alike. Each precision has an engine of its own; the others rest meanwhile. First token: with the prefill, once.",
    "predictions": "Next-token distributions on the corpus' dialogues, one token a call against the quantized cache "
    "(not one pass over the text). The divergence is from 16 bits, over the likeliest 1,000 tokens and the rest as one "
    "bucket, so the true divergence is at least this large.",
    "questions": "Questions of the corpus with checkable answers, greedy, the same ones at every precision; 95% "
    "intervals after Wilson. A model that thinks does so first, up to a limit. Its thoughts are kept apart: only what "
    "it says after them is checked and compared. `Same answer` compares the texts word for word with those at 16 bits.",
    "style": "One minus the cosine of character trigram profiles over answers to creative requests and complaints, "
    "temperature 0.7. The yardstick is the largest distance among three samples at 16 bits. No people rated it.",
    "contention": "Lower quartile of chats' mean time between tokens with two models at 16 bits, one chat each, "
    "over that with one.",
    "change": "Longest time that the engine took to change its KV bits in this run.",
    "article": "The article (4-bit KV caches with QwQ-32B in LM Studio, 24 GB) is checked by arithmetic: "
    "QwQ-32B has 64 layers and 8 KV heads of dimension 128, so a token takes {per_token:.0f} kB at 16 bits. Saving "
    "{saved} GB at 4 bits (q4_0, 4.5 bits with scales) means a cache of about {tokens:,.0f} tokens.",
}


# ArticleClaim and figure, in the words of the article's summary.
ARTICLE = {
    "A1": ("KV in FP16 is a large share of memory even with 4-bit weights", "30% and more"),
    "A2": ("KV at 4 bits brought the whole model into", "19 GB of 24 GB"),
    "A3": ("memory saved by 4-bit KV; by 8-bit KV", "1.5 GB; 1.2 GB"),
    "A4": ("longest context at the same memory", "2,048 -> 3,072 tokens (1.5x)"),
    "A5": ("maths accuracy, FP16 KV vs 4-bit KV", "92.3% vs 91.1%"),
    "A6": ("logic: loss of accuracy; poetry: raters saw", "0.5%; no change of style"),
    "A7": ("decode speed with 4-bit KV", "0.8x of FP16"),
    "A8": ("8-bit KV avoids the slowdown and keeps most of the saving; accuracy loss", "under 1%"),
    "A9": ("two times as many models run side by side on one GPU", "2x"),
    "A10": ("several models at once contend for memory bandwidth", NO_FIGURE),
    "A11": ("precision should follow the task: maths and logic 8 bits, poems and complaints 4", NO_FIGURE),
    "A12": ("precision should follow the trade: medicine 8 bits, factory checks 4", NO_FIGURE),
    "A13": ("context length and KV precision must be set together", NO_FIGURE),
    "A14": ("wished for: KV precision that adjusts dynamically, task by task", NO_FIGURE),
    "A15": ("alternatives: 5-bit weights, 8-bit KV, faster memory, pruning", NO_FIGURE),
}


@dataclass(frozen=True, slots=True)
class ArticleClaim:
    """One row. `methods` are keys of METHODS."""

    number: str
    words: str
    article: str
    ours: str
    verdict: str
    methods: tuple[str, ...]


def _claim(number: str, ours: str, verdict: str, *methods: str) -> ArticleClaim:
    words, figure = ARTICLE[number]
    return ArticleClaim(number, words, figure, ours, verdict, methods)


def method_text(key: str) -> str:
    """A footnote, with its numbers filled in."""
    if key != "article":
        return METHODS[key]
    tokens = qwq_tokens_for_saving(1.5 * GB, 18 / 32)
    return METHODS[key].format(per_token=qwq_kv_bytes(1, 2) / 1000, saved=1.5, tokens=tokens)


def lede(results: Results) -> str:
    """The first paragraph: the four ratios, and first of all what was missed."""
    words = {
        "models": "models on one card",
        "sessions": "sessions of one model",
        "context": "longest context",
        "speed": "decoding speed",
    }
    found = {name: results.ratio(name) for name in TARGETS}
    if results.foreign_cpu_share > BUSY:
        found["speed"] = None
    missed = [n for n, r in found.items() if r is not None and r < TARGETS[n]]
    reached = [n for n, r in found.items() if r is not None and r >= TARGETS[n]]
    unknown = [n for n, r in found.items() if r is None]

    def said(names: list[str]) -> str:
        return "; ".join(f"{words[n]} {found[n]:.2f}x (target {TARGETS[n]:.1f}x)" for n in names)

    parts = []
    if missed:
        parts.append(f"Missed, 4 bits against 16: {said(missed)}.")
    if reached:
        parts.append(f"Reached, 4 bits against 16: {said(reached)}.")
    if results.foreign_cpu_share > BUSY:
        parts.append(
            f"Other work took {results.foreign_cpu_share:.0%} of this machine's cores meanwhile: speed, first tokens "
            "and what holds the latency targets are those of a busy machine, and no verdict is given on speed."
        )
    elif unknown:
        parts.append(f"Not measured: {', '.join(words[n] for n in unknown)}.")
    held = [(name, results.ratio(f"{name}_at_targets")) for name in ("models", "sessions")]
    under_load = [f"{words[n]} {r:.2f}x" for n, r in held if r is not None]
    if under_load:
        parts.append(
            f"Models and sessions above are what memory holds; within the latency targets: {', '.join(under_load)}."
        )
    return " ".join(parts)


def claims(results: Results) -> list[ArticleClaim]:
    """All fifteen rows."""
    at = {bits: results.at.get(bits, MeasuredAtBits(bits, "not run")) for bits in (16, 8, 4)}
    return [*_memory_claims(results, at), *_quality_claims(results, at), *_host_claims(results, at)]


def _memory_claims(results: Results, at: dict[int, MeasuredAtBits]) -> list[ArticleClaim]:
    h16, h8, h4 = (at[b].held for b in (16, 8, 4))
    share = saved = fits = context = DASH
    verdicts = ["", "", ""]
    if h16:
        share = f"{h16.kv_share:.0%} of one model's memory at 16 bits"
        verdicts[0] = "holds" if h16.kv_share >= 0.3 else "does not hold for this model and context"
    if h4:
        fits = f"{size(h4.model_bytes)} of {size(results.card_bytes)} at 4 bits"
    if h16 and h4 and h8:
        four, eight = h16.kv_bytes - h4.kv_bytes, h16.kv_bytes - h8.kv_bytes
        saved = f"{size(four)}; {size(eight)} ({four / h16.kv_bytes:.0%}; {eight / h16.kv_bytes:.0%} of the cache)"
        verdicts[1] = f"8 bits save {eight / four:.0%} of what 4 bits do; in the article 80%"
        context = f"{h16.context_tokens:,} -> {h4.context_tokens:,} tokens ({_times(results.ratio('context'))})"
        verdicts[2] = _against(results.ratio("context"), 1.5)
    return [
        _claim("A1", share, verdicts[0], "memory"),
        _claim("A2", fits, "", "memory"),
        _claim("A3", saved, verdicts[1], "memory", "article"),
        _claim("A4", context, verdicts[2], "context"),
    ]


def _quality_claims(results: Results, at: dict[int, MeasuredAtBits]) -> list[ArticleClaim]:
    a16, a8, a4 = at[16], at[8], at[4]
    style = DASH
    style_verdict = ""
    if a4.style_distance is not None and results.style_yardstick is not None:
        style = f"distance {a4.style_distance:.3f}, among samples at 16 bits {results.style_yardstick:.3f}"
        same = a4.style_distance <= results.style_yardstick
        style_verdict = "; style: no change to be seen" if same else "; style: farther than by chance"
    speed = results.ratio("speed")
    busy = "the machine was busy: no verdict" if results.foreign_cpu_share > BUSY else ""
    eight = [f"speed {_times(_over(a8.decode_tokens_per_s, a16.decode_tokens_per_s))}"]
    if a16.held and a8.held and a4.held:
        part = (a16.held.kv_bytes - a8.held.kv_bytes) / (a16.held.kv_bytes - a4.held.kv_bytes)
        eight.append(f"{part:.0%} of the saving of 4 bits")
    eight.append(f"maths {_pair(a16.maths, a8.maths)}, logic {_pair(a16.logic, a8.logic)}")
    if a8.fidelity:
        eight.append(f"divergence {a8.fidelity.kl_nats:.4f} nats")
    logic = f"{_pair(a16.logic, a4.logic)}; {style}"
    return [
        _claim("A5", _pair(a16.maths, a4.maths), _same(a16.maths, a4.maths), "questions", "predictions"),
        _claim("A6", logic, _same(a16.logic, a4.logic) + style_verdict, "questions", "style"),
        _claim("A7", _times(speed), busy or _against(speed, 0.8), "speed"),
        _claim("A8", "; ".join(eight), _same(_sum(a16), _sum(a8)), "speed", "memory", "questions", "predictions"),
    ]


def _host_claims(results: Results, at: dict[int, MeasuredAtBits]) -> list[ArticleClaim]:
    models = DASH
    if at[16].held and at[4].held:
        models = f"{at[16].held.models} -> {at[4].held.models} by memory ({_times(results.ratio('models'))})"
        if at[16].models and at[4].models:
            models += f"; {at[16].models.holds} -> {at[4].models.holds} within the latency targets"
    contention = DASH if at[16].contention is None else f"{at[16].contention:.2f}x the time between tokens"
    noise = "below what this machine lets one see" if (at[16].contention or 1) < 1 else ""
    task = f"maths at 8 and 4 bits {_pair(at[8].maths, at[4].maths)}, logic {_pair(at[8].logic, at[4].logic)}"
    together = ", ".join(f"{a.held.context_tokens:,} at {b}" for b, a in at.items() if a.held) or DASH
    change = max((a.change_s for a in at.values() if a.change_s is not None), default=None)
    how = "live, session by session" if results.live_kv_bits else "by a restart of the model that drains first"
    dynamic = DASH if change is None else f"yes, {how}: {duration(change)}"
    return [
        _claim("A9", models, _against(results.ratio("models"), 2.0), "memory", "targets"),
        _claim("A10", contention, noise, "contention"),
        _claim("A11", task, "policy `auto` does so", "questions"),
        _claim("A12", DASH, "policies `medical`, `finance`, `manufacturing`, `retail`"),
        _claim("A13", f"longest context by memory: {together} bits", "`bunkhouse plan` does so", "context"),
        _claim("A14", dynamic, "", "change"),
        _claim("A15", "8-bit KV is the middle column; the others are not measured here", ""),
    ]


def _times(ratio: float | None) -> str:
    return DASH if ratio is None else f"{ratio:.2f}x"


def _over(a: float | None, b: float | None) -> float | None:
    return None if a is None or not b else a / b


def _against(ours: float | None, article: float) -> str:
    if ours is None:
        return ""
    return (
        f"better than the article's {article:g}x"
        if ours > article
        else (f"as the article says, {article:g}x" if ours == article else f"short of the article's {article:g}x")
    )


def _percent(share: Share | None) -> str:
    return DASH if share is None or share.value is None else f"{share.value:.1%}"


def _pair(a: Share | None, b: Share | None) -> str:
    if a is None or b is None or not a.total:
        return DASH
    return f"{_percent(a)} vs {_percent(b)} (n={a.total})"


def _sum(at: MeasuredAtBits) -> Share | None:
    parts = [share for share in (at.maths, at.logic) if share is not None]
    return Share(sum(s.hits for s in parts), sum(s.total for s in parts)) if parts else None


def _same(a: Share | None, b: Share | None) -> str:
    """Whether two accuracies differ by more than chance, where the first leaves room for a difference."""
    if a is None or b is None:
        return ""
    one, two = share_interval(a.hits, a.total), share_interval(b.hits, b.total)
    if one is None or two is None:
        return ""
    if one[0] < FLOOR:
        return "this model answers too few for accuracy to tell; see the predictions"
    apart = one[0] > two[2] or two[0] > one[2]
    return (
        "a difference beyond chance" if apart else f"no difference beyond chance (intervals of {one[2] - one[0]:.0%})"
    )
