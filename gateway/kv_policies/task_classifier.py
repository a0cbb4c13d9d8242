"""What a chat asks for, from its words: rules and keyword weights in English, Japanese, Spanish and German.

    score(task) = sum of the weights of its keywords in the text, each once, + marks in the writing
                  (sums, code, shouting)
    confidence  = (best - second) / (best + 1), in 0..1

Below `SCORE_MIN` the task is SUPPORT, with confidence 0: most messages to a support bot are, and its
precision can still be lowered. Only the first and the last `EDGE_CHARS` characters are read, so that the time
has a bound. `classify_weights.json` holds the keywords: task -> language -> keyword -> weight. A keyword
matches at a word's start and may go on (`refund` finds "refunds"); one that ends in `$` is a whole word; in
Japanese it matches anywhere. All languages are matched at once, so nothing has to guess the language.

Accuracy: docs/scheduling.md, on messages that the weights were not tuned on (tests/scheduler/test_classify.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from services.contracts.chats import Task

SCORE_MIN = 2
EDGE_CHARS = 250
_WHY_MAX = 5
_LETTERS_MAX = 40  # in one branch of a pattern

Classified = tuple[Task, float, tuple[str, ...]]

# A search for one of a few characters takes a tenth of one for \b, for \w or in any case. So a pattern here begins with
# a character and looks back from it: (?<!\w.) says that a word begins there.
_NO_BRAND = "".join(rf"(?<![A-Z][a-z]{{{letters}}}.)" for letters in range(1, 9))  # itemCount, but not PayPal
_WRITING: tuple[tuple[str, Task, float, re.Pattern[str]], ...] = (
    (
        "a sum",
        Task.MATHS,
        3,
        re.compile(r"[\d=](?:(?<=\d)(?:\s*[-+*/×÷=^]\s*\d|\s?[x×]\s?\d|x\s*[-+=])|(?<==)\s*\d)"),
    ),
    ("a percentage", Task.MATHS, 1, re.compile(r"\d\s?[%％]")),
    ("three numbers", Task.MATHS, 2, re.compile(r"\d\D+\d+\D+\d")),
    (
        "code",
        Task.CODE,
        4,
        re.compile(
            r"[`(E.{};:\-\[](?:(?<=`)|(?<=\w\()\)|(?<=E)rror\b|(?<=\.)(?:js|py|ts|java|go|sh|json|ya?ml)\b"
            r"|(?<=[{};])\n|(?<=:):|(?<=-)>|(?<=\w\[)\w+\])"
        ),
    ),
    (
        "a name in a program",
        Task.CODE,
        3,
        re.compile(rf"[_<A-Z](?:(?<=[a-z0-9]_)[a-z]|(?<=<)/?[a-z]+>|(?<=[a-z][a-z][A-Z]){_NO_BRAND}\w)"),
    ),
    ("a status code", Task.CODE, 2, re.compile(r"[45](?:(?<=4)\d\d|(?<=5)0\d)(?<![\d.,]...)(?![\d.,%€$円])")),
    (
        "letters for names",
        Task.LOGIC,
        3,
        re.compile(r"[A-D](?:(?<!\w.)\b.{1,80}\b[A-D]\b.{1,80}\b[A-D]\b|さん.{1,80}[A-D]さん)"),
    ),
    (
        "shouting",
        Task.COMPLAINT,
        2,
        re.compile(r"[!！?？A-ZÄÖÜÁÉÍÓÚÑ](?:(?<=[!！?？])[!！]|(?<=\w)(?<!\w.)[A-ZÄÖÜÁÉÍÓÚÑ]{4,}\b)"),
    ),
    ("an exclamation", Task.COMPLAINT, 1, re.compile(r"[!！]")),
)
# In lower case: in the languages of letters, and in Japanese.
_WORDING: tuple[tuple[str, Task, float, Callable[[str], object], Callable[[str], object]], ...] = (
    (
        "something to make",
        Task.CREATIVE,
        2,
        re.compile(
            r"\W*(?:please |can you |could you |bitte |kannst du |por favor,? )?(?:write|compose|draft|invent|imagine|"
            r"name|turn|create|suggest|design|describe|escrib|crea|invent|ponle|convierte|redact|imagina|suger|schreib|"
            r"erfinde|dichte|mach|gestalt|formulier|denk|erzähl|cuenta|cuént|tell)"
        ).match,
        re.compile(r"(?:書いて|作って|考えて|つけて|変えて|詠んで|聞かせて)(?:ください|ほしい|くれ|もらえ|$)").search,
    ),
    (
        "a question of fact",
        Task.FACTS,
        2,
        re.compile(
            r"\W*(?:what|when|where|which|who|how (?:many|much|long|big|far|old)|is|are|does|until|qué|cuál|cuándo|"
            r"cuánt|dónde|hasta|a qué|was|wann|wo|welche|wer|wie (?:viel|lange|hoch|groß)|bis wann|ist|gibt)\b"
        ).match,
        re.compile(r"(?:何|いつ|どこ|どの|誰|いくら|どれ|含まれ|付いて|ついて).{0,12}(?:か|は)[。?？]?$").search,
    ),
    (
        "two comparisons",
        Task.LOGIC,
        3,
        re.compile(
            r"than\b.{3,120}\bthan\b|er als\b.{3,120}er als\b"
            r"|m(?:ás|enos)\b.{2,40}\bque\b.{3,120}\bm(?:ás|enos)\b.{2,40}\bque\b"
        ).search,
        re.compile(r"より.{2,60}より").search,
    ),
    (
        "a rule and a question",
        Task.LOGIC,
        2,
        re.compile(
            r"[aejktcn](?<!\w.)(?:(?<=a)lle?|(?<=e)(?:very|ach)|(?<=j)ede[rsn]?|(?<=k)eine?|(?<=t)od[ao]s|(?<=c)ada"
            r"|(?<=n)ing[uú]na?)\b[^.!?]{3,120}[.;:][^?]{3,150}\?"
        ).search,
        re.compile(r"(?:すべて|全て|全員|どの.{1,10}も).{3,100}[。、].{3,150}[?？か]").search,
    ),
    (
        "a condition and a question",
        Task.LOGIC,
        2,
        re.compile(
            r"[iswfuea](?<!\w.)(?:(?<=i)f|(?<=s)i|(?<=w)enn|(?<=f)alls|(?<=u)nless|(?<=e)xcepto?|(?<=s)alvo|(?<=a)ußer)"
            r"\b.{5,200}\?"
        ).search,
        re.compile(r"(?:なければ|ならば|だけ|すべて|全員).{3,200}[?？か]").search,
    ),
)
_JAPANESE = re.compile(r"[\u3041-\u30ff\u4e00-\u9fff]")


def _load() -> tuple[dict[str, dict[Task, float]], re.Pattern[str], re.Pattern[str]]:
    """Keywords with their weights, and the patterns that find those that begin a word, and those anywhere."""
    raw = json.loads(Path(__file__).with_name("task_classifier_weights.json").read_text(encoding="utf-8"))
    weights: dict[str, dict[Task, float]] = {}
    words: list[str] = []
    signs: list[str] = []
    for task, languages in raw.items():
        for language, keywords in languages.items():
            for keyword, weight in keywords.items():
                weights.setdefault(keyword.rstrip("$"), {})[Task(task)] = float(weight)
            (signs if language == "ja" else words).extend(keywords)
    return weights, re.compile(rf"(?<!\w){_any_of(words)}"), re.compile(_any_of(signs))


def _any_of(keywords: list[str]) -> str:
    """Longest first, grouped by first letter: a position costs one look at a letter, not one at each keyword."""
    groups: dict[str, list[str]] = {}
    for keyword in sorted(dict.fromkeys(keywords), key=len, reverse=True):
        rest = re.escape(keyword[1:].rstrip("$")) + (r"(?!\w)" if keyword.endswith("$") else "")
        groups.setdefault(keyword[0], []).append(rest)
    return f"(?=[{re.escape(''.join(sorted(groups)))}]){_branches(sorted(groups.items()))}"


def _branches(groups: list[tuple[str, list[str]]]) -> str:
    """Many first letters are told apart by ranges of them, as in a tree."""
    if len(groups) <= _LETTERS_MAX:
        return "(?:" + "|".join(f"{re.escape(first)}(?:{'|'.join(rest)})" for first, rest in groups) + ")"
    size = -(-len(groups) // 4)
    quarters = [groups[place : place + size] for place in range(0, len(groups), size)]
    ranges = [f"(?=[{re.escape(part[0][0])}-{re.escape(part[-1][0])}]){_branches(part)}" for part in quarters]
    return f"(?:{'|'.join(ranges)})"


_WEIGHTS, _WORDS, _SIGNS = _load()
_NOTHING = dict.fromkeys(Task, 0.0)


def classify(text: str) -> Classified:
    """The task, a confidence in 0..1, and what spoke for it ("refund +1"). Never fails; empty text is SUPPORT."""
    if len(text) > 2 * EDGE_CHARS:
        text = f"{text[:EDGE_CHARS]}\n{text[-EDGE_CHARS:]}"
    scores = _NOTHING.copy()
    found: list[tuple[float, Task, str]] = []
    lower = text.lower()
    japanese = _JAPANESE.search(lower) is not None
    keywords = _WORDS.findall(lower) + (_SIGNS.findall(lower) if japanese else [])
    for keyword in dict.fromkeys(keywords):
        for task, weight in _WEIGHTS[keyword].items():
            scores[task] += weight
            found.append((weight, task, keyword))
    marks = [mark[:3] for mark in _WRITING if mark[3].search(text)]
    marks += [mark[:3] for mark in _WORDING if mark[3](lower) or (japanese and mark[4](lower))]
    for name, task, weight in marks:
        scores[task] += weight
        found.append((weight, task, name))
    best = max(scores, key=scores.__getitem__)
    top = scores.pop(best)
    if top < SCORE_MIN:
        return Task.SUPPORT, 0.0, ()
    why = sorted((weight, word) for weight, task, word in found if task is best)[::-1][:_WHY_MAX]
    return best, (top - max(scores.values())) / (top + 1.0), tuple(f"{word} {weight:+g}" for weight, word in why)
