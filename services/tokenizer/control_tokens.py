"""Control tokens in what people write: `<|im_end|>` in a message is text, and must not end a turn.

Each is broken by an invisible space, so that the tokenizer takes it for words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from os.path import commonprefix

_BREAK = "\u200b"
# What chat templates of the common families spell turns with: a model's own file may call them ordinary tokens.
_COMMON = (
    r"<(?=[|｜][^|｜<>\s]{1,48}[|｜]>|/?s>|(?:start|end)_of_turn>|(?:bos|eos|pad|unk)>|<SYS>>|</SYS>>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_RESULTS|TOOL_CALLS)\]|\|[a-z]{1,48}\|\])"
)


def breaker(control: Iterable[str] = ()) -> Callable[[str], str]:
    """What breaks the common control tokens in a text, and a model's own: 10 ms for the worst 200,000 characters,
    however many tokens there are."""
    common = re.compile(_COMMON)
    own = sorted({word for word in control if len(word) > 1 and not common.match(word)})
    firsts = groupby(own, key=lambda word: word[0])
    parts = [f"{re.escape(first)}(?={_any_of([word[1:] for word in words])})" for first, words in firsts]
    pattern = re.compile("|".join([_COMMON, *parts]))
    return lambda text: pattern.sub(lambda found: found[0] + _BREAK, text)


def _any_of(words: Sequence[str]) -> str:
    """A pattern for the shortest of sorted `words` that a text goes on with. Alternatives begin with different
    characters: a thousand words are not tried one after another at each place."""
    prefix = commonprefix(words)  # noqa: RUF071  (character by character it shall be)
    if prefix in words:
        return re.escape(prefix)
    by_next = groupby((word[len(prefix) :] for word in words), key=lambda rest: rest[0])
    return f"{re.escape(prefix)}(?:{'|'.join(_any_of(list(rests)) for _, rests in by_next)})"
