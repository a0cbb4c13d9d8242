"""What each kind of job takes: checked by the admin API, and again by the job that reads it from Redis."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from services.config.schema import Bits, Name

DAY = r"^\d{4}-\d{2}-\d{2}$"


class JobArgs(BaseModel):
    """An unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def stored(self) -> dict[str, JsonValue]:
        """As a job keeps them."""
        return self.model_dump(mode="json")


class KvBitsArgs(JobArgs):
    """The KV bits to go to."""

    bits: Bits


class QualityArgs(JobArgs):
    """Perplexity and KL of a model at several KV bits, on a text of one's own or the bundled set."""

    model: Annotated[Name, Field(examples=["smol"])]
    bits: Annotated[list[Bits], Field(min_length=1, max_length=3)] = [16, 8, 4]
    transcripts: Annotated[str | None, Field(max_length=200_000, description="Text to measure on.")] = None
    tokens_max: Annotated[int, Field(ge=256, le=65536)] = 2048


class BotTestArgs(JobArgs):
    """A run of a bot's test set at several KV bits. `switch`: a model whose chats cannot differ in bits is changed from
    one to the next, and back in the end."""

    bot: Annotated[str, Field(pattern=r"^[a-z0-9._-]{1,63}/[a-z0-9._-]{1,63}$", examples=["acme/support"])]
    bits: Annotated[list[Bits], Field(min_length=1, max_length=3)] = [16, 8, 4]
    switch: bool = False


class LoadtestArgs(JobArgs):
    """A load test of this host by a scenario file."""

    scenario: Annotated[str, Field(min_length=1, max_length=20_000, description="The scenario's YAML.")]


class RollupArgs(JobArgs):
    """Sums of one day, kept for good."""

    day: Annotated[str | None, Field(pattern=DAY, examples=["2026-11-24"])] = None


class AutotuneArgs(JobArgs):
    """Propose KV bits per bot from measured quality and pressure. `apply`: carry the proposals out, too."""

    perplexity_change_max: Annotated[float, Field(gt=0, le=1)] = 0.05
    apply: bool = False
