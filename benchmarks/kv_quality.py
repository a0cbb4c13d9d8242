"""What 8- and 4-bit KV planes cost in quality, on real weights and a CPU.

    python -m benchmarks.kv_quality [--out docs/benchmarks/kv-quality.json]

SmolLM2-135M-Instruct (bf16 weights, float32 arithmetic) reads 4 x 1,024 tokens of licence text: Apache-2.0, MPL-2.0,
the PSF licence and the GPL, as Python packages ship them. Every key and value passes through the planes' code as it
enters the cache, every query reads what it would read while decoding: at 4 bits the high nibble, except for the first
tokens and the newest ones, which keep both planes. Centres come from another text (the model library's README), fixed
before the first licence. Compared with the exact cache: perplexity, KL divergence of the next-token distribution (in
nats), and how often the most likely token agrees. What 8 bits cost is less than what chance does on 4,096 tokens: so
each perplexity comes with its standard error, and 8 bits read all that the licences hold, too (`_all`). Runs in
SGLang's environment (torch and transformers).
"""

from __future__ import annotations

import argparse
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from benchmarks.output import write
from services.kvplanes.code import dequantize, quantize, rotate, split
from services.kvplanes.config import KVPlanesConfig
from services.kvplanes.layout import bytes_per_token
from services.model_files.sglang_weights import smollm2_folder

TOKENS = 1024
CALIBRATION_TOKENS = 512
Read = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def texts() -> list[str]:
    """The four licences, from files of installed packages."""
    found = [("transformers", "LICENSE"), ("orjson", "LICENSE-MPL-2.0"), ("typing_extensions", "LICENSE")]
    licences = [_file(package, name) for package, name in found]
    gpl = _file("numpy", "LICENSE.txt")
    return [*licences, gpl[gpl.index("GNU GENERAL PUBLIC LICENSE") :]]


def _file(package: str, name: str) -> str:
    for path in importlib.metadata.files(package) or []:
        if path.name == name and ".dist-info" in str(path):
            return path.read_text()
    raise SystemExit(f"{package} ships no {name}")


@dataclass
class Mode:
    """How the cache is read. `read` gives a tensor at full and at low precision; `exact_first` and `recent` tokens of a
    query's past are read at full precision, the others at low."""

    read: Read | None = None
    exact_first: int = 0
    recent: int = 0
    rotated: bool = False
    centres: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)


