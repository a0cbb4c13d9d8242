"""Actions in a visitor's conversation: what is done for a message, and what waits for the visitor's yes."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from gateway.actions.loop import Actions, Conduct, Ran
from gateway.actions.results import Result, with_results
from gateway.outcomes import Code, Refused
from gateway.request import ChatRequest
from gateway.state import Gateway
from gateway.submit import Caller, served
from gateway.widget.sites import WidgetSite
from services.store.action_calls import ActionCallStore, WaitingCall
from services.store.conversations import Confirmation, Conversation

TURNS_SEEN = 12  # of the conversation's end, by which actions are decided


@dataclass(frozen=True, slots=True)
class Decided:
    """A visitor's word on a call that waits for it."""

    id: str
    yes: bool

    @property
    def text(self) -> str:
        """As a turn of the conversation."""
        return "Yes, please." if self.yes else "No, thank you."


class WidgetActions:
    """The actions of all widgets' bots. Methods raise QueueUnavailable."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._store = ActionCallStore(gateway.connection)

    async def act(
        self, site: WidgetSite, conversation: Conversation, text: str, caller: Caller, decided: Decided | None
    ) -> Ran:
        """Do what a message asks for, or what its visitor has decided on. Raises Refused."""
        if decided is None and not site.config.actions:
            return Ran()
        bot, _ = served(self._gateway, site.tenant, site.bot)
        if decided is not None:
            call = await self._taken(conversation, decided)
            actions = Actions(self._gateway, caller, bot, Conduct(f"confirmed {decided.id}", asks=True))
            return await actions.confirmed(call.action, call.arguments, decided.yes)
        request = ChatRequest.model_validate({"model": site.bot, "messages": _messages(conversation, text)})
        return await Actions(self._gateway, caller, bot, Conduct(_key(conversation, text), asks=True)).run(request)

    async def ask(self, site: WidgetSite, conversation: Conversation, ran: Ran) -> Confirmation | None:
        """What the visitor is asked now. What was asked before is no longer open."""
        if conversation.confirm is not None:
            await self._store.take(conversation.confirm.id)
        if ran.wanted is None:
            return None
        confirm = Confirmation(id=secrets.token_urlsafe(24), action=ran.wanted.action, text=ran.wanted.text)
        call = WaitingCall(
            bot=site.bot, session=conversation.session, action=ran.wanted.action, arguments=ran.wanted.arguments
        )
        await self._store.wait(confirm.id, call)
        return confirm

    def answered(self, site: WidgetSite, request: ChatRequest, results: Sequence[Result]) -> ChatRequest:
        """A request with what actions found out."""
        if not results:
            return request
        bot, _ = served(self._gateway, site.tenant, site.bot)
        return with_results(request, results, native=self._gateway.prompts.takes_tools(bot))

    async def _taken(self, conversation: Conversation, decided: Decided) -> WaitingCall:
        """The call that waits, which waits no longer. Raises Refused: one word decides, and only on this question."""
        open_here = conversation.confirm is not None and conversation.confirm.id == decided.id
        call = await self._store.waiting(decided.id) if open_here else None
        if (
            call is None
            or (call.bot, call.session) != (conversation.bot, conversation.session)
            or not await self._store.take(decided.id)
        ):
            raise Refused(Code.NOT_FOUND, "There is nothing to confirm any more. Please ask again.")
        return call


def _key(conversation: Conversation, text: str) -> str:
    """The same where the same message comes again at the same place of the conversation."""
    last_s = conversation.turns[-1].at_s if conversation.turns else conversation.began_s
    said = blake2b(text.encode(), digest_size=16).hexdigest()
    return f"widget {conversation.session} {len(conversation.turns)} {last_s} {said}"


def _messages(conversation: Conversation, text: str) -> list[dict[str, str]]:
    said = [
        {"role": "user" if turn.who == "visitor" else "assistant", "content": turn.text}
        for turn in conversation.turns[-TURNS_SEEN:]
        if turn.text
    ]
    return [*said, {"role": "user", "content": text}]
