"""Control tokens in what people write: `<|im_end|>` in a message is text, and must not end a turn.

Each is broken by an invisible space, so that the tokenizer takes it for words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

_BREAK = "\u200b"
# What chat templates of the common families spell turns with: a model's own file may call them ordinary tokens.
_COMMON = (
    r"<(?=[|｜][^|｜<>\s]{1,48}[|｜]>|/?s>|(?:start|end)_of_turn>|(?:bos|eos|pad|unk)>|<SYS>>|</SYS>>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_RESULTS|TOOL_CALLS)\]|\|[a-z]{1,48}\|\])"
)


def breaker(control: Iterable[str] = ()) -> Callable[[str], str]:
    """What breaks the common control tokens in a text, and a model's own."""
    common = re.compile(_COMMON)
    own = sorted(word for word in control if len(word) > 1 and not common.match(word))
    # Split after the first character: patterns that begin with few characters are found fast.
    parts = [_COMMON, *(f"{re.escape(word[0])}(?={re.escape(word[1:])})" for word in own)]
    pattern = re.compile("|".join(parts))
    return lambda text: pattern.sub(lambda found: found[0] + _BREAK, text)
