"""A whole host on real SGLang with KV planes: KV bits change live, on the CPU, while twenty clients chat."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.engines.kits import SGLANG_PYTHON, SMOLLM2_FOLDER, sglang_kit
from tests.host_process import up
from tests.jobs.test_host import CHATS, Client

CONFIG = """\
data_dir: {data_dir}
gateway: {{port: 0}}
models:
  small:
    engine: sglang
    python: {python}
    weights: {weights}
    device: cpu
    kv_bits: mixed
    kv_tokens: 8192
    context_tokens: 256
    chats_max: 4
tenants:
  acme:
    ready_key: true
    bots:
      support: {{model: small, queue_wait_s_max: 300, kv: {{policy: pressure}}}}
"""


@pytest.mark.sglang
@pytest.mark.timeout(900)
async def test_twenty_clients_chat_while_kv_bits_go_4_and_8_live(tmp_path: Path) -> None:
    sglang_kit()  # skips without SGLang; makes the model folder
    config = tmp_path / "host.yaml"
    data_dir = tmp_path / ".bunkhouse"
    config.write_text(CONFIG.format(data_dir=data_dir, python=SGLANG_PYTHON, weights=SMOLLM2_FOLDER))
    with up(config) as host:
        client = Client(host, await asyncio.to_thread(host.ready), data_dir)
        chats = [asyncio.create_task(client.chat(number, 12)) for number in range(CHATS)]
        for bits in (4, 8):
            begun = client.texts
            while client.texts < begun + CHATS:  # noqa: ASYNC110  (of 13 each)
                await asyncio.sleep(0.05)
            answer = await client.ask("PUT", "/models/small/kv", {"bits": bits})
            assert (answer["plan"]["how"], answer["job"]) == ("live", None), answer
            assert not all(chat.done() for chat in chats), "the change came too late to matter"
        used = await asyncio.gather(*chats)
        total = (await client.ask("GET", "/usage"))["total"]
        assert (total["chats"], total["refused"]) == (CHATS, {})
        for name in ("prompt_tokens", "completion_tokens"):
            assert total[name] == sum(usage[name] for usage in used)
        await client.admin.aclose()
        await client.tenant.aclose()
