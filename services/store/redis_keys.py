"""Every Redis key the host uses, named once. `redis.prefix` stands in place of `bh` where the configuration sets it.

key                     type    holds
bh:chat:CHAT            hash    ticket, payload, state, attempt, cancelled, kv_bits, entry (in the ready stream), asked
                                (digest of the question that came with an Idempotency-Key), charge (until it ends),
                                reserved_microusd (of `spent`, where it went to another provider), kv_byte_seconds
                                (held so far), followers (channels of the gateway processes that follow the
                                reply, until it ends)
bh:reply:CHAT           stream  the answer; entry ids are ATTEMPT-PLACE, so a newer attempt fences an older one
bh:wait:TENANT          zset    waiting chats by arrival number
bh:waiting              hash    tenant -> how many of its chats wait
bh:arrivals             string  counter behind the arrival numbers
bh:events               stream  what the scheduler must hear: arrivals, cancellations, settlements
bh:reservations         hash    chat -> reservation: the ledger as Redis keeps it
bh:ready:MODEL          stream  admitted chats; consumer group `workers`. With one for another provider, what of
                                `spent` is kept for it
bh:engines              hash    model -> facts and last report
bh:given_up             set     models and providers that failed for good: nobody starts their workers again
bh:progress             hash    model -> what its engine is doing while it starts, in words
bh:bandwidths           hash    device -> its measured bandwidth; bh:bandwidth-probe:DEVICE during a measurement
bh:mps                  hash    device -> its MPS daemon, or why it has none
bh:lease, bh:fence      string  who schedules, and the number of takeovers
bh:snapshot             string  what the scheduler last saw, for gateways and the dashboard
bh:learned              hash    model -> what the scheduler found out about its engine, for its successor
bh:host                 hash    id of the host whose Redis this is, and its name
bh:registry             hash    version, and the document of tenants, keys and bots
bh:idempotency:T:KEY    string  chat that an Idempotency-Key stands for
bh:usage:DAY:T:BOT      hash    counters for billing
bh:usages               set     names of all the hashes above
bh:rollup               hash    day -> rows, for good: they count once the day's counters are given up
bh:spent:MONTH:T        string  micro-dollars that a tenant's chats cost elsewhere, or may come to
bh:limit:T:...          string  windows of the rate limits
bh:session:T:S          hash    bot, model, last use, KV bits of the last chat, `wanted` by an operator
bh:sessions             zset    "T S" by last use
bh:command:MODEL        hash    the last command to a model's worker, its progress and result
bh:desired              hash    model -> KV bits that were verified, and whether it is to be up
bh:explain:ASK          list    the scheduler's answer to one question, for seconds
bh:audit                stream  every change made through the admin API
bh:actions              stream  every call that a bot's action made
bh:action:call:KEY      string  one call, written down before it is sent
bh:action:waiting:ID    string  a call that waits for its visitor's yes
bh:admins               hash    id -> an admin key's name, role and digest
bh:job:ID               hash    one job; bh:jobs is a zset of them by creation
bh:job-lock:NAME        string  the job that has a model, or another thing, to itself
bh:autotuned            string  KV bits were proposed within the last day
bh:quality              hash    model -> measured cost of its KV bits
bh:widget:talk:S        string  a visitor's conversation with a bot
bh:widget:talks:T/B     zset    sessions of a bot's conversations, by their last change
bh:widget:open          zset    "T/B S" of those that wait for a person or have one, by when that began
bh:widget:events:S      stream  a conversation's turns and states, for the page that follows it
bh:widget:typing:S      string  a person writes there
bh:widget:busy:S        string  the chat that a visitor waits for
bh:widget:read:CHAT     string  somebody reads this answer
bh:widget:once:DIGEST   string  a signed reply from elsewhere that was taken
bh:widget:rate:NAME:MIN string  requests of one bot or visitor in one minute
bh:widget:outbox        zset    handovers to people by when to send; each in bh:widget:letter:ID
bh:widget:failed        zset    handovers that were given up, by when
bh:knowledge:...        hash    sources:T/B and passages:T/B: what was added to a bot's knowledge, by id; versions:
                                bot -> number that grows with each change of it
bh:bot-tests            hash    "T/B" -> a bot's test set; bh:bot-tests:report:JOB and bh:bot-tests:bits:JOB: of one run
bh:dashboard:session:H  string  a sealed login; bh:dashboard:tries:ADDRESS:MIN counts failed ones
bh:celery:...                   Celery's own
"""

