"""One chat: what asks to be admitted, what its worker reads, what it used, and what another provider takes for it.

Times are seconds; `*_s` on a ticket are Unix time, so that a ticket keeps its meaning across processes and restarts.
Memory is bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

TRIAL_SUFFIX = "#test"  # of a bot's name in usage; no bot's own name has a #


class KvBits(IntEnum):
    """Bits that each cached key and value takes."""

    FOUR = 4
    EIGHT = 8
    SIXTEEN = 16


class Task(StrEnum):
    """What a chat asks for. The article's rule follows it: maths and logic at 8 bits, creative at 4."""

    MATHS = "maths"
    LOGIC = "logic"
    CODE = "code"
    FACTS = "facts"
    SUPPORT = "support"
    COMPLAINT = "complaint"
    CREATIVE = "creative"


@dataclass(frozen=True, slots=True)
class Ticket:
    """One chat that asks to be let in. Written by the gateway, read by the scheduler and the worker."""

    chat: str  # unguessable id; also the reply stream's name
    request: str  # x-request-id, for logs
    tenant: str
    bot: str  # "tenant/bot"
    model: str
    session: str  # unique within the tenant
    prompt_tokens: int
    max_tokens: int  # what the answer may grow to
    kv_bits: KvBits  # wanted
    kv_bits_floor: KvBits
    task: Task
    created_s: float
    deadline_s: float  # past it the chat is answered with a 503
    priority: int = 0  # higher goes first within a tenant
    demotable: bool = False  # may be let in, or later lowered, to `kv_bits_floor`
    overflow: bool = False  # the bot allows another provider
    overflow_to: str | None = None  # its name in the configuration
    opening: bool = False  # of a conversation with no answer yet
    sources: tuple[tuple[str, str], ...] = ()  # of what its prompt was given to answer from: title, URL or ""
    missed: bool = False  # nothing was found for it, where the bot answers from what it finds
    choice: int = 0  # which of the answers to one request; only the first is billed for the prompt
    trial: bool = False  # a question of the bot's test set: usage counts it apart

    @property
    def usage_bot(self) -> str:
        """Under which name usage counts the chat."""
        return f"{self.bot}{TRIAL_SUFFIX}" if self.trial else self.bot

    @property
    def tokens_max(self) -> int:
        """Tokens of KV that the chat may come to hold."""
        return self.prompt_tokens + self.max_tokens


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an answer is drawn, checked by the gateway. The names are those of OpenAI's request and of what vLLM and
    SGLang add to it; the defaults change nothing."""

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None  # 31 bits
    stop: Sequence[str] = ()
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    top_k: int | None = None  # None: all tokens
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Sequence[tuple[int, float]] = ()  # token id, -100 to 100
    top_logprobs: int | None = None  # None: no logprobs; 0: those of the drawn tokens alone
    min_tokens: int = 0
    ignore_eos: bool = False
    stop_token_ids: Sequence[int] = ()
    prompt_logprobs: bool = False  # those of the prompt's tokens come before the answer; `top_logprobs` is set


class ToolFormat(StrEnum):
    """How an answer may call tools."""

    NONE = "none"  # it may not
    FAMILY = "family"  # as the model's own chat template spells calls
    CALLS = "calls"  # constrained: a JSON array of {"name", "arguments"}
    CHOICE = "choice"  # constrained: {"tool_calls": [...]} or {"response": text}, for templates without tools


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """What a worker's parser needs to know of one answer, beside its model's family."""

    tools: ToolFormat = ToolFormat.NONE
    parameters: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # tool -> parameter -> JSON type
    thinking: bool = False  # the prompt ends inside the model's thoughts
    thinking_tokens_max: int | None = None  # thoughts that go on are ended there
    json_schema: str = ""  # what the answer must match, as JSON text; "": anything
    whole: bool = False  # nobody reads the answer before its end
    plain: bool = False  # no template rendered the prompt, so all of the answer is content


@dataclass(frozen=True, slots=True)
class Payload:
    """The part of a chat that only its worker reads."""

    prompt: Sequence[int] | str  # token ids, or rendered text where the exact tokenizer is not known
    salt: str
    sampling: Sampling = Sampling()
    adapter: str | None = None
    messages: Sequence[Mapping[str, str]] = ()  # only where the chat may go to another provider
    output: OutputFormat = OutputFormat()


@dataclass(frozen=True, slots=True)
class ChatUsage:
    """What a chat took, settled."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    kv_bits: KvBits
    kv_byte_seconds: float = 0.0
    queue_s: float = 0.0
    first_token_s: float | None = None
    overflow_microusd: int = 0  # what another provider takes for it
    cached_known: bool = True  # False: it ended before its engine said what was cached
    ran_s: float | None = None  # since its worker took it, by a clock that nobody sets; None: not known
    reasoning_tokens: int = 0  # thoughts, which are a part of completion_tokens


@dataclass(frozen=True, slots=True)
class TokenPrice:
    """US dollars for a million tokens."""

    prompt: float = 0.0
    completion: float = 0.0

    def microusd(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Millionths of a dollar."""
        return self.prompt * prompt_tokens + self.completion * completion_tokens
