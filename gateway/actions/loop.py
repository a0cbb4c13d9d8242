"""Between a question and its answer: decide, call, decide again, within bounds. The answer is an ordinary chat then.

A call that changes something is written down before it is sent, under a key that stays the same where the same question
comes again: after a gateway's death it is not made a second time (docs/adr/22-actions-run-in-the-gateway.md).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter

import structlog
from pydantic import JsonValue

from gateway.actions import calls
from gateway.actions.arguments import BadArgument, checked, masked, mentioned
from gateway.actions.catalog import Action, actions_of
from gateway.actions.choice import Decider
from gateway.actions.results import ActionResult, with_results
from gateway.directory import ServedBot
from gateway.knowledge.refusals import refusal_of
from gateway.request import ChatRequest
from gateway.state import Gateway
from gateway.submit import Caller
from services.store.action_calls import ActionCall, ActionCallStore, ActionOutcome
from services.store.audit_log import Note, record_action
from services.store.connection import QueueUnavailable

CALLS_MAX = 3  # for one message
DECISIONS_S_MAX = 30.0  # for one message; each call has a limit of its own

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Conduct:
    """How actions may be used for one message.

    `key`: names the message where it may come again; "": it cannot. `asks`: there is a visitor who can say yes.
    `dry`: calls that change something are decided on, and not made.
    """

    key: str = ""
    asks: bool = False
    dry: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """A call that waits for a yes."""

    action: str
    arguments: dict[str, JsonValue]
    text: str


@dataclass(slots=True)
class Ran:
    """What was called for one message."""

    results: list[ActionResult] = field(default_factory=list)
    wanted: Wanted | None = None


class Actions:
    """The actions of one bot for one message."""

    def __init__(self, gateway: Gateway, caller: Caller, bot: ServedBot, conduct: Conduct) -> None:
        self._gateway = gateway
        self._caller = caller
        self._bot = bot
        self._conduct = conduct
        self._key = conduct.key or secrets.token_hex(16)
        self._store = ActionCallStore(gateway.connection)
        self._actions = [action for action in actions_of(bot.config) if conduct.asks or not action.config.confirms]
        self._ran = Ran()

    async def run(self, request: ChatRequest) -> Ran:
        """Decide and call; nothing for a topic that the bot refuses. Raises Refused, QueueUnavailable."""
        if refusal_of(self._bot.config, request) is not None:
            return self._ran
        try:
            await self._steps(request)
        except TimeoutError:  # of a decision: a call that was sent is never cut short
            log.warning("actions.late", bot=self._bot.id, request=self._caller.request_id)
            if not self._ran.results:
                self._ran.results.append(ActionResult("", {}, ActionOutcome(status="timeout", text=calls.NOT_NOW)))
        return self._ran

    async def confirmed(self, name: str, arguments: dict[str, JsonValue], yes: bool) -> Ran:
        """Make the call that its visitor has decided on, or say that it was not made. Raises QueueUnavailable."""
        action = next((one for one in actions_of(self._bot.config) if one.name == name), None)
        if not yes:
            outcome = ActionOutcome(status="declined", text="All right, nothing was changed.")
            self._ran.results.append(ActionResult(name, arguments, outcome))
        elif action is None:
            outcome = ActionOutcome(status="failed", text=calls.NOT_DONE)
            self._ran.results.append(ActionResult(name, arguments, outcome))
        else:
            await self._perform(action, arguments, 0)
        return self._ran

    async def _steps(self, request: ChatRequest) -> None:
        until_s = asyncio.get_running_loop().time() + DECISIONS_S_MAX
        decider = Decider(self._gateway, self._caller, request.model, until_s)
        native = self._gateway.prompts.takes_tools(self._bot)
        said = [message.text for message in request.messages if message.role == "user"]
        for step in range(CALLS_MAX):
            if await self._repeated(step):
                continue
            open_to = [action for action in self._actions if self._callable(action, said)]
            so_far = with_results(request, self._ran.results, native=native)
            action = await self._chosen(open_to, decider, so_far)
            if action is None or not await self._step(action, decider, so_far, said, step):
                return
            if not native:  # a small model that has seen a result decides for the same again
                return

    async def _chosen(self, open_to: Sequence[Action], decider: Decider, so_far: ChatRequest) -> Action | None:
        """The action to call next. One that is wanted whenever it can be called needs no decision if it is alone."""
        unasked = next((action for action in open_to if action.config.whenever_mentioned), None)
        if not open_to or list(open_to) == [unasked]:
            return unasked
        return await decider.choose(open_to, so_far.messages) or unasked

    async def _repeated(self, step: int) -> bool:
        """Whether this step was taken before, for the same message; its outcome counts."""
        if not self._conduct.key or (call := await self._store.read(self._call_key(step))) is None:
            return False
        outcome = call.outcome or ActionOutcome(status="unknown", text=calls.UNKNOWN)
        self._ran.results.append(ActionResult(call.action, call.arguments, outcome))
        return True

    def _callable(self, action: Action, said: Sequence[str]) -> bool:
        """Whether what the visitor wrote has what it needs, and it was not made with it yet."""
        required = [action.parameters[name] for name in action.required if action.parameters[name].from_message]
        if any(not mentioned(parameter, said) for parameter in required):
            return False
        made = sum(result.action == action.name for result in self._ran.results)
        choices = max((len(mentioned(parameter, said)) for parameter in required), default=1)
        return made < choices

    async def _step(
        self, action: Action, decider: Decider, so_far: ChatRequest, said: Sequence[str], step: int
    ) -> bool:
        """One call. False: it was the last one."""
        arguments: dict[str, JsonValue] = {}
        try:
            arguments = checked(action, await self._arguments(action, decider, so_far, said), said)
        except BadArgument as error:
            self._ran.results.append(ActionResult(action.name, {}, calls.invalid(error)))
            return False
        if any((one.action, one.arguments) == (action.name, arguments) for one in self._ran.results):
            return False
        if action.config.confirms:
            listed = ", ".join(str(value) for value in arguments.values())
            asked = calls.filled(action.config.asks, arguments) if action.config.asks else None
            text = asked or f"Please confirm: {action.config.description} ({listed})"
            self._ran.wanted = Wanted(action.name, arguments, text)
            self._ran.results.append(ActionResult(action.name, arguments, ActionOutcome(status="waits", text=text)))
            return False
        return (await self._perform(action, arguments, step)).status == "ok"

    async def _arguments(
        self, action: Action, decider: Decider, so_far: ChatRequest, said: Sequence[str]
    ) -> dict[str, object]:
        """Those that the visitor's words leave no choice about, and what the model chooses."""
        found: dict[str, object] = {}
        open_names: list[str] = []
        for name, parameter in action.parameters.items():
            matches = mentioned(parameter, said) if parameter.from_message else []
            if len(matches) == 1:
                found[name] = matches[0]
            elif matches or not parameter.from_message:
                open_names.append(name)
        if not open_names:
            return found
        choices = {
            name: mentioned(action.parameters[name], said)
            for name in open_names
            if action.parameters[name].from_message
        }
        chosen = action.with_choices(choices)
        return found | await decider.arguments(chosen, open_names, so_far.messages)

    async def _perform(self, action: Action, arguments: dict[str, JsonValue], step: int) -> ActionOutcome:
        """One call, at most once where it changes something. Raises QueueUnavailable."""
        key, began_s = self._call_key(step), perf_counter()
        changes = action.config.method != "GET"
        if changes and self._conduct.dry:
            self._ran.results.append(ActionResult(action.name, arguments, calls.NOT_MADE))
            return calls.NOT_MADE
        if changes and not await self._store.begin(key, ActionCall(action=action.name, arguments=arguments)):
            await self._repeated(step)
            return self._ran.results[-1].outcome
        outcome = await calls.call(action, arguments, self._gateway.config.action_secrets, key)
        if changes:
            await self._store.finish(key, ActionCall(action=action.name, arguments=arguments, outcome=outcome))
        self._ran.results.append(ActionResult(action.name, arguments, outcome))
        await self._note(action, arguments, outcome, round((perf_counter() - began_s) * 1000, 1))
        return outcome

    async def _note(self, action: Action, arguments: dict[str, JsonValue], outcome: ActionOutcome, ms: float) -> None:
        seen = {"arguments": masked(action, arguments), "status": outcome.status, "ms": ms}
        note = Note(
            self._gateway.clock(),
            self._bot.id,
            "bot",
            "action.call",
            f"{self._bot.id}/{action.name}",
            self._caller.request_id,
            after=seen,
        )
        log.info("actions.called", bot=self._bot.id, action=action.name, status=outcome.status, ms=ms)
        self._gateway.metrics.action_calls.labels(outcome.status).inc()
        try:
            await record_action(self._gateway.connection, note)
        except QueueUnavailable as error:
            log.warning("actions.not_noted", bot=self._bot.id, action=action.name, why=str(error))

    def _call_key(self, step: int) -> str:
        """The same for the same step of the same message of the same bot. It tells the other side nothing."""
        named = f"action {step} of {self._bot.id}: {self._key}"
        return hmac.new(self._gateway.secrets.pepper, named.encode(), hashlib.sha256).hexdigest()[:40]


