"""`python -m benchmarks.gpu.question FOLDER`: real weights on a GPU answer a question of fact through the whole host.

FOLDER is SmolLM2-135M-Instruct in bf16 (services/model_files/sglang_weights.py makes it of the GGUF file). Asked once
for each KV precision that SGLang itself has. Exit status 1 when an answer is wrong.

Of questions that so small a model can answer, this is one where no word is a toss-up: each leads the next likeliest by
0.2 nats or more at 16, 8 and 4 bits, so that another GPU's rounding does not change the answer.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from hashlib import sha256
from pathlib import Path

import httpx
import yaml

from benchmarks.gpu.workers import FLAGS
from benchmarks.output import write
from tests.host_process import run_host

QUESTION, ANSWER = "What is the chemical symbol for water?", "H2O"


def main() -> int:
    """Ask, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("weights", type=Path)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--python", default=None, help="the interpreter that has SGLang")
    parser.add_argument("--flags", nargs="*", default=[], help="more flags for SGLang, to look for a cause")
    parser.add_argument("--kv-bits", type=int, nargs="+", default=[16, 8])
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/question.json"))
    options = parser.parse_args()
    gpu_flags = [
        "--attention-backend",
        "triton",
        "--cuda-graph-backend-prefill=disabled",
        "--mem-fraction-static",
        "0.5",
    ]
    models = {
        f"kv{bits}": {
            "engine": "sglang",
            "weights": str(options.weights),
            "kv_bits": bits,
            "context_tokens": 2048,
            "chats_max": 8,
            "kv_tokens": 16_384,
            "device": options.device,
            "flags": [*FLAGS, *(gpu_flags if options.device == "cuda" else []), *options.flags],
        }
        | ({"python": options.python} if options.python else {})
        for bits in options.kv_bits
    }
    bots = {
        name: {"model": name, "kv": {"policy": "fixed", "bits": model["kv_bits"]}} for name, model in models.items()
    }
    with tempfile.TemporaryDirectory(prefix="bh-gpu-") as name:
        config = Path(name) / "host.yaml"
        tenants = {"acme": {"ready_key": True, "bots": bots}}
        config.write_text(yaml.safe_dump({"data_dir": f"{name}/data", "models": models, "tenants": tenants}))
        answers = {}
        with run_host(Path(name) / "data", config, 240.0) as host:
            for bot in bots:
                body = {
                    "model": f"acme/{bot}",
                    "temperature": 0,
                    "max_tokens": 32,
                    "messages": [{"role": "user", "content": QUESTION}],
                }
                url = f"{host.url}/v1/chat/completions"
                answer = httpx.post(url, headers=host.headers("acme"), json=body, timeout=120).json()
                answers[bot] = answer["choices"][0]["message"]["content"]
    weights = {file.name: sha256(file.read_bytes()).hexdigest() for file in options.weights.glob("*.safetensors")}
    right = all(ANSWER in answer for answer in answers.values())
    figures = {"question": QUESTION, "answers": answers, "right": right, "device": options.device}
    write(options.out, figures | {"weights_sha256": weights})
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
