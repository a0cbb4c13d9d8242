"""What the admin API takes and gives, and the list of its endpoints. Times are Unix seconds, memory is bytes.

All under `/admin/v1`, with `Authorization: Bearer <admin key>`. Roles: viewer < operator < owner.

    GET    /me                                  viewer    Me                who this key is
    GET    /overview                            viewer    Overview          engines, ledger, queues: the memory map

    GET    /tenants                             viewer    Page[Tenant]
    POST   /tenants                             operator  TenantNew -> Tenant (201)
    GET    /tenants/{tenant}                    viewer    Tenant
    PATCH  /tenants/{tenant}                    operator  TenantChange -> Tenant
    DELETE /tenants/{tenant}                    owner     204; running chats finish, keys die at once
    GET    /tenants/{tenant}/keys               viewer    Page[ApiKey]
    POST   /tenants/{tenant}/keys               operator  KeyNew -> ApiKeyShown (201), the only time it is shown
    POST   /tenants/{tenant}/keys/{key}/rotate  operator  KeyRotate -> ApiKeyShown (201); the old one works on a while
    DELETE /tenants/{tenant}/keys/{key}         operator  204; revoked at once

    GET    /bots?tenant=                        viewer    Page[Bot]
    GET    /bots/{tenant}/{bot}                 viewer    Bot
    PUT    /bots/{tenant}/{bot}                 operator  BotConfig -> Bot          creates or replaces
    PATCH  /bots/{tenant}/{bot}                 operator  a part of BotConfig -> Bot (RFC 7396)
    DELETE /bots/{tenant}/{bot}                 operator  204
    PUT    /bots/{tenant}/{bot}/kv              operator  BotKv -> BotKvAnswer      dry_run: changes nothing

    GET    /bots/{tenant}/{bot}/knowledge       viewer    Page[KnowledgeShown]      what was added
    POST   /bots/{tenant}/{bot}/knowledge/documents  operator  DocumentNew -> KnowledgeShown (201)
    POST   /bots/{tenant}/{bot}/knowledge/faq   operator  FaqNew -> KnowledgeShown (201)
    GET    /bots/{tenant}/{bot}/knowledge/search?q=&limit=  viewer  Page[KnowledgeHit]
    DELETE /bots/{tenant}/{bot}/knowledge/{source}  operator  204

    GET    /bots/{tenant}/{bot}/tests           viewer    BotQuestions; ?format=yaml|csv
    PUT    /bots/{tenant}/{bot}/tests           operator  BotQuestions -> BotQuestions   replaces all
    POST   /bots/{tenant}/{bot}/try             operator  TrialNew -> TrialAnswer   changes nothing
    GET    /bots/{tenant}/{bot}/figures?weeks=  viewer    BotFigures
    GET    /bots/{tenant}/{bot}/unanswered?weeks=&format=json|faq|tests  viewer  list[UnansweredGroup]
    GET    /jobs/{job}/report                   viewer    BotTestReport

    GET    /models                              viewer    Page[Model]
    GET    /models/{model}                      viewer    Model
    PUT    /models/{model}/kv                   operator  ModelKv -> ModelKvAnswer  200 dry run or done; 202 a job runs
    POST   /models/{model}/{load|unload|sleep|wake}  operator  -> Job (202)

    GET    /sessions?tenant=&limit=             viewer    Page[Session]
    GET    /sessions/{tenant}/{session}         viewer    Session
    PUT    /sessions/{tenant}/{session}/kv      operator  SessionKv -> SessionKvAnswer   demotes a running session
    DELETE /sessions/{tenant}/{session}         operator  SessionEnded

    GET    /jobs?state=&kind=&limit=            viewer    Page[Job]
    POST   /jobs                                operator  JobNew -> Job (202)   not those of models
    GET    /jobs/{job}                          viewer    Job
    POST   /jobs/{job}/cancel                   operator  -> Job
    POST   /jobs/{job}/retry                    operator  -> Job (202), a new one
    POST   /jobs/{job}/apply                    operator  -> Applied   carries out an autotune job's proposals

    GET    /usage?from=&to=&tenant=&bot=&by=&format=   viewer  UsageReport, or CSV
    GET    /audit?since_s=&until_s=&limit=&format=     viewer  Page[AuditEntry], or CSV
    GET    /scheduler/explain/{chat}            viewer    Explanation; also at /admin/scheduler/explain/{chat}

    GET    /handovers/failed                    viewer    Page[HandoverFailed]
    POST   /handovers/{handover}/resend         operator  202, to the bot's present webhook

    GET    /conversations?tenant=&bot=&filter=&search=&visitor=&before_s=&limit=&format=
                                                viewer    Page[ConversationListed], whole conversations, or CSV
    GET    /conversations/{tenant}/{bot}/{session}          viewer    ConversationRead
    POST   /conversations/{tenant}/{bot}/{session}/reply    operator  PersonReply -> ConversationRead
    POST   /conversations/{tenant}/{bot}/{session}/typing   operator  PersonTyping -> 204
    POST   /conversations/{tenant}/{bot}/{session}/{hand-back|close}  operator  ConversationRead
    DELETE /conversations/{tenant}/{bot}/{session}          operator  204
    DELETE /conversations/{tenant}/{bot}?visitor=           operator  ConversationsDeleted

    GET    /admins                              owner     Page[Admin]
    POST   /admins                              owner     AdminNew -> AdminShown (201)
    DELETE /admins/{admin}                      owner     204

Errors are `{"error": {"message", "type", "param", "code"}}`; with code `job_running` there is `job`, the id of the job
that is in the way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from services.config.schema import (
    Bits,
    BotConfig,
    EngineName,
    KvPolicyConfig,
    LimitsConfig,
    Name,
    Weight,
)
from services.contracts.snapshot import Snapshot
from services.planner.kv_change import KvChangePlan
from services.store.job_args import AutotuneArgs, BotTestArgs, LoadtestArgs, QualityArgs, RollupArgs

Item = TypeVar("Item")
Role = Literal["viewer", "operator", "owner"]
JobKind = Literal[
    "kv_bits", "load", "unload", "sleep", "wake", "quality", "bot_test", "loadtest", "usage_rollup", "autotune"
]
JobState = Literal["queued", "running", "succeeded", "failed", "rolled_back", "cancelled"]
EngineStateName = Literal["starting", "ready", "draining", "asleep", "down"]


class RequestBody(BaseModel):
    """A request's body: an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ResponseBody(BaseModel):
    """A part of an answer."""

    model_config = ConfigDict(frozen=True)


