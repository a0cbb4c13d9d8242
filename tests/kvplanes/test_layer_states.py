"""The host's sizes of linear and state-space layers against SGLang's own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("sglang")

from sglang.srt.configs import granitemoehybrid, nemotron_h, qwen3_next
from sglang.srt.configs.granitemoehybrid import GraniteMoeHybridConfig
from sglang.srt.configs.nemotron_h import NemotronHConfig
from sglang.srt.configs.qwen3_next import Qwen3NextConfig

from services.model_files.layer_caches import config_caches


@pytest.mark.parametrize(
    "config",
    [
        Qwen3NextConfig(full_attention_interval=4),
        NemotronHConfig(n_groups=8),
        GraniteMoeHybridConfig(layer_types=["mamba"] * 5 + ["attention"], num_hidden_layers=6),
    ],
    ids=["gated delta net", "Nemotron", "Granite"],
)
def test_states_take_what_sglang_allocates(config, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    for module in (granitemoehybrid, nemotron_h, qwen3_next):
        monkeypatch.setattr(module, "get_parallel", lambda: SimpleNamespace(attn_tp_size=1))
    described = config.to_dict()
    layers = described.get("num_hidden_layers") or len(described["layers_block_type"])
    if not hasattr(config, "n_groups") and described["model_type"] == "nemotron_h":
        config.n_groups = described["mamba_n_groups"]
    assert config_caches(described, layers).state_bytes == config.mamba2_cache_params.mamba_cache_per_req
