"""Model folders that have a shape and a tokenizer but no weights, for SGLang's `--load-format dummy`.

Time and memory depend on shapes and number formats, not on values; quality does not, and is measured elsewhere.
Shapes are those of the models' published config.json.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

VOCABULARY = 152_064
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}


@dataclass(frozen=True, slots=True)
class Shape:
    """A dense transformer of Qwen2's architecture."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    head_dim: int = 128


QWEN_3B = Shape(hidden=2048, layers=36, heads=16, kv_heads=2, intermediate=11_008)
QWEN_7B = Shape(hidden=3584, layers=28, heads=28, kv_heads=4, intermediate=18_944)
QWEN_14B = Shape(hidden=5120, layers=48, heads=40, kv_heads=8, intermediate=13_824)
QWQ_32B = Shape(hidden=5120, layers=64, heads=40, kv_heads=8, intermediate=27_648)


def write(folder: Path, tokenizer: Path, shape: Shape, *, four_bit: bool = True, context_tokens: int = 32_768) -> Path:
    """A folder that SGLang takes for a model. `tokenizer` is a folder of any smaller vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "generation_config.json"):
        if (tokenizer / name).exists():
            shutil.copy(tokenizer / name, folder / name)
    config: dict[str, object] = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.intermediate,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": context_tokens,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "torch_dtype": "float16" if four_bit else "bfloat16",
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if four_bit:
        config["quantization_config"] = AWQ
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    _write_tokenizer(tokenizer / "tokenizer.json", folder / "tokenizer.json")
    return folder


def _write_tokenizer(source: Path, target: Path) -> None:
    """The tokenizer with words for every id of the larger vocabulary: random weights draw from all of it."""
    content = json.loads(source.read_text())
    vocabulary = content["model"]["vocab"]
    taken = set(vocabulary.values()) | {token["id"] for token in content.get("added_tokens", ())}
    vocabulary.update({f"Ġw{number}": number for number in range(VOCABULARY) if number not in taken})
    target.write_text(json.dumps(content, ensure_ascii=False))