class Page(ResponseBody, Generic[Item]):
    """A list. `more`: there are entries that `limit` left out."""

    items: list[Item]
    more: bool = False


class ErrorBody(ResponseBody):
    """What went wrong."""

    message: Annotated[str, Field(examples=["The model 'tiny' changes its KV bits right now."])]
    type: Annotated[str, Field(examples=["conflict_error"])]
    param: str | None = None
    code: Annotated[str, Field(examples=["job_running"])]
    job: Annotated[str | None, Field(description="The job that is in the way.")] = None
    would_fit: Annotated[list[int] | None, Field(description="KV bits that would fit.")] = None


class Problem(ResponseBody):
    """Every error answer."""

    error: ErrorBody


class Me(ResponseBody):
    """Who the presented key belongs to."""

    name: Annotated[str, Field(examples=["owner"])]
    role: Role


# Tenants and keys


class TenantNew(RequestBody):
    """A new customer."""

    name: Annotated[Name, Field(examples=["acme"])]
    weight: Annotated[Weight, Field(description="Fair share against the other tenants.")] = 1.0
    limits: Annotated[LimitsConfig, Field(examples=[{"requests_per_minute": 60, "chats_max": 8}])] = LimitsConfig()


class TenantChange(RequestBody):
    """What to change. Leave out what stays; null removes a limit."""

    weight: Annotated[Weight | None, Field(examples=[2.0])] = None
    limits: LimitsConfig | None = None


class TenantUse(ResponseBody):
    """What a tenant holds now, and has taken this month."""

    chats_running: int = 0
    chats_waiting: int = 0
    kv_bytes_reserved: int = 0
    tokens_this_month: int = 0


class Tenant(ResponseBody):
    """A customer. `over` names limits that its use is above right now, for example after they were lowered."""

    name: str
    weight: float
    limits: LimitsConfig
    bots: list[str]
    keys: int
    use: TenantUse
    over: list[str] = []


class KeyNew(RequestBody):
    """A key to make."""

    expires_in_s: Annotated[float | None, Field(gt=0, le=10 * 365 * 86400, examples=[86400])] = None


class KeyRotate(RequestBody):
    """How long the old key works beside the new one."""

    overlap_s: Annotated[float, Field(ge=0, le=30 * 86400, examples=[3600])] = 3600.0


class ApiKey(ResponseBody):
    """A tenant's key, without the key itself."""

    id: Annotated[str, Field(examples=["acme-3f9a1c"])]
    tenant: str
    created_s: float
    expires_s: float | None = None


class ApiKeyShown(ApiKey):
    """A key that was just made. `key` is never shown again."""

    key: Annotated[str, Field(examples=["bh-3q2-7wAbCdEfGhIjKlMnOpQrStUvWxYz0123456789AB"])]


