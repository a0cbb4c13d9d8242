"""Answers of all families, and what their readers shall see of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import orjson

from services.contracts.chats import OutputFormat, ToolFormat
from services.contracts.replies import ContentKind, ReplyEntry
from services.tokenizer.template_family import family_of
from services.worker.parsers import make_parser
from services.worker.parsers.base import Parsed, Parser, call_id
from tests.chat_templates import TEMPLATES

CHAT = "chat-1"
_FAMILIES = {name: family_of(template) for name, template in TEMPLATES.items()}
TYPES = {
    "weather": {"city": "string", "days": "integer", "exact": "boolean", "where": "object", "note": "string"},
    "time": {},
}
FAMILY = OutputFormat(tools=ToolFormat.FAMILY, parameters=TYPES)
INSIDE = OutputFormat(tools=ToolFormat.FAMILY, parameters=TYPES, thinking=True)
CALLS = OutputFormat(tools=ToolFormat.CALLS, parameters=TYPES)
CHOICE = OutputFormat(tools=ToolFormat.CHOICE, parameters=TYPES)
PLAIN = OutputFormat()


@dataclass(frozen=True)
class Seen:
    """What a reader sees. Calls are (name, arguments)."""

    content: str = ""
    calls: Sequence[tuple[str, str]] = ()
    reasoning: str = ""
    called: bool | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Answer:
    """One answer of a model with the named template."""

    template: str
    text: str
    seen: Seen
    output: OutputFormat = FAMILY

    def parser(self, written: str = "") -> Parser:
        return make_parser(_FAMILIES[self.template], self.output, CHAT, written)


def seen(parts: Iterable[Parsed | ReplyEntry], chat: str = CHAT) -> Seen:
    """As a client puts the parts together. The ids of calls and their order are checked."""
    texts = dict.fromkeys(ContentKind, "")
    for part in parts:
        texts[part.content] += part.text
    calls: list[list[str]] = []
    for line in texts[ContentKind.TOOL_CALL].splitlines():
        delta = orjson.loads(line)
        if "name" in delta:
            assert delta == {"index": len(calls), "id": call_id(chat, len(calls)), "name": delta["name"]}
            calls.append([delta["name"], ""])
        else:
            assert set(delta) == {"index", "arguments"}
            assert delta["index"] == len(calls) - 1
            assert delta["arguments"]
            calls[-1][1] += delta["arguments"]
    return Seen(texts[ContentKind.CONTENT], tuple((name, text) for name, text in calls), texts[ContentKind.REASONING])


def raw(parts: Iterable[Parsed]) -> str:
    return "".join(part.text if part.raw is None else part.raw for part in parts)


W = '{"city": "Bonn", "days": 3}'
ANSWERS = [
    # thoughts
    Answer("qwen3", "<think>\nHm.\n</think>\n\nHello", Seen("Hello", reasoning="Hm."), PLAIN),
    Answer("qwen3", "Hello <think>x</think>", Seen("Hello <think>x</think>"), PLAIN),
    Answer("qwen3", "<think>Never\n\nends. <tool_call>", Seen(reasoning="Never\n\nends. <tool_call>")),
    Answer("qwen3", "  <thin", Seen("  <thin")),
    Answer("qwen3", "<think>\n\n</think>\n\n", Seen(), PLAIN),
    Answer("qwq", "So?\n</think>\n\nYes </think>", Seen("Yes </think>", reasoning="So?"), INSIDE),
    Answer("qwq", "\n<think>\nSo?</think>Yes", Seen("Yes", reasoning="So?"), INSIDE),
    Answer("deepseek_r1", "a < b </ c </think>d", Seen("d", reasoning="a < b </ c"), INSIDE),
    Answer("gemma4", "<|channel>thought\nHm<channel|>Hi", Seen("Hi", reasoning="Hm"), PLAIN),
    Answer("mistral_v11", "[THINK]Hm[/THINK]Hi", Seen("Hi", reasoning="Hm"), PLAIN),
    # Hermes
    Answer("qwen2_5", "Hello <b> </tool_call>", Seen("Hello <b> </tool_call>")),
    Answer(
        "qwen2_5",
        f'<tool_call>\n{{"name": "weather", "arguments": {W}}}\n</tool_call>',
        Seen(calls=(("weather", W),), called=True),
    ),
    Answer(
        "qwen3",
        "<think>\nA <tool_call>?\n</think>\n\nI look.\n\n"
        f'<tool_call>\n{{"name": "weather", "arguments": {W}}}\n</tool_call>\n'
        '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>\nDone.',
        Seen("I look.Done.", (("weather", W), ("time", "{}")), "A <tool_call>?", True),
    ),
    Answer(
        "hermes2_pro",
        f'<tool_call>{{"arguments": {W}, "name": "weather"}}</tool_call>',
        Seen(calls=(("weather", W),), called=True),
    ),
    Answer("hermes2_pro", '<tool_call>{"name": "time"}</tool_call>!', Seen("!", (("time", "{}"),), called=True)),
    Answer(
        "qwen2_5",
        '<tool_call>{"name": "weather", "arguments": {"note": "a \\"</tool_call>\\" \\ud83d\\ude00 }] \\\\"}, "x": [1]}'
        "</tool_call>",
        Seen(calls=(("weather", '{"note": "a \\"</tool_call>\\" \\ud83d\\ude00 }] \\\\"}'),), called=True),
    ),
    Answer(
        "qwen2_5",
        '<tool_call>{"name": "weather", "arguments": "{\\"city\\": \\"K\\u00f6ln\\"}"}</tool_call>',
        Seen(calls=(("weather", '{"city": "Köln"}'),), called=True),
    ),
    Answer(
        "qwen2_5",
        '<tool_call>{"name": "weather", "arguments": {"city": "Bo',
        Seen(calls=(("weather", '{"city": "Bo'),), called=False),
    ),
    Answer(
        "qwen2_5",
        '<tool_call>{"name": "weather", "arguments": {"days": [1}</tool_call>Oh.',
        Seen("Oh.", (("weather", '{"days": [1}'),), called=True),
    ),
    Answer(
        "qwen2_5",
        '<tool_call>{"name": "weather", "arguments": {city: Bonn}}</tool_call>',
        Seen(calls=(("weather", "{city: Bonn}"),), called=True),
    ),
    Answer("qwen2_5", '<tool_call>{"nam', Seen('<tool_call>{"nam', called=False)),
    Answer("qwen2_5", '<tool_call>{"name": 5}</tool_call>', Seen('<tool_call>{"name": 5}</tool_call>')),
    Answer("qwen2_5", "<tool_call>\nno JSON\n</tool_call>", Seen("<tool_call>\nno JSON\n</tool_call>")),
    Answer("qwen2_5", '<tool_call>{"a": 1} \n<tool_call>', Seen('<tool_call>{"a": 1} \n<tool_call>')),
    Answer(
        "qwen2_5",
        '<tool_call>{"name": "time", "arguments": {}}\n{"name": "time", "arguments": null}\n</tool_call>',
        Seen(calls=(("time", "{}"), ("time", "null")), called=True),
    ),
    Answer(
        "qwen3",
        f'<tool_call>\n{{"name": "weather", "arguments": {W}}}\n</tool_call>',
        Seen(f'<tool_call>\n{{"name": "weather", "arguments": {W}}}\n</tool_call>'),
        PLAIN,
    ),
    # Llama 3
    Answer("llama3_1", f'{{"name": "weather", "parameters": {W}}}', Seen(calls=(("weather", W),), called=True)),
    Answer(
        "llama3_1",
        f'<|python_tag|>{{"type": "function", "name": "weather", "parameters": {W}}}',
        Seen(calls=(("weather", W),), called=True),
    ),
    Answer(
        "llama3_1",
        f'{{"name": "weather", "parameters": {W}}}; {{"name": "time", "parameters": {{}}}}',
        Seen(calls=(("weather", W), ("time", "{}")), called=True),
    ),
    Answer("llama3_1", '{"name": "Alice", "parameters": {}}', Seen('{"name": "Alice", "parameters": {}}')),
    Answer("llama3_1", '{"city": "Bonn"}', Seen('{"city": "Bonn"}')),
    Answer(
        "llama3_1",
        'See: {"name": "time"} <|python_tag|>{"name": "time", "parameters": {}}',
        Seen('See: {"name": "time"}', (("time", "{}"),), called=True),
    ),
    Answer("llama3_1", "<|python_tag|>print(1)", Seen("<|python_tag|>print(1)")),
    # Mistral
    Answer(
        "mistral_v3",
        f'[TOOL_CALLS] [{{"name": "weather", "arguments": {W}, "id": "a1b2c3d4e"}}, '
        '{"name": "time", "arguments": {}}]',
        Seen(calls=(("weather", W), ("time", "{}")), called=True),
    ),
    Answer("mistral_v3", "[TOOL_CALLS] nothing [", Seen("[TOOL_CALLS] nothing [")),
    Answer(
        "mistral_v11",
        f"I look. [TOOL_CALLS]weather[ARGS]{W}[TOOL_CALLS]time[CALL_ID]a1b2c3d4e[ARGS]{{}}",
        Seen("I look.", (("weather", W), ("time", "{}")), called=True),
    ),
    Answer("mistral_v11", f"[TOOL_CALLS]weather{W}", Seen(calls=(("weather", W),), called=True)),
    # Qwen3-Coder
    Answer(
        "qwen3_coder",
        'I look.\n<tool_call>\n<function=weather>\n<parameter=city>\nBonn "am" Rhein\n\n</parameter>\n'
        '<parameter=days>\n3\n</parameter>\n<parameter=exact>\nTrue\n</parameter>\n<parameter=where>\n{"x": [1]}'
        "\n</parameter>\n<parameter=note>\na </parameter> b\n</parameter>\n</function>\n</tool_call>\n",
        Seen(
            "I look.",
            (
                (
                    "weather",
                    '{"city": "Bonn \\"am\\" Rhein\\n", "days": 3, "exact": true, "where": {"x": [1]}, '
                    '"note": "a </parameter> b"}',
                ),
            ),
            called=True,
        ),
    ),
    Answer(
        "qwen3_coder",
        "<tool_call>\n<function=time>\n</function>\n</tool_call>\n<function=weather>\n<parameter=days>\nmany</parameter>\n"
        "</tool_call>End",
        Seen("End", (("time", "{}"), ("weather", '{"days": "many"}')), called=True),
    ),
    Answer(
        "qwen3_coder",
        "<tool_call>\n<function=weather>\n<parameter=city>\nBo",
        Seen(calls=(("weather", '{"city": "Bo'),), called=False),
    ),
    Answer("qwen3_coder", "<tool_call> {} <function=a b>", Seen("<tool_call> {} <function=a b>")),
    # Gemma
    Answer(
        "gemma4",
        '<|tool_call>call:weather{city:<|"|>Bonn "am" {Rhein}<|"|>,days:3,where:{a:[1,-2.5,true,null],b:{}}}'
        "<tool_call|><|tool_call>call:time{}<tool_call|>",
        Seen(
            calls=(
                ("weather", '{"city":"Bonn \\"am\\" {Rhein}","days":3,"where":{"a":[1,-2.5,true,null],"b":{}}}'),
                ("time", "{}"),
            ),
            called=True,
        ),
    ),
    Answer(
        "gemma4",
        'So: <|tool_call>call:weather{city:New York,note:"a\\"}"}<tool_call|> Done',
        Seen("So:Done", (("weather", '{"city":"New York","note":"a\\"}"}'),), called=True),
    ),
    Answer("gemma4", "<|tool_call>call me", Seen("<|tool_call>call me")),
    Answer("gemma4", '<|tool_call>call:weather{city:<|"|>Bo', Seen(calls=(("weather", '{"city":"Bo'),), called=False)),
    # Harmony
    Answer(
        "gpt_oss",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hello <|x|>",
        Seen("Hello <|x|>", reasoning="Hm."),
    ),
    Answer(
        "gpt_oss",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.weather "
        f"<|constrain|>json<|message|>{W}<|call|>",
        Seen(calls=(("weather", W),), reasoning="Hm.", called=True),
    ),
    Answer(
        "gpt_oss",
        f" to=functions.weather<|channel|>commentary json<|message|>{W}",
        Seen(calls=(("weather", W),), called=True),
    ),
    Answer(
        "gpt_oss",
        "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant to=functions.time<|channel|>commentary"
        "<|message|><|call|>",
        Seen("I look.", (("time", "{}"),), called=True),
    ),
    Answer("gpt_oss", '{"a": 1}', Seen('{"a": 1}')),
    Answer("gpt_oss", "<|start|>oops " + "x" * 600, Seen("<|start|>oops " + "x" * 600)),
    Answer(
        "gpt_oss",
        f"<|channel|>commentary to=functions.weather<|message|>{W}",
        Seen(W),
        PLAIN,
    ),
    # constrained
    Answer(
        "chatml",
        f'[ {{"name": "weather", "arguments": {W}}},\n{{"name": "time", "arguments": {{}}}} ]\n',
        Seen(calls=(("weather", W), ("time", "{}")), called=True),
        CALLS,
    ),
    Answer("chatml", "Hello", Seen("Hello"), CALLS),
    Answer(
        "chatml",
        f'{{"tool_calls": [{{"name": "weather", "arguments": {W}}}]}}',
        Seen(calls=(("weather", W),), called=True),
        CHOICE,
    ),
    Answer(
        "qwen3",
        '{ "response" : "a \\"b\\"\\n\\u00e4 \\ud83d\\ude00 \\ud83d \\u00" }',
        Seen('a "b"\nä 😀 \ufffd \\u00'),
        CHOICE,
    ),
    Answer("chatml", "{no", Seen("{no"), CHOICE),
    Answer("chatml", '{"tool": "a response"}', Seen('{"tool": "a response"}'), CHOICE),
    Answer("chatml", '\n{ "tool_calls": [ ', Seen(), CHOICE),
    Answer("chatml", '\n{ "resp', Seen('\n{ "resp'), CHOICE),
]
