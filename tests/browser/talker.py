"""An engine at the seam that needs no model: it says prepared answers at a speed that its load decides."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace

from services.contracts.chats import KvBits
from services.contracts.devices import CPU
from services.contracts.engines import EngineFacts, EngineReport, EngineState
from services.engines.base import EngineRejected, EngineRequest, KvBitsUnsupported, Piece, Progress

ANSWERS = {
    "return": (
        "Of course. You can send anything back within **60 days**, used or not. Write your order number on "
        "the slip, put it in the box and hand it in at any post office:\n\n- the label is free within the "
        "EU\n- the refund is with you three working days after the parcel is with us\n\nShall I send you a "
        "label?"
    ),
    "deliver": (
        "Parcels leave our workshop every weekday at 15:00. Within Germany they take **1 to 2 days**, in "
        "the rest of the EU 3 to 5. You get a tracking link as soon as it is on its way."
    ),
    "care": (
        "Wash it by hand with warm water and let it dry standing up. Once a month, rub in a little linseed "
        "oil:\n\n1. a teaspoon on a soft cloth\n2. along the grain, both sides\n3. leave it overnight\n\n"
        "Please never put it in the dishwasher."
    ),
    "crack": (
        "I am sorry that it cracked. We repair every piece for free, for as long as you have it. Send us a "
        "photo at the workshop's address and we tell you the same day whether we glue it or turn you a new "
        "one."
    ),
    "返品": (
        "はい、**60日以内**でしたら、ご使用後でも返品いただけます。"
        "納品書に注文番号を書いて箱に入れ、郵便局からお送りください。\n\n- EU域内の送料は当店が負担します\n"
        "- 到着後、3営業日で返金します\n\n返品ラベルをお送りしましょうか？"
    ),
}
DEFAULT = (
    "Thank you for asking. I have looked into it: everything is in order on our side, and the next step is with our "
    "workshop. You will hear from us today. Is there anything else that I can do for you in the meantime?"
)


@dataclass
class Shape:
    """What a prepared engine pretends to be. Bytes and seconds."""

    weight_bytes: int
    overhead_bytes: int
    kv_budget_bytes: int
    kv_bytes_per_token: dict[int, int]
    context_tokens: int
    chats_max: int
    kv_bits: int
    live: bool
    step_s: float  # with one chat
    step_s_per_chat: float = 0.0003
    prefill_tokens_per_s: float = 6000.0
    engine: str = "sglang"


class Talker:
    """One model. Implements services.engines.base.Engine."""

    def __init__(self, model: str, shape: Shape, read: Callable[[Sequence[int]], str], device: str = CPU) -> None:
        """`read` turns token ids to text. `device`: what it says that it runs on."""
        self._model = model
        self._read = read
        self._shape = shape
        self._device = device
        self._bits = KvBits(shape.kv_bits)
        self._random = random.Random(1)
        self._held: dict[str, int] = {}
        self._cached = 0

    def _facts(self) -> EngineFacts:
        shape = self._shape
        per_token = shape.kv_bytes_per_token if shape.live else {int(self._bits): shape.kv_bytes_per_token[self._bits]}
        return EngineFacts(
            model=self._model,
            engine=shape.engine,
            weight_bytes=shape.weight_bytes,
            overhead_bytes=shape.overhead_bytes,
            kv_budget_bytes=shape.kv_budget_bytes,
            kv_bytes_per_token=per_token,
            context_tokens=shape.context_tokens,
            chats_max=shape.chats_max,
            kv_bits=self._bits,
            live_kv_bits=shape.live,
            device=self._device,
        )

    async def start(self, progress: Progress) -> EngineFacts:
        progress("ready")
        return self._facts()

    def _step_s(self) -> float:
        return self._shape.step_s + self._shape.step_s_per_chat * len(self._held)

    async def report(self) -> EngineReport:
        held = sum(self._held.values())
        return EngineReport(
            model=self._model,
            at_s=time.time(),
            state=EngineState.READY,
            kv_used_bytes=held,
            kv_cached_bytes=min(self._cached, max(0, self._shape.kv_budget_bytes - held) // 3),
            running=len(self._held),
            inter_token_s=self._step_s() * self._random.uniform(0.95, 1.06) if self._held else None,
            prefill_tokens_per_s=self._shape.prefill_tokens_per_s,
            step_kv_bytes=held,
        )

    async def stream(self, request: EngineRequest) -> AsyncIterator[Piece]:
        per_token = self._shape.kv_bytes_per_token[int(request.kv_bits)]
        prompt = request.prompt if isinstance(request.prompt, str) else self._read(request.prompt)
        tokens = len(prompt) // 4 if isinstance(request.prompt, str) else len(request.prompt)
        words = self._words(prompt, request.max_tokens)
        self._held[request.chat] = tokens * per_token
        try:
            await asyncio.sleep(tokens / self._shape.prefill_tokens_per_s + self._step_s())
            for word in words:
                yield Piece(text=word, tokens=1)
                self._held[request.chat] = self._held.get(request.chat, 0) + per_token
                await asyncio.sleep(self._step_s())
            finish = "length" if len(words) == request.max_tokens else "stop"
            yield Piece(finish=finish, prompt_tokens=tokens, cached_tokens=tokens // 3, completion_tokens=len(words))
        finally:
            self._cached = min(self._cached + self._held.pop(request.chat, 0) // 4, self._shape.kv_budget_bytes // 6)

    def _words(self, prompt: str, tokens_max: int) -> list[str]:
        asked = prompt.rpartition("user")[2].lower().replace(" ", "")  # ids decode with spaces between them
        answer = next((text for word, text in ANSWERS.items() if word in asked), DEFAULT)
        words = answer.replace(" ", "\0 ").split("\0")
        if "crowd" in asked:  # what the stage's own customers ask: answers of many lengths
            words = words * self._random.randint(1, 12)
        if "endless" in asked:
            words = words * (1 + tokens_max // len(words))
        return words[:tokens_max]

    async def cancel(self, chat: str) -> None:
        self._held.pop(chat, None)

    async def set_kv_bits(self, bits: KvBits, progress: Progress) -> EngineFacts:
        if int(bits) not in self._shape.kv_bytes_per_token:
            raise KvBitsUnsupported(f"{self._model} cannot hold KV at {int(bits)} bits")
        progress(f"restarting with {int(bits)} bits")
        if not self._shape.live:
            await asyncio.sleep(0.5)
        self._bits = bits
        self._shape = replace(self._shape, kv_bits=int(bits))
        return self._facts()

    async def set_chat_kv_bits(self, chat: str, bits: KvBits) -> None:
        if not self._shape.live:
            raise KvBitsUnsupported(f"{self._model} has one precision for all chats")
        per_token = self._shape.kv_bytes_per_token
        self._held[chat] = self._held.get(chat, 0) * per_token[int(bits)] // per_token[int(self._bits)]

    @property
    def can_sleep(self) -> bool:
        return False

    async def sleep(self) -> None:
        raise EngineRejected(f"{self._model} cannot sleep")

    async def wake(self, progress: Progress) -> EngineFacts:
        progress("ready")
        return self._facts()

    async def alive(self) -> bool:
        return True

    async def stop(self) -> None:
        self._held.clear()