# Bots and models


class Bot(ResponseBody):
    """What a tenant calls as `model`."""

    id: Annotated[str, Field(examples=["acme/support"])]
    tenant: str
    name: str
    config: BotConfig


class Quality(ResponseBody):
    """Measured cost of KV bits against the model's own 16-bit cache. `source`: the job or table it comes from."""

    bits: int
    perplexity: float | None = None
    perplexity_change: Annotated[float | None, Field(description="0.03 is 3% worse.")] = None
    kl: float | None = None
    top1_agrees: float | None = None
    source: Annotated[str, Field(examples=["job 01HZX3", "SmolLM2-135M, not this model"])]


class Model(ResponseBody):
    """Weights and the engine that serves them. Sizes are None until the engine was heard of."""

    name: str
    engine: EngineName
    device: Annotated[str, Field(description="What it runs on.", examples=["gpu0"])]
    state: EngineStateName
    heard_s: float | None
    kv_bits: int | None
    kv_bits_live: Annotated[bool, Field(description="KV bits change without a restart, session by session.")] = False
    kv_bits_possible: list[int]
    weight_bytes: int | None = None
    overhead_bytes: int | None = None
    kv_budget_bytes: int | None = None
    kv_bytes_per_token: Annotated[dict[int, int], Field(description="At each precision, running or not.")] = {}
    context_tokens: int
    chats_max: int
    running: int = 0
    waiting: int = 0
    job: Annotated[str | None, Field(description="The job that changes this model now.")] = None
    quality: list[Quality] = []
    bots: list[str] = []


class ModelKv(RequestBody):
    """The KV bits to go to."""

    bits: Annotated[Bits, Field(examples=[4])]
    dry_run: Annotated[bool, Field(description="Only say what it would do.")] = False


@dataclass(frozen=True)
class KvPlan(KvChangePlan):
    """A planned change, with the measured quality before and after."""

    quality_now: Quality | None = None
    quality_new: Quality | None = None


class ModelKvAnswer(ResponseBody):
    """`job`: runs now (202). Without one, `done` says whether it is changed already."""

    model: str
    dry_run: bool
    done: bool
    plan: KvPlan
    job: Job | None = None


class BotKv(RequestBody):
    """A bot's new KV policy, whole, as in the configuration file; or only `bits`, for a fixed precision."""

    policy: Annotated[KvPolicyConfig | None, Field(examples=[{"policy": "auto", "floor": 4, "ceiling": 8}])] = None
    bits: Annotated[Bits | None, Field(examples=[8])] = None
    dry_run: bool = False


class BotKvAnswer(ResponseBody):
    """What the policy is, and what each chat of the bot gets from it on its model as it runs now."""

    bot: str
    dry_run: bool
    done: bool
    before: KvPolicyConfig
    after: KvPolicyConfig
    bits_typical: Annotated[int, Field(description="KV bits of an ordinary chat under the new policy.")]
    bytes_per_token_now: int | None = None
    bytes_per_token_new: int | None = None
    quality_now: Quality | None = None
    quality_new: Quality | None = None
    words: str


# Sessions


class SessionChat(ResponseBody):
    """One chat of a session that waits or runs."""

    chat: str
    state: Literal["waiting", "ready", "running"]
    kv_bits: int | None = None
    kv_bits_floor: int | None = None
    reserved_bytes: int = 0
    tokens_max: int
    since_s: float


class Session(ResponseBody):
    """A conversation that was seen lately."""

    tenant: str
    session: str
    bot: str
    model: str
    last_s: float
    kv_bits: Annotated[int | None, Field(description="Of its last chat.")] = None
    kv_bits_wanted: Annotated[int | None, Field(description="What an operator set for its next chats.")] = None
    reserved_bytes: int = 0
    chats: list[SessionChat] = []


class SessionKv(RequestBody):
    """KV bits for one conversation: a running chat is demoted at once, later chats start with them."""

    bits: Annotated[Bits, Field(examples=[4])]
    dry_run: bool = False


class SessionKvAnswer(ResponseBody):
    """`freed_bytes`: of running chats. `done`: the engine has confirmed, or nothing ran."""

    tenant: str
    session: str
    dry_run: bool
    done: bool
    bits_now: int | None
    bits_new: int
    chats: list[str]
    freed_bytes: int
    quality_new: Quality | None = None
    words: str


class SessionEnded(ResponseBody):
    """Chats of the session that were cancelled."""

    tenant: str
    session: str
    cancelled: list[str]


# Jobs


