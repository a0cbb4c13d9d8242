"""What an engine takes beside weights and KV memory: runtime, activations, graphs.

Estimates for before the first start; a running engine reports what it measured (EngineFacts.overhead_bytes).

    llama.cpp: 64 MiB + one batch's logits (512 tokens x vocabulary x 4 B)
    SGLang on CUDA: 1.34 GiB + the activations of one chunk of a prompt (services/engines/sglang_room.py)
    SGLang on a CPU: 2.5 GiB (three processes that each import torch)
"""

from __future__ import annotations

from services.config.schema import ModelConfig
from services.engines.sglang_room import CUDA_BYTES, activation_bytes
from services.model_files.shape import ModelShape

MIB = 2**20
LLAMACPP_BYTES = 64 * MIB
LLAMACPP_BATCH_TOKENS = 512
SGLANG_CPU_BYTES = 2560 * MIB


def overhead_bytes(model: ModelConfig, shape: ModelShape) -> int:
    """Estimated bytes beside weights and KV memory."""
    if model.engine == "llamacpp":
        return LLAMACPP_BYTES + LLAMACPP_BATCH_TOKENS * shape.vocabulary * 4
    if model.device == "cpu":
        return SGLANG_CPU_BYTES
    return CUDA_BYTES + activation_bytes(shape)