def uses_actions(bot: ServedBot, request: ChatRequest) -> bool:
    """Whether the host decides on actions for this request: not where its client brings tools of its own."""
    return bool(bot.config.actions) and not request.raws and not request.mentions_tools


async def tried_with_actions(
    gateway: Gateway, caller: Caller, bot: ServedBot, request: ChatRequest
) -> tuple[ChatRequest, Sequence[ActionResult]]:
    """A test's request with what actions found out, and those. Lookups are made; what changes something is not.

    Raises Refused, QueueUnavailable.
    """
    if not uses_actions(bot, request):
        return request, ()
    ran = await Actions(gateway, caller, bot, Conduct(asks=True, dry=True)).run(request)
    return with_results(request, ran.results, native=gateway.prompts.takes_tools(bot)), ran.results


async def answered_with_actions(gateway: Gateway, caller: Caller, tenant: str, request: ChatRequest) -> ChatRequest:
    """A tenant's request with what its bot's actions found out. Those that need a visitor's yes are not used.

    Raises Refused, QueueUnavailable.
    """
    bot = gateway.directory.bot(tenant, request.model)
    if not uses_actions(bot, request):
        return request
    key = caller.idempotency_key
    if key is not None and await gateway.submissions.known(tenant, key):
        return request  # the chat is there: it is joined
    ran = await Actions(gateway, caller, bot, Conduct(f"key {key}" if key else "")).run(request)
    return with_results(request, ran.results, native=gateway.prompts.takes_tools(bot))