def planes(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`x` read through both planes, and through the high plane alone."""
    codes, scales = quantize(x)
    high, low = split(codes)
    both = torch.ones(x.shape[:-1], dtype=torch.bool)
    return dequantize(high, low, both, scales), dequantize(high, low, ~both, scales)


def fine_planes(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`x` read through both planes everywhere."""
    full, _ = planes(x)
    return full, full


def plain_int4(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A plain 4-bit cache: 15 steps between each row's extremes, nothing else."""
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    step = ((high - low) / 15).clamp_min(1e-8)
    coarse = ((x - low) / step).round() * step.half().float() + low.half().float()
    return coarse, coarse


class Cache:
    """The attention function that the model calls; `mode` is set between passes."""

    def __init__(self) -> None:
        self.mode = Mode()
        self.calibrating: dict[tuple[int, int], torch.Tensor] | None = None

    def attend(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_mask: Any, **options: Any
    ) -> tuple[torch.Tensor, None]:
        """query (1, Hq, n, D), key and value (1, H, n, D) -> (1, n, Hq, D)."""
        q, k, v = query[0], key[0], value[0]
        if self.calibrating is not None:
            for kind, x in enumerate((k, v)):
                self.calibrating[module.layer_idx, kind] = x.mean(1, keepdim=True)
        group = q.shape[0] // k.shape[0]
        n = q.shape[1]
        turn = rotate if self.mode.rotated else torch.Tensor.float
        shift = self.mode.centres.get((module.layer_idx, 1), torch.zeros(()))
        full_k, low_k, full_v, low_v = (x.repeat_interleave(group, 0) for x in self._cached(module.layer_idx, k, v))
        row, column = torch.arange(n)[:, None], torch.arange(n)[None, :]
        fine = (column < self.mode.exact_first) | (row - column < self.mode.recent)
        turned = turn(q)
        score = torch.where(fine, turned @ full_k.mT, turned @ low_k.mT) * options["scaling"]
        weight = score.masked_fill(column > row, float("-inf")).softmax(-1)
        out = (weight * fine) @ full_v + (weight * ~fine) @ low_v
        out = turn(out) + (shift.repeat_interleave(group, 0) if shift.dim() else shift)
        return out.transpose(0, 1)[None], None

    def _cached(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> list[torch.Tensor]:
        parts: list[torch.Tensor] = []
        for kind, x in enumerate((key, value)):
            moved = x - self.mode.centres.get((layer, kind), torch.zeros(()))
            moved = rotate(moved) if self.mode.rotated else moved
            parts += self.mode.read(moved) if self.mode.read else (moved, moved)
        return parts


def log_probabilities(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Of each next token (n, vocabulary) after `tokens` (n)."""
    logs: torch.Tensor = model(tokens[None]).logits[0].float().log_softmax(-1)
    return logs


def compare(model: Any, batch: list[torch.Tensor], exact: list[torch.Tensor]) -> dict[str, float]:
    """Against `exact` (log-probabilities): perplexity and its standard error (%), KL, agreement of the top token."""
    lost: list[torch.Tensor] = []  # nats, a token
    divergence, agree, count = 0.0, 0.0, 0
    for tokens, reference in zip(batch, exact, strict=True):
        logs = log_probabilities(model, tokens)
        lost.append((reference - logs)[:-1].gather(1, tokens[1:, None]).flatten().double())
        divergence += float((reference.exp() * (reference - logs)).sum())
        agree += float((reference.argmax(-1) == logs.argmax(-1)).sum())
        count += len(tokens)
    nats = torch.cat(lost)
    return {
        "ppl_pct": 100 * float(nats.mean().expm1()),
        "ppl_error_pct": 100 * float(nats.std()) / len(nats) ** 0.5,
        "kl": divergence / count,
        "top1": agree / count,
    }


def perplexity(batch: list[torch.Tensor], logs: list[torch.Tensor]) -> float:
    """Of `batch` under log-probabilities `logs`."""
    found = torch.cat([log[:-1].gather(1, tokens[1:, None]) for tokens, log in zip(batch, logs, strict=True)])
    return float((-found.mean()).exp())


def measure(folder: Path) -> dict[str, float]:
    """All figures of the model in `folder`."""
    with torch.inference_mode():
        return _measure(folder)


def _measure(folder: Path) -> dict[str, float]:
    cache = Cache()
    ALL_ATTENTION_FUNCTIONS.register("kvplanes", cache.attend)
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    model = transformers.AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=torch.float32, attn_implementation="kvplanes"
    )
    licences = [torch.tensor(tokenizer(text).input_ids).split(TOKENS) for text in texts()]
    batch = [windows[0] for windows in licences]
    if min(map(len, batch)) < TOKENS:
        raise SystemExit("a licence is too short")
    readme = _file("transformers", "METADATA").split("\n\n", 1)[1]  # what follows the header
    cache.calibrating = {}
    model(torch.tensor([tokenizer(readme).input_ids[:CALIBRATION_TOKENS]]))
    centres, cache.calibrating = cache.calibrating, None
    exact = [log_probabilities(model, tokens) for tokens in batch]
    config = KVPlanesConfig()
    window = {"exact_first": config.sink_tokens, "recent": config.recent_tokens}
    results = {}
    for name, mode in (
        ("int8", Mode(fine_planes, rotated=True, centres=centres)),
        ("int4", Mode(planes, **window, rotated=True, centres=centres)),
        ("int4_sinks_only", Mode(planes, exact_first=config.sink_tokens, rotated=True, centres=centres)),
        ("int4_plain", Mode(plain_int4)),
    ):
        cache.mode = mode
        results[name] = compare(model, batch, exact)
        print(f"{name}: {results[name]}", flush=True)
    results["int8_all"] = _everything(cache, model, [part for windows in licences for part in windows], centres)
    figures: dict[str, float] = {"ppl_exact": round(perplexity(batch, exact), 3)}
    for name, result in results.items():
        figures[f"ppl_{name}_pct"] = round(result["ppl_pct"], 3)
        figures[f"ppl_{name}_error_pct"] = round(result["ppl_error_pct"], 3)
        figures[f"kl_{name}"] = round(result["kl"], 5)
        figures[f"top1_{name}"] = round(result["top1"], 4)
    figures["tokens_int8_all"] = results["int8_all"]["tokens"]
    shape = {"layers": 1, "kv_heads": 1, "head_dim": 128}
    figures["bytes_ratio_int4"] = round(bytes_per_token(shape, 16) / bytes_per_token(shape, 4), 3)
    figures["bytes_ratio_int8"] = round(bytes_per_token(shape, 16) / bytes_per_token(shape, 8), 3)
    return figures


def _everything(
    cache: Cache, model: Any, windows: list[torch.Tensor], centres: dict[tuple[int, int], torch.Tensor]
) -> dict[str, float]:
    """``compare`` of 8 bits over all whole `windows` of the licences."""
    whole = [window for window in windows if len(window) == TOKENS]
    cache.mode = Mode()
    exact = [log_probabilities(model, tokens) for tokens in whole]
    cache.mode = Mode(fine_planes, rotated=True, centres=centres)
    found = {**compare(model, whole, exact), "tokens": len(whole) * TOKENS}
    print(f"int8_all: {found}", flush=True)
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a model folder in place of SmolLM2's")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/kv-quality.json"))
    options = parser.parse_args()
    write(options.out, measure(options.model or smollm2_folder()))


if __name__ == "__main__":
    main()