class Job(ResponseBody):
    """Background work. `progress` is 0 to 1, `words` says what it does now."""

    id: Annotated[str, Field(examples=["job-5f1c0a9b3d"])]
    kind: JobKind
    target: Annotated[str, Field(description="The model, bot or tenant it is about; '' for the host.")]
    args: dict[str, JsonValue]
    state: JobState
    progress: Annotated[float, Field(ge=0, le=1)]
    words: Annotated[str, Field(examples=["restarting with 4 bits"])]
    created_s: float
    started_s: float | None = None
    ended_s: float | None = None
    attempt: int = 0
    by: str = ""
    result: Annotated[
        dict[str, JsonValue] | None,
        Field(
            description="By kind: kv_bits, plan | measured | figures | total "
            "| proposals {bot, before, after, why}, dropped {bot, why}"
        ),
    ] = None
    error: str | None = None
    retry_of: str | None = None


class QualityNew(RequestBody):
    """Measure what KV bits cost a model."""

    kind: Literal["quality"]
    args: Annotated[QualityArgs, Field(examples=[{"model": "smol", "bits": [16, 8, 4]}])]


class LoadtestNew(RequestBody):
    """Test this host under load."""

    kind: Literal["loadtest"]
    args: LoadtestArgs


class RollupNew(RequestBody):
    """Sum a day's usage up."""

    kind: Literal["usage_rollup"]
    args: RollupArgs = RollupArgs()


class AutotuneNew(RequestBody):
    """Propose KV bits."""

    kind: Literal["autotune"]
    args: AutotuneArgs = AutotuneArgs()


class BotTestNew(RequestBody):
    """Run a bot's test set."""

    kind: Literal["bot_test"]
    args: BotTestArgs


JobNew = Annotated[QualityNew | BotTestNew | LoadtestNew | RollupNew | AutotuneNew, Field(discriminator="kind")]


class Applied(ResponseBody):
    """Bots that an autotune job's proposals changed, and those left alone: their policy changed meanwhile, or their
    model does not hold the bits."""

    job: str
    changed: list[str]
    left: list[str]


# Usage, audit, scheduler, admins


class UsageRow(ResponseBody):
    """Sums of one bot on one day (or of what `by` groups). Refusals count by reason."""

    day: Annotated[str | None, Field(examples=["2026-11-24"])] = None
    tenant: str | None = None
    bot: str | None = None
    chats: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: Annotated[int, Field(description="Thoughts, a part of completion_tokens.")] = 0
    kv_byte_seconds: float = 0.0
    queue_seconds: float = 0.0
    overflow_chats: int = 0
    overflow_usd: float = 0.0
    finishes: Annotated[dict[str, int], Field(examples=[{"stop": 12, "length": 3}])] = {}
    refused: Annotated[dict[str, int], Field(examples=[{"deadline": 2, "rate_limit_exceeded": 5}])] = {}


class UsageReport(ResponseBody):
    """Rows, and their sum."""

    from_day: str
    to_day: str
    rows: list[UsageRow]
    total: UsageRow


class AuditEntry(ResponseBody):
    """One change: who, when, before, after."""

    id: Annotated[str, Field(examples=["1764000000000-0"])]
    at_s: float
    who: Annotated[str, Field(examples=["owner"])]
    role: str
    action: Annotated[str, Field(examples=["tenant.change"])]
    target: Annotated[str, Field(examples=["acme"])]
    request: str = ""
    before: Any = None
    after: Any = None


class HostDevice(ResponseBody):
    """A device that models run on, and its memory, if it is known."""

    id: Annotated[str, Field(examples=["gpu0"])]
    total_bytes: int | None = None
    reserve_bytes: int | None = None
    sharing_why: str = ""  # why its engines take turns, where they were to run side by side


class Overview(ResponseBody):
    """The scheduler's last snapshot (None: no scheduler runs) beside what each engine last said of itself."""

    at_s: float
    snapshot: Snapshot | None
    models: list[Model]
    devices: list[HostDevice]


class HandoverFailed(ResponseBody):
    """A handover that could not be delivered. `why` is the receiver's answer."""

    id: Annotated[str, Field(examples=["ho-3f9a1c"])]
    bot: str
    failed_s: float
    why: Annotated[str, Field(examples=["desk.example answered 401"])]
    tries: int


class AdminNew(RequestBody):
    """An admin key to make."""

    name: Annotated[Name, Field(examples=["night-shift"])]
    role: Role


class Admin(ResponseBody):
    """An admin key, without the key itself."""

    id: str
    name: str
    role: Role
    created_s: float


class AdminShown(Admin):
    """An admin key that was just made. `key` is never shown again."""

    key: Annotated[str, Field(examples=["bh-admin-3q2-7wAbCdEfGhIjKlMnOpQrStUvWxYz01234"])]


ModelKvAnswer.model_rebuild()
