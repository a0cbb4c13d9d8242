"""The evidence page says what was measured, and names in its first paragraph what misses its bound."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.evidence import main


def measured() -> dict[str, Any]:
    def sessions(held: int, step_ms: float) -> dict[str, Any]:
        equal = {"inter_token_p50_ms": step_ms}
        return {"within_target": held, "by_memory": held + 1, "bytes_per_token": 1000, "at_equal_sessions": equal}

    def models(count: int) -> dict[str, Any]:
        return {"started": count, "by_memory": count, "within_target": True}

    return {
        "date": "2026-01-01",
        "gpu": "A card",
        "card_gib": 24.0,
        "context_tokens": 4096,
        "sessions_each": 32,
        "inter_token_target_ms": 100.0,
        "sessions": {
            "weight_bytes": 5_600_000_000,
            "overhead_bytes": 2_000_000_000,
            "at": {"16": sessions(70, 30.0), "8": sessions(140, 28.0), "4": sessions(250, 20.0)},
        },
        "models": {"16": models(1), "8": models(2), "4": models(2)},
        "mix": {"card_gib": 78.0, "at": {"16": models(2), "8": models(4), "4": models(6)}},
        "qwq": {"at": {bits: {"longest_context": n} for bits, n in (("16", 10_000), ("8", 20_000), ("4", 36_000))}},
    }


def docs_with(folder: Path, found: dict[str, Any] | None) -> Path:
    (folder / "benchmarks").mkdir()
    if found is not None:
        (folder / "benchmarks" / "capacity.json").write_text(json.dumps(found))
    return folder


def test_ratios_of_what_ran(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    docs = docs_with(tmp_path, measured())
    assert main(["--docs", str(docs)]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["models_ratio_24gb"] == 2.0
    assert figures["sessions_ratio_24gb"] == pytest.approx(250 / 70, abs=0.001)
    assert figures["context_ratio_qwq"] == 3.6
    assert figures["speed_ratio_int4"] == 1.5
    text = (docs / "evidence.md").read_text()
    assert text.splitlines()[2].startswith("Every bound is reached.")
    chart = (docs / "images" / "models-on-a-card.svg").read_text()
    assert "Models on one card, 32 busy chats each" in chart
    assert "24 GiB, 4 bits" in chart
    assert "78 GiB, 4 bits" in chart
    assert figures["models_ratio_whole_card"] == 3.0
    assert "QwQ-32B and 5 of 7B" in text


def test_a_missed_bound_stands_in_the_first_paragraph(tmp_path: Path) -> None:
    found = measured()
    found["models"]["4"]["within_target"] = False
    found["mix"]["at"]["4"]["within_target"] = False
    docs = docs_with(tmp_path, found)
    assert main(["--docs", str(docs)]) == 0
    text = (docs / "evidence.md").read_text()
    assert "models on the card: 0.00x, not 2x" in text.splitlines()[2]
    assert "none within the target" in text


def test_without_a_gpu_run_it_says_how_to_make_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--docs", str(docs_with(tmp_path, None))]) == 1
    assert "benchmarks.gpu.capacity" in capsys.readouterr().out
    assert not (tmp_path / "evidence.md").exists()


def test_a_part_that_did_not_run_is_said_in_the_first_paragraph(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = measured()
    del found["qwq"], found["models"], found["mix"]
    docs = docs_with(tmp_path, found)
    assert main(["--docs", str(docs)]) == 0
    out = capsys.readouterr().out
    assert "--parts models qwq mix" in out
    assert json.loads(out.splitlines()[-1])["models_ratio_24gb"] is None
    text = (docs / "evidence.md").read_text()
    assert "models on the card: not run" in text.splitlines()[2]
    assert "not run (3 by memory)" in text
    assert not (docs / "images" / "models-on-a-card.svg").exists()


def test_without_the_part_on_sessions_there_is_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = measured()
    del found["sessions"]
    assert main(["--docs", str(docs_with(tmp_path, found))]) == 1
    assert "--parts sessions" in capsys.readouterr().out


def test_what_busy_models_do_to_each_other_stands_beside_it(tmp_path: Path) -> None:
    docs = docs_with(tmp_path, measured())
    rows = {"turns": [(2131.1, 3.3), (2138.0, 13.5)], "space": [(2230.0, 3.1), (3095.9, 9.8)]}
    runs = {
        mode: {
            "levels": {
                count: {"tokens_per_s": tokens, "pace_p50_ms": ms}
                for count, (tokens, ms) in zip("14", levels, strict=True)
            }
        }
        for mode, levels in rows.items()
    }
    shared = {"gpu": "A card", "date": "2026-02-02", "predict_error": 0.084, "runs": runs}
    (docs / "benchmarks" / "sharing.json").write_text(json.dumps(shared))
    assert main(["--docs", str(docs)]) == 0
    text = (docs / "evidence.md").read_text()
    assert "| 4 | 2,138 | 3,096 | 13.5 | 9.8 |" in text
    assert "8% off" in text
