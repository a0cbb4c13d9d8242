"""Actions in a visitor's conversation: what is done for a message, and what waits for the visitor's yes."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from gateway.actions.loop import Actions, Conduct, Ran
from gateway.actions.results import ActionResult, with_results
from gateway.outcomes import Code, Refused
from gateway.request import ChatRequest
from gateway.state import Gateway
from gateway.submit import Caller, served
from gateway.widget.sites import WidgetSite
from services.store.action_calls import ActionCallStore, WaitingCall
from services.store.conversations import Confirmation, Conversation


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
        self,
        site: WidgetSite,
        conversation: Conversation,
        caller: Caller,
        *,
        messages: Sequence[Mapping[str, str]],
        decided: Decided | None,
    ) -> Ran:
        """Do what the last message asks for, or what its visitor has decided on. Raises Refused."""
        if decided is None and not site.config.actions:
            return Ran()
        bot, _ = served(self._gateway, site.tenant, site.bot)
        if decided is not None:
            call = await self._waiting(conversation, decided)
            actions = Actions(self._gateway, caller, bot, Conduct(f"confirmed {decided.id}", asks=True))
            return await actions.confirmed(call.action, call.arguments, decided.yes)
        request = ChatRequest.model_validate({"model": site.bot, "messages": messages})
        conduct = Conduct(_key(conversation, messages[-1]["content"]), asks=True)
        return await Actions(self._gateway, caller, bot, conduct).run(request)

    async def ask(self, site: WidgetSite, conversation: Conversation, ran: Ran) -> Confirmation | None:
        """What the visitor is asked now. What was asked before is no longer open."""
        if conversation.confirm is not None:
            await self._store.drop(conversation.confirm.id)
        if ran.wanted is None:
            return None
        confirm = Confirmation(id=secrets.token_urlsafe(24), action=ran.wanted.action, text=ran.wanted.text)
        call = WaitingCall(
            bot=site.bot, session=conversation.session, action=ran.wanted.action, arguments=ran.wanted.arguments
        )
        await self._store.wait(confirm.id, call)
        return confirm

    def answered(self, site: WidgetSite, request: ChatRequest, results: Sequence[ActionResult]) -> ChatRequest:
        """A request with what actions found out."""
        if not results:
            return request
        bot, _ = served(self._gateway, site.tenant, site.bot)
        return with_results(request, results, native=self._gateway.prompts.takes_tools(bot))

    async def _waiting(self, conversation: Conversation, decided: Decided) -> WaitingCall:
        """The call that waits for this word. It waits until its answer is on its way (`ask`): where that fails, the
        visitor can say it again, and what was done already is not done again. Raises Refused."""
        open_here = conversation.confirm is not None and conversation.confirm.id == decided.id
        call = await self._store.waiting(decided.id) if open_here else None
        if call is None or (call.bot, call.session) != (conversation.bot, conversation.session):
            raise Refused(Code.NOT_FOUND, "There is nothing to confirm any more. Please ask again.")
        return call


def _key(conversation: Conversation, text: str) -> str:
    """The same where the same message comes again at the same place of the conversation."""
    last_s = conversation.turns[-1].at_s if conversation.turns else conversation.began_s
    said = blake2b(text.encode(), digest_size=16).hexdigest()
    return f"widget {conversation.session} {len(conversation.turns)} {last_s} {said}"
