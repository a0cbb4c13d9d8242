"""What the admin API says of visitors' conversations. Times are Unix seconds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from gateway.admin.schemas import RequestBody, ResponseBody
from services.store.conversations import Conversation, ConversationState, ConversationTurn

LAST_CHARS = 160
ConversationFilter = Literal["all", "open", "unanswered", "rated_down", "handed_over"]


class ConversationListed(ResponseBody):
    """A conversation in a list. `unanswered`: the bot did not know, or failed."""

    bot: Annotated[str, Field(examples=["acme/help"])]
    session: str
    at_s: float
    began_s: float
    state: ConversationState
    visitor: str
    visitor_name: str
    contact: str
    language: str
    turns: int
    handed_over: bool
    unanswered: bool
    rated_down: bool
    last_who: Annotated[str, Field(description="Who spoke last.")]
    last: Annotated[str, Field(description="The beginning of what was said last.")]

    @classmethod
    def of(cls, found: Conversation, at_s: float) -> ConversationListed:
        """`at_s`: its last change, or when it began to wait."""
        last = next((turn for turn in reversed(found.turns) if turn.text), None)
        return cls(
            bot=found.bot,
            session=found.session,
            at_s=at_s,
            began_s=found.began_s,
            state=found.state,
            visitor=found.visitor,
            visitor_name=found.visitor_name,
            contact=found.contact,
            language=found.language,
            turns=len(found.turns),
            handed_over=found.handed_over_s is not None,
            unanswered=any(turn.missed or turn.finish == "error" for turn in found.turns),
            rated_down=any(turn.rating == "down" for turn in found.turns),
            last_who=last.who if last else "",
            last=last.text[:LAST_CHARS] if last else "",
        )

    def passes(self, wanted: ConversationFilter) -> bool:
        """Whether a filter lets it through."""
        return {
            "all": True,
            "open": self.state in ("waiting", "person"),
            "unanswered": self.unanswered,
            "rated_down": self.rated_down,
            "handed_over": self.handed_over,
        }[wanted]


class ConversationRead(ConversationListed):
    """A conversation with all that was said. `said` has the last 200 turns."""

    said: list[ConversationTurn]


class PersonReply(RequestBody):
    """What a person writes to a visitor. Without a name it is the admin key's."""

    text: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=4000)]
    name: Annotated[str, StringConstraints(strip_whitespace=True, max_length=60)] = ""


class PersonTyping(RequestBody):
    """Whether a person writes. It counts for six seconds."""

    on: bool


class ConversationsDeleted(ResponseBody):
    """How many conversations were deleted."""

    deleted: int
