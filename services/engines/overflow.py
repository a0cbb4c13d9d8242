"""Another provider, for bots that allow it when this host is full: the third side of the engine seam, by LiteLLM.

LiteLLM is a large import, loaded here and nowhere else; requirements-overflow.lock has the pinned release.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from http import HTTPStatus
from importlib import import_module
from importlib.metadata import version
from typing import Any

from services.config.schema import OverflowConfig
from services.contracts.chats import KvBits
from services.contracts.engines import EngineFacts, EngineReport, EngineState, provider_model
from services.engines.base import (
    EngineBusy,
    EngineError,
    EngineRejected,
    EngineRequest,
    EngineStartError,
    EngineUnavailable,
    KvBitsUnsupported,
    Piece,
    Progress,
)

PINNED = "1.109.1"  # other releases were malicious: never a range
INSTALL = "install LiteLLM with: pip install --require-hashes --no-deps -r requirements-overflow.lock"
CHATS_MAX = 256
TOKEN_S_MAX = 60.0
_AGAIN = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_EARLY})
CONTEXT_TOKENS = 1 << 20  # the provider knows its own limit and says so


class OverflowEngine:
    """One provider. See `services.engines.base.Engine`. It holds no memory of this host's."""

    def __init__(self, name: str, settings: OverflowConfig) -> None:
        self.name = name
        self._settings = settings
        self._router: Any = None
        self._litellm: Any = None
        self._running = 0

    @property
    def can_sleep(self) -> bool:
        """Never: nothing runs here."""
        return False

    async def start(self, progress: Progress) -> EngineFacts:
        """Load LiteLLM. Raises EngineStartError when it is not installed, or not the pinned release."""
        progress("loading LiteLLM")
        os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else the import waits for a download
        try:
            if version("litellm") != PINNED:
                raise EngineStartError(f"overflow.{self.name}: LiteLLM must be {PINNED}, not {version('litellm')}")
            litellm: Any = await asyncio.to_thread(import_module, "litellm")  # seconds and 200 MB
        except ImportError as error:
            raise EngineStartError(f"overflow.{self.name}: {error}; {INSTALL}") from error
        litellm.telemetry = False
        litellm.suppress_debug_info = True
        parameters: dict[str, object] = {"model": self._settings.model, "timeout": TOKEN_S_MAX}
        if self._settings.api_base:
            parameters["api_base"] = self._settings.api_base
        if self._settings.api_key_file:
            parameters["api_key"] = self._settings.api_key_file.read_text().strip()
        self._litellm = litellm
        self._router = litellm.Router(
            model_list=[{"model_name": self.name, "litellm_params": parameters}], num_retries=1
        )
        return EngineFacts(
            model=provider_model(self.name),
            engine="overflow",
            weight_bytes=0,
            overhead_bytes=0,
            kv_budget_bytes=0,
            kv_bytes_per_token={16: 0},
            context_tokens=CONTEXT_TOKENS,
            chats_max=CHATS_MAX,
            kv_bits=KvBits.SIXTEEN,
        )

    async def report(self) -> EngineReport:
        """How many chats it has now."""
        return EngineReport(provider_model(self.name), time.time(), EngineState.READY, running=self._running)

    async def stream(self, request: EngineRequest) -> AsyncIterator[Piece]:
        """Run one chat there. A provider cannot continue half an answer: raises EngineRejected then."""
        if request.said:
            raise EngineRejected(f"{self.name} cannot continue an answer that broke off; ask again")
        if not request.messages:
            raise EngineRejected(f"{self.name}: the chat came without its messages")
        self._running += 1
        try:
            async for piece in self._pieces(request):
                yield piece
        except Exception as error:
            raise _translated(error)(f"{self.name}: {_first_line(error)}") from error
        finally:
            self._running -= 1

    async def _pieces(self, request: EngineRequest) -> AsyncIterator[Piece]:
        sampling = request.sampling
        options: dict[str, object] = {"seed": sampling.seed, "stop": list(sampling.stop) or None}
        answer = await self._router.acompletion(
            model=self.name,
            messages=[dict(message) for message in request.messages],
            stream=True,
            stream_options={"include_usage": True},
            max_tokens=request.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            frequency_penalty=sampling.frequency_penalty,
            presence_penalty=sampling.presence_penalty,
            **{name: value for name, value in options.items() if value is not None},
        )
        # The provider's own count comes at the end, if at all. What a client that leaves has cost is counted here.
        yield Piece(prompt_tokens=sum(self._count(message["content"]) for message in request.messages))
        counted, finish, usage = 0, "stop", None
        async for chunk in answer:
            usage = getattr(chunk, "usage", None) or usage
            for choice in chunk.choices:
                finish = choice.finish_reason or finish
                if choice.delta.content:
                    tokens = self._count(choice.delta.content)
                    counted += tokens
                    yield Piece(text=choice.delta.content, tokens=tokens)
        yield Piece(
            tokens=max(0, usage.completion_tokens - counted) if usage else 0,
            finish="length" if finish == "length" else "stop",
            prompt_tokens=usage.prompt_tokens if usage else None,
            cached_tokens=0,
            completion_tokens=usage.completion_tokens if usage else counted,
        )

    def _count(self, text: str) -> int:
        """Tokens by the vocabulary that LiteLLM brings along; those of other models are near."""
        return max(1, len(self._litellm.encoding.encode(text, disallowed_special=())))

    async def set_kv_bits(self, bits: KvBits, progress: Progress) -> EngineFacts:  # noqa: ARG002
        """Never."""
        raise KvBitsUnsupported(f"{self.name} is another provider; its KV bits are its own")

    async def set_chat_kv_bits(self, chat: str, bits: KvBits) -> None:  # noqa: ARG002
        """Never."""
        raise KvBitsUnsupported(f"{self.name} is another provider; its KV bits are its own")

    async def sleep(self) -> None:
        """Never."""
        raise EngineError(f"{self.name} is another provider; it does not sleep")

    async def wake(self, progress: Progress) -> EngineFacts:
        """Never asleep."""
        return await self.start(progress)

    async def alive(self) -> bool:
        """A provider's health is seen in its answers."""
        return self._router is not None

    async def stop(self) -> None:
        """Nothing runs here."""


def _translated(error: Exception) -> type[EngineError]:
    """What a failure means, by its HTTP status: LiteLLM's errors share no base class, but each has a status."""
    status = getattr(error, "status_code", None) or 500
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return EngineBusy
    return EngineRejected if 400 <= status < 500 and status not in _AGAIN else EngineUnavailable


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
