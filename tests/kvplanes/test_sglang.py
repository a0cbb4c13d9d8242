"""Real SGLang on the CPU with the plugin: two precisions at once, the reference's tokens, a demotion in mid-answer."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="this test runs in SGLang's environment")
pytest.importorskip("sglang", reason="this test runs in SGLang's environment")

import httpx  # noqa: E402

from services.engines.kvplanes_site import plugin_environment  # noqa: E402
from services.kvplanes.config import KVPlanesConfig  # noqa: E402
from services.kvplanes.control import ControlClient  # noqa: E402
from services.kvplanes.keys import extra_key  # noqa: E402
from services.model_files import sglang_weights  # noqa: E402
from services.process.ports import free_port  # noqa: E402

START_S_MAX = 900.0
QUESTION = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
COLOURS = ("red", "blue", "green", "yellow")
STORY = " ".join(f"Box {i} is {COLOURS[i % 4]}." for i in range(24))

# A server of 3.5 GB starts in a minute on a quiet machine, in several on a busy one.
pytestmark = pytest.mark.timeout(1500)


def model_folder() -> Path:
    """SmolLM2 as SGLang loads it, converted once."""
    try:
        return sglang_weights.smollm2_folder()
    except FileNotFoundError as missing:
        pytest.skip(str(missing))


class Server:
    """Where a running server answers."""

    def __init__(self, port: int, control: str, log: Path) -> None:
        self.url, self.control, self.log = f"http://127.0.0.1:{port}", ControlClient(control, timeout_s=60), log

    async def generate(self, client: httpx.AsyncClient, text: str, key: str, tokens: int, rid: str) -> dict[str, Any]:
        body = {
            "text": text,
            "sampling_params": {"temperature": 0, "max_new_tokens": tokens, "ignore_eos": text != QUESTION},
            "extra_key": key,
            "rid": rid,
        }
        answer = await client.post(f"{self.url}/generate", json=body, timeout=500)
        found: dict[str, Any] = answer.json()
        return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("kvplanes")
    port = free_port()
    control = str(folder / "control.sock")
    stand_in = Path(sglang_weights.__file__).parents[1] / "engines" / "sglang_cpu"
    base = {**os.environ, "PYTHONPATH": str(stand_in), "SGLANG_USE_CPU_ENGINE": "1", "OMP_NUM_THREADS": "1"}
    base |= {"HF_HUB_OFFLINE": "1"}
    base.pop("TRITON_INTERPRET", None)
    environment = plugin_environment(KVPlanesConfig(bits=8, recent_tokens=8, control=control), folder / "site", base)
    command = [sys.executable, "-m", "sglang.launch_server", "--model-path", str(model_folder()), "--port", str(port)]
    command += ["--device", "cpu", "--attention-backend", "torch_native", "--disable-overlap-schedule"]
    command += ["--disable-cuda-graph", "--max-total-tokens", "2048", "--context-length", "1024"]
    command += ["--max-running-requests", "4", "--skip-server-warmup"]
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + START_S_MAX
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health", timeout=30).status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.5)
        else:
            pytest.fail(f"SGLang did not start: {log.read_text()[-3000:]}")
        yield Server(port, control, log)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def reference_answer(tokens: int) -> str:
    """What the model says with an exact cache, in transformers."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(str(model_folder()))
    model = transformers.AutoModelForCausalLM.from_pretrained(str(model_folder()), dtype=torch.bfloat16)
    ids = torch.tensor([tokenizer(QUESTION).input_ids])
    out = model.generate(ids, max_new_tokens=tokens, do_sample=False)
    answer: str = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
    return answer


async def test_both_precisions_give_the_reference_tokens(server: Server) -> None:
    expected = reference_answer(8)
    async with httpx.AsyncClient() as client:
        eight, four = await asyncio.gather(
            server.generate(client, QUESTION, extra_key("a", 8), 8, "eight"),
            server.generate(client, QUESTION, extra_key("a", 4), 8, "four"),
        )
        assert eight["text"] == expected
        assert four["text"] == expected
        # Neither found the other's prefix; a second one of the same tenant and precision does.
        assert eight["meta_info"]["cached_tokens"] == four["meta_info"]["cached_tokens"] == 0
        other = await server.generate(client, QUESTION, extra_key("b", 4), 1, "other-tenant")
        assert other["meta_info"]["cached_tokens"] == 0
        again = await server.generate(client, QUESTION, extra_key("a", 4), 8, "again")
        assert again["meta_info"]["cached_tokens"] > 0
        assert again["text"] == expected


async def test_a_session_is_demoted_in_mid_answer(server: Server) -> None:
    async with httpx.AsyncClient() as client:
        fine = asyncio.create_task(server.generate(client, STORY, extra_key("c", 8), 60, "fine"))
        other = asyncio.create_task(server.generate(client, STORY, extra_key("d", 8), 60, "other"))
        while (await server.control.report())["sessions"] != {"4": 0, "8": 2}:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
        before = await server.control.report()
        answer = await server.control.demote(rid="fine")
        after = await server.control.report()
        assert not fine.done()
        prompt = 24 * 4
        assert answer["tokens"] > prompt
        assert answer["freed_bytes"] == answer["tokens"] * 30 * 3 * (64 + 8)
        assert after["sessions"] == {"4": 1, "8": 1}
        # The other session went on meanwhile, two slots a token.
        assert after["slots"]["free"] >= before["slots"]["free"] + answer["tokens"] - 20
        for result in await asyncio.gather(fine, other):
            assert result["meta_info"]["finish_reason"]["type"] == "length"
            assert result["meta_info"]["completion_tokens"] == 60
    assert "Traceback" not in server.log.read_text()


async def test_bits_that_planes_do_not_hold_are_refused(server: Server) -> None:
    async with httpx.AsyncClient() as client:
        answer = await server.generate(client, QUESTION, "a|kv16", 4, "sixteen")
    assert "16 KV bits" in json.dumps(answer)


async def test_the_pool_holds_twice_the_tokens_at_4_bits(server: Server) -> None:
    slots = (await server.control.report())["slots"]
    assert slots["total"] == 2048
    assert slots["used"] + slots["free"] == slots["total"]