from __future__ import annotations

WAITING = "bh:waiting"
ARRIVALS = "bh:arrivals"
EVENTS = "bh:events"
RESERVATIONS = "bh:reservations"
ENGINES = "bh:engines"
GIVEN_UP = "bh:given_up"
PROGRESS = "bh:progress"
BANDWIDTHS = "bh:bandwidths"
MPS = "bh:mps"
LEASE = "bh:lease"
FENCE = "bh:fence"
SNAPSHOT = "bh:snapshot"
LEARNED = "bh:learned"
REGISTRY = "bh:registry"
USAGES = "bh:usages"
ROLLUP = "bh:rollup"
SESSIONS = "bh:sessions"
DESIRED = "bh:desired"
AUDIT = "bh:audit"
ACTIONS = "bh:actions"
ADMINS = "bh:admins"
JOBS = "bh:jobs"
QUALITY = "bh:quality"
AUTOTUNED = "bh:autotuned"
CELERY_PREFIX = "bh:celery:"
CELERY_JOBS = "jobs"  # as Celery names its queue; with the prefix, a list
CELERY_QUEUE = CELERY_PREFIX + CELERY_JOBS  # list: messages that no worker has
CELERY_UNACKED = CELERY_PREFIX + "unacked"  # hash: delivery tag -> message that a worker has
CELERY_UNACKED_INDEX = CELERY_PREFIX + "unacked_index"  # zset: delivery tag -> when it was delivered or renewed

HOST = "bh:host"

GROUP = "workers"

# Channels carry hints. What they tell of is stored; a lost hint costs time, never a token.
REGISTRY_HINTS = "bh:hint:registry"


_prefix = "bh"


def use_prefix(prefix: str) -> None:
    """Begin every key and channel of this process with `prefix`, so that several hosts can share one Redis."""
    module = globals()
    before = f"{_prefix}:"
    for name, value in list(module.items()):
        if name.isupper() and isinstance(value, str) and value.startswith(before):
            module[name] = f"{prefix}:{value.removeprefix(before)}"
    module["_prefix"] = prefix


def reply_channel(process: str) -> str:
    """Channel on which one gateway process hears of the replies that it follows."""
    return f"{_prefix}:hint:replies:{process}"


def chat(chat_id: str) -> str:
    """Hash of one chat."""
    return f"{_prefix}:chat:{chat_id}"


def reply(chat_id: str) -> str:
    """Stream of one chat's answer."""
    return f"{_prefix}:reply:{chat_id}"


def wait(tenant: str) -> str:
    """A tenant's waiting room."""
    return f"{_prefix}:wait:{tenant}"


def ready(model: str) -> str:
    """Stream of a model's admitted chats."""
    return f"{_prefix}:ready:{model}"


def control_channel(model: str) -> str:
    """Channel on which a model's worker hears of cancellations and commands."""
    return f"{_prefix}:control:{model}"


def idempotency(tenant: str, key: str) -> str:
    """Chat behind an Idempotency-Key."""
    return f"{_prefix}:idempotency:{tenant}:{key}"


def usage(day: str, tenant: str, bot: str) -> str:
    """Counters of one bot on one day (UTC, YYYY-MM-DD)."""
    return f"{_prefix}:usage:{day}:{tenant}:{bot}"


