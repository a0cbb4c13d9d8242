"""What the planner and the gateway use: sizes, keys, settings, environment. No torch."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest

from services.engines.kvplanes_site import plugin_environment
from services.kvplanes.config import KVPlanesConfig, read_config
from services.kvplanes.keys import extra_key, parse_extra_key
from services.kvplanes.layout import PlaneShape, bytes_per_token

QWEN = {"layers": 28, "kv_heads": 4, "head_dim": 128}


def test_bytes_per_token() -> None:
    assert bytes_per_token(QWEN, 16) == 28 * 4 * 128 * 2 * 2
    assert bytes_per_token(QWEN, 4) == 28 * 4 * (128 + 8) == PlaneShape(**QWEN).slot_bytes
    assert bytes_per_token(QWEN, 8) == 2 * bytes_per_token(QWEN, 4)
    assert bytes_per_token(QWEN, 16) / bytes_per_token(QWEN, 4) >= 3.6
    with pytest.raises(ValueError, match="not 5"):
        bytes_per_token(QWEN, 5)
    with pytest.raises(ValueError, match="96"):
        bytes_per_token({**QWEN, "head_dim": 96}, 4)


def test_extra_key_carries_salt_and_bits() -> None:
    assert parse_extra_key(extra_key("a1b2", 4), 8) == ("a1b2", 4)
    assert parse_extra_key("a1b2|kv8", 4) == ("a1b2", 8)
    assert parse_extra_key("salt-alone", 8) == ("salt-alone", 8)
    assert parse_extra_key(None, 4) == ("", 4)
    for key, named in (("a|kv16", "16"), ("a|kv16|", "16"), ("a|kv804600", "804600"), ("a|kv8lora-7", "8lora-7")):
        with pytest.raises(ValueError, match=f"asks for {named} KV bits"):
            parse_extra_key(key, 8)
    with pytest.raises(ValueError, match=r"\|"):
        extra_key("a|b", 4)


@pytest.mark.parametrize("lora_id", ["04600e2f9d1c4f0e8f6d0a5b7c3d2e1f", "e460", "|kv4|"])
def test_a_lora_id_behind_the_key_changes_neither_salt_nor_bits(lora_id: str) -> None:
    assert parse_extra_key(extra_key("a1b2", 8) + lora_id, 4) == ("a1b2", 8)


def test_settings_are_checked() -> None:
    assert read_config({}) is None
    config = KVPlanesConfig(bits=4, control="/run/x.sock")
    assert KVPlanesConfig.from_json(config.to_json()) == config
    for text, word in (
        ("{", "JSON"),
        ("[]", "object"),
        ('{"bit": 4}', "bit"),
        ('{"bits": 16}', "16"),
        ('{"recent_tokens": -1}', "recent_tokens"),
    ):
        with pytest.raises(ValueError, match=word):
            KVPlanesConfig.from_json(text)


def test_environment_shows_the_plugin_and_nothing_else(tmp_path: Path) -> None:
    environment = plugin_environment(KVPlanesConfig(bits=4), tmp_path / "site", {"PATH": "/bin", "PYTHONPATH": "/x"})
    again = plugin_environment(KVPlanesConfig(bits=4), tmp_path / "site", {"PATH": "/bin", "PYTHONPATH": "/x"})
    assert environment == again
    assert environment["PYTHONPATH"].split(":")[1:] == ["/x"]
    assert json.loads(environment["BUNKHOUSE_KVPLANES"])["bits"] == 4
    assert {path.name for path in (tmp_path / "site").iterdir()} == {
        "bunkhouse_kvplanes",
        "bunkhouse_kvplanes-0.1.0.dist-info",
    }
    found = importlib.metadata.distributions(path=[str(tmp_path / "site")])
    points = [point for distribution in found for point in distribution.entry_points]
    assert [(point.group, point.value) for point in points] == [
        ("sglang.srt.plugins", "bunkhouse_kvplanes.plugin:register")
    ]


def test_the_plain_modules_import_no_torch() -> None:
    modules = ("layout", "keys", "config", "control", "server", "plugin")
    code = (
        ";".join(f"import services.kvplanes.{name}" for name in modules)
        + ";import sys;assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
