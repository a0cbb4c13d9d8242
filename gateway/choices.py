"""Several answers to one request (`n`): as many chats, read as one reply and written as one answer's choices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace

from gateway.answers import ChatCompletions
from gateway.outcomes import Refused
from services.contracts.chats import ChatUsage, Ticket
from services.contracts.replies import Finish, ReplyEnd, ReplyEntry
from services.store.replies import Reader, ReplyHub


class ChoicesReader(Reader):
    """The replies of several chats as one. Entries name their choice; each choice's end is an entry `finish`, and after
    the last one, or one that is an error, comes the end of all."""

    def __init__(self, readers: Sequence[Reader]) -> None:
        self._readers = readers
        super().__init__(readers[0].chat, readers[0].after, submitted=readers[0].submitted)
        self._ends: dict[int, ReplyEnd] = {}
        for reader in readers:
            reader.on_news = self.wake

    @property
    def submitted(self) -> bool:
        """Whether Redis has had the chats."""
        return self._readers[0].submitted

    @submitted.setter
    def submitted(self, value: bool) -> None:
        for reader in self._readers:
            reader.submitted = value

    async def read(self, timeout_s: float) -> list[ReplyEntry]:
        """As Reader.read, over all of them."""
        if not self._woken:
            await self._wait(timeout_s)
        self._woken = False
        found: list[ReplyEntry] = []
        for choice, reader in enumerate(self._readers):
            for entry in reader.taken():
                if entry.end is None:
                    if entry.kind != "queued":
                        found.append(entry._replace(choice=choice))
                elif entry.end.error is not None or entry.end.finish in (Finish.CANCELLED, Finish.ERROR):
                    return [*found, entry]
                else:
                    self._ends[choice] = entry.end
                    found.append(ReplyEntry(entry.id, "finish", choice=choice, finish=entry.end.finish))
        if found and len(self._ends) == len(self._readers):
            found.append(ReplyEntry(found[-1].id, "end", end=self._end()))
        return found

    def _end(self) -> ReplyEnd:
        """Of all. Its usage is their sum, as the first one was served."""
        first = self._ends[0]
        others = [end.usage for choice, end in self._ends.items() if choice and end.usage is not None]
        return replace(first, usage=None if first.usage is None else _sum(first.usage, others))


def _sum(first: ChatUsage, others: Sequence[ChatUsage]) -> ChatUsage:
    """The first one of a prompt is the only one that counts it."""
    return replace(
        first,
        prompt_tokens=first.prompt_tokens + sum(usage.prompt_tokens for usage in others),
        cached_tokens=first.cached_tokens + sum(usage.cached_tokens for usage in others),
        completion_tokens=first.completion_tokens + sum(usage.completion_tokens for usage in others),
        reasoning_tokens=first.reasoning_tokens + sum(usage.reasoning_tokens for usage in others),
    )


def follow(hub: ReplyHub, chats: Sequence[str], after: str, *, fresh: bool = False) -> AbstractContextManager[Reader]:
    """One reader of the replies to one request."""
    return hub.follow(chats[0], after, fresh=fresh) if len(chats) == 1 else _follow_all(hub, chats, after, fresh=fresh)


@contextmanager
def _follow_all(hub: ReplyHub, chats: Sequence[str], after: str, *, fresh: bool) -> Iterator[Reader]:
    with ExitStack() as stack:
        readers = [stack.enter_context(hub.follow(chat, after, fresh=fresh)) for chat in chats]
        together = ChoicesReader(readers)
        stack.callback(together.close)
        yield together


class Choices:
    """`n` chat completions in one. Its events have no ids: no place in one reply says what was read of the others."""

    def __init__(
        self, ticket: Ticket, count: int, *, include_usage: bool = False, continuous_usage: bool = False
    ) -> None:
        self._of = [
            ChatCompletions(ticket, include_usage=include_usage, continuous_usage=continuous_usage, choice=choice)
            for choice in range(count)
        ]
        self._begun: set[int] = set()

    def start(self, entry_id: str) -> bytes:  # noqa: ARG002  (each choice starts at its own first entry)
        """Nothing: each choice starts on its own."""
        return b""

    def entry(self, entry: ReplyEntry) -> bytes:
        """A choice's piece or finish."""
        answer = self._of[entry.choice]
        start = b"" if entry.choice in self._begun else answer.start(entry.id)
        self._begun.add(entry.choice)
        return start + (answer.finish(entry.finish) if entry.finish is not None else answer.entry(entry))

    def tail(self, end: ReplyEnd) -> bytes:
        """Usage of all, [DONE]."""
        return self._of[0].close(end)

    def failed(self, refused: Refused) -> bytes:
        """Of all: one that fails ends the others."""
        return self._of[0].failed(refused)

    def whole(self, entries: Sequence[ReplyEntry], end: ReplyEnd) -> bytes:
        """The object, with a choice for each."""
        choices = []
        for choice, answer in enumerate(self._of):
            of_choice = [entry for entry in entries if entry.choice == choice]
            finish = next(entry.finish for entry in of_choice if entry.finish is not None)
            choices.append(answer.whole_choice(of_choice, finish))
        return self._of[0].completion(choices, end)