def spent(month: str, tenant: str) -> str:
    """What other providers take for the chats that a tenant began in one month (UTC, YYYY-MM), in micro-dollars: a
    chat that runs counts with the most that it may cost."""
    return f"{_prefix}:spent:{month}:{tenant}"


def bandwidth_probe(device: str) -> str:
    """Held while somebody measures a device's bandwidth."""
    return f"{_prefix}:bandwidth-probe:{device}"


def limit(tenant: str, what: str, window: int) -> str:
    """Counter of one rate-limit window."""
    return f"{_prefix}:limit:{tenant}:{what}:{window}"


def session(tenant: str, session_id: str) -> str:
    """A session's KV bits and last use."""
    return f"{_prefix}:session:{tenant}:{session_id}"


def command(model: str) -> str:
    """The last command to a model's worker."""
    return f"{_prefix}:command:{model}"


def explain(ask: str) -> str:
    """Where the scheduler puts the answer to one question."""
    return f"{_prefix}:explain:{ask}"


def job(job_id: str) -> str:
    """One job."""
    return f"{_prefix}:job:{job_id}"


def job_lock(name: str) -> str:
    """The job that has `name` to itself."""
    return f"{_prefix}:job-lock:{name}"


WIDGET_OUTBOX = "bh:widget:outbox"
WIDGET_FAILED = "bh:widget:failed"


def widget_letter(letter_id: str) -> str:
    """A handover to a person, on its way."""
    return f"{_prefix}:widget:letter:{letter_id}"


def widget_talk(session: str) -> str:
    """A visitor's conversation."""
    return f"{_prefix}:widget:talk:{session}"


WIDGET_OPEN = "bh:widget:open"


def widget_talks(bot: str) -> str:
    """Sessions of all conversations of `tenant/bot`."""
    return f"{_prefix}:widget:talks:{bot}"


def widget_events(session: str) -> str:
    """What a page that follows a conversation is shown."""
    return f"{_prefix}:widget:events:{session}"


def widget_typing(session: str) -> str:
    """Whether a person writes."""
    return f"{_prefix}:widget:typing:{session}"


def widget_busy(session: str) -> str:
    """The chat that a visitor waits for."""
    return f"{_prefix}:widget:busy:{session}"


def widget_read(chat_id: str) -> str:
    """Whether somebody reads an answer."""
    return f"{_prefix}:widget:read:{chat_id}"


def widget_once(digest: str) -> str:
    """A signed reply that was taken."""
    return f"{_prefix}:widget:once:{digest}"


def widget_rate(name: str, window: int) -> str:
    """Requests in one minute or, where the name says so, one day."""
    return f"{_prefix}:widget:rate:{name}:{window}"


BOT_TESTS = "bh:bot-tests"


def bot_test_report(job_id: str) -> str:
    """What came of one run of a test set."""
    return f"{_prefix}:bot-tests:report:{job_id}"


def bot_test_bits(job_id: str) -> str:
    """The KV bits that a model had before a run changed them."""
    return f"{_prefix}:bot-tests:bits:{job_id}"


KNOWLEDGE_VERSIONS = "bh:knowledge:versions"


def knowledge_sources(bot: str) -> str:
    """What was added to a bot's knowledge, as lists show it."""
    return f"{_prefix}:knowledge:sources:{bot}"


def knowledge_passages(bot: str) -> str:
    """The passages of what was added to a bot's knowledge."""
    return f"{_prefix}:knowledge:passages:{bot}"


def action_call(key: str) -> str:
    """One call of an action."""
    return f"{_prefix}:action:call:{key}"


def action_waiting(confirmation: str) -> str:
    """A call that waits for a yes."""
    return f"{_prefix}:action:waiting:{confirmation}"


def dashboard_session(digest: str) -> str:
    """A sealed login."""
    return f"{_prefix}:dashboard:session:{digest}"


def dashboard_tries(address: str, minute: int) -> str:
    """Failed logins from one address in one minute."""
    return f"{_prefix}:dashboard:tries:{address}:{minute}"
