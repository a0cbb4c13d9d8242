"""What a load test does, as a YAML file: who comes, how often, what they ask, and what counts as good.

Times are seconds, rates are sessions a second. Every value is checked where it is read; an unknown key, a
value out of range or a missing one is refused with its line.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from services.contracts.chats import Task

EVENTS_MAX = 20_000
DEPTH_MAX = 20
DURATION_S_MAX = 3600.0  # of a test that this host runs on itself

Language = Literal["en", "ja"]
Seconds = Annotated[float, Field(ge=0, le=86_400)]
Rate = Annotated[float, Field(ge=0, le=100_000)]


class Strict(BaseModel):
    """A frozen model that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Poisson(Strict):
    """Open loop: sessions come independently of each other and of the server's answers."""

    kind: Literal["poisson"]
    sessions_per_s: Rate


class Bursty(Strict):
    """Open loop: Poisson at a quiet rate, but at a burst rate for the first `burst_s` of every `every_s`."""

    kind: Literal["bursty"]
    sessions_per_s: Rate
    burst_sessions_per_s: Rate
    burst_s: Annotated[float, Field(gt=0)]
    every_s: Annotated[float, Field(gt=0)]

    @model_validator(mode="after")
    def _burst_within_period(self) -> Self:
        if self.burst_s > self.every_s:
            raise ValueError(f"burst_s ({self.burst_s}) must not exceed every_s ({self.every_s})")
        return self


class Diurnal(Strict):
    """Open loop: Poisson at a rate that is `low` at the start, `high` half a period later: a cosine."""

    kind: Literal["diurnal"]
    low_sessions_per_s: Rate
    high_sessions_per_s: Rate
    period_s: Annotated[float, Field(gt=0)]


class Closed(Strict):
    """Closed loop: this many users, each starting the next session when the last one ended."""

    kind: Literal["closed"]
    users: Annotated[int, Field(ge=1, le=100_000)]


Arrivals = Annotated[Poisson | Bursty | Diurnal | Closed, Field(discriminator="kind")]


class Dialogues(Strict):
    """Support chats of several turns from the corpus.

    `history: server` sends the server's own answers back as history; `corpus` sends the written ones, so that
    prompts are the same on every server.
    """

    kind: Literal["dialogues"]
    languages: tuple[Language, ...] = ("en", "ja")
    tasks: tuple[Task, ...] = tuple(Task)
    turns_max: Annotated[int, Field(ge=1, le=8)] = 8
    history: Literal["server", "corpus"] = "server"


class Questions(Strict):
    """One question a session from the maths and logic set; each answer is checked."""

    kind: Literal["questions"]
    kinds: tuple[Literal["maths", "logic"], ...] = ("maths", "logic")


class Documents(Strict):
    """A long case file of about `characters`, then `turns` questions about it."""

    kind: Literal["documents"]
    characters: Annotated[int, Field(ge=200, le=2_000_000)] = 12_000
    turns: Annotated[int, Field(ge=1, le=8)] = 2
    languages: tuple[Language, ...] = ("en",)


Chats = Annotated[Dialogues | Questions | Documents, Field(discriminator="kind")]


class Abandon(Strict):
    """Share of chats whose user goes away (the connection is cut) after this many pieces of the answer."""

    share: Annotated[float, Field(ge=0, le=1)] = 0.0
    after_pieces: Annotated[int, Field(ge=1)] = 5


class TenantLoad(Strict):
    """One customer's traffic."""

    name: Annotated[str, Field(min_length=1, max_length=80)]
    model: str
    key: SecretStr | None = None
    key_env: str | None = None
    weight: Annotated[float, Field(gt=0)] = 1.0
    system_prompt: str | None = None
    arrivals: Arrivals
    chats: Chats = Dialogues(kind="dialogues")
    think_s_mean: Seconds = 0.0  # exponential, between an answer's end and the next turn
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 64
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    abandon: Abandon = Abandon()

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if self.key is not None and self.key_env is not None:
            raise ValueError("give key or key_env, not both")
        return self

    def api_key(self, environ: Mapping[str, str] = os.environ) -> str | None:
        """The tenant's API key. Raises ValueError when `key_env` names a variable that is not set."""
        if self.key is not None:
            return self.key.get_secret_value()
        if self.key_env is None:
            return None
        if not (value := environ.get(self.key_env)):
            raise ValueError(f"tenant {self.name}: the environment variable {self.key_env} is not set")
        return value


class Targets(Strict):
    """When a chat counts as good. None: not looked at."""

    first_token_s: Seconds | None = 2.0
    inter_token_s: Seconds | None = 0.2  # a chat's mean time between tokens
    stall_s: Seconds | None = None  # the longest silence inside an answer


class Scenario(Strict):
    """A whole load test."""

    name: Annotated[str, Field(min_length=1, max_length=120)]
    url: str = "http://127.0.0.1:8000/v1"
    seed: int = 1
    duration_s: Annotated[float, Field(gt=0, le=86_400 * 7)] = 60.0
    warmup_s: Seconds = 0.0  # chats meant to start before it are recorded but not counted
    drain_s: Seconds = 60.0  # how long running chats may take after the end
    chat_s_max: Annotated[float, Field(gt=0)] = 300.0
    streams_max: Annotated[int, Field(ge=1, le=60_000)] = 10_000
    session_header: str | None = "x-openwebui-chat-id"
    tokenizer: str | None = None  # the model's weights, as in a host's file: texts are checked for lost tokens
    send_task: bool = False  # put the corpus's task class into metadata.task
    targets: Targets = Targets()
    tenants: Annotated[tuple[TenantLoad, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [t.name for t in self.tenants]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"tenant names must differ; given twice: {', '.join(twice)}")
        if self.warmup_s >= self.duration_s:
            raise ValueError(f"warmup_s ({self.warmup_s}) must be below duration_s ({self.duration_s})")
        return self


class BadScenario(ValueError):
    """A scenario that this host does not run. Says what is wrong."""


def _check_events(text: str) -> None:
    """Refuse what makes a short YAML text large or deep. Raises BadScenario, YAMLError."""
    depth = 0
    for number, event in enumerate(yaml.parse(text, yaml.SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if number > EVENTS_MAX or depth > DEPTH_MAX:
            raise BadScenario(f"at most {EVENTS_MAX:,} values and {DEPTH_MAX} levels are supported")
        merges = isinstance(event, yaml.ScalarEvent) and event.value == "<<"
        if merges or getattr(event, "anchor", None) or getattr(event, "tag", None):
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise BadScenario(f"line {line}: aliases, merges and tags are not supported")


def parse_scenario(text: str) -> Scenario:
    """A scenario that the admin API was given, as YAML. Raises BadScenario."""
    try:
        _check_events(text)
        scenario = Scenario.model_validate(yaml.safe_load(text))
    except ValidationError as error:
        first = error.errors()[0]
        raise BadScenario(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a scalar such as 2001-99-99
        raise BadScenario(f"this is not valid YAML: {error}") from error
    if scenario.duration_s + scenario.drain_s > DURATION_S_MAX:
        raise BadScenario(f"duration_s and drain_s are at most {DURATION_S_MAX:.0f} together here")
    if any(tenant.key or tenant.key_env for tenant in scenario.tenants):
        raise BadScenario("key and key_env are not taken here: the host makes keys for the test")
    return scenario
