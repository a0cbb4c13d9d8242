"""vLLM's bench client: its request functions, from the file that its wheel has."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import aiohttp

from tests.clients import environments
from tests.clients.checks import BOT, QUESTION, RAW, SHORT, V1, check, run


def _load() -> Any:
    spec = importlib.util.spec_from_file_location("endpoint_request_func", environments.vllm_file())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


bench = _load()


async def ask(kind: str, path: str, model: str, **options: Any) -> Any:
    """What `vllm bench serve` records of one request of this kind."""
    request = bench.RequestFuncInput(
        prompt=QUESTION, api_url=f"{V1}/{path}", prompt_len=10, output_len=SHORT, model=model, **options
    )
    async with aiohttp.ClientSession() as session:
        done = await bench.ASYNC_REQUEST_FUNCS[kind](request_func_input=request, session=session)
    assert done.success, done.error
    assert done.generated_text
    assert done.ttft > 0
    return done


@check("stream", "openai-chat takes the stream; ignore_eos gives all tokens that were asked for")
async def _() -> None:
    done = await ask("openai-chat", "chat/completions", BOT, ignore_eos=True)
    assert done.output_tokens == SHORT
    assert len(done.itl) > 3


@check("sampling", "the sampling options of `vllm bench serve` are taken")
async def _() -> None:
    extra = {"temperature": 0.5, "top_p": 0.9, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.1}
    await ask("openai-chat", "chat/completions", BOT, extra_body=extra)


@check("completions", "openai, the default kind, takes the stream")
async def _() -> None:
    done = await ask("openai", "completions", RAW, ignore_eos=True)
    assert done.output_tokens == SHORT


@check("completions", "openai with logprobs takes the stream")
async def _() -> None:
    await ask("openai", "completions", RAW, logprobs=1, ignore_eos=True)


run()
