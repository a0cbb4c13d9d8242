"""The one table of request parameters: what happens to each name that clients of the chat API are known to send.

MAPPED    checked by gateway.request and followed
SPELLING  what a mapped one says, in another API's words: followed where it is understood, else ignored
HINT      ignored: it changes nothing in an answer's content, or asks for what this host does anyway
REFUSED   would change the answer, and this host cannot do it; a value that asks for nothing passes
HOST      understood by engines, and set by the host alone

Any other name is unknown: ignored, logged by name and counted, or refused with `gateway.strict: true`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, get_args

from gateway.outcomes import Code, Refused

NAMES_LOGGED_MAX = 20
NAME_CHARS_MAX = 64
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
EFFORTS = get_args(Effort)


class Handling(StrEnum):
    """What happens to a parameter."""

    MAPPED = "mapped"
    SPELLING = "spelling"
    HINT = "hint"
    REFUSED = "refused"
    HOST = "host"


@dataclass(frozen=True, slots=True)
class Parameter:
    """How one name is handled. `neutral`: values of a refused one that ask for nothing. `instead`: what to use."""

    handling: Handling
    neutral: tuple[object, ...] = ()
    instead: str = ""

    def asks(self, value: object) -> bool:
        """Whether a value of a refused parameter asks for something."""
        return not any(type(value) is type(nothing) and value == nothing for nothing in self.neutral)


Table = Mapping[str, Parameter]


_MAPPED = Parameter(Handling.MAPPED)


def _all(handling: Handling, names: str) -> dict[str, Parameter]:
    return dict.fromkeys(names.split(), _MAPPED if handling is Handling.MAPPED else Parameter(handling))


def _refused(*neutral: object, instead: str = "") -> Parameter:
    return Parameter(Handling.REFUSED, (None, *neutral), instead)


_TOOLS_INSTEAD = "use `tools` and `tool_choice`"
_FORMAT_INSTEAD = "use `response_format`"

BODY: Table = {
    **_all(
        Handling.MAPPED,
        "model messages stream stream_options max_tokens max_completion_tokens temperature top_p seed stop "
        "frequency_penalty presence_penalty metadata chat_id tools tool_choice "
        "parallel_tool_calls response_format chat_template_kwargs top_k min_p repetition_penalty "
        "logit_bias logprobs top_logprobs min_tokens ignore_eos stop_token_ids "
        "reasoning_effort n",
    ),
    **_all(
        Handling.HINT,
        # OpenAI
        "user store service_tier prompt_cache_key prompt_cache_retention prompt_cache_options safety_identifier "
        "verbosity prediction "
        # Open WebUI
        "id session_id background_tasks features filter_ids tool_ids tool_servers skill_ids variables model_item "
        "params parent_id parent_message user_message terminal_id "
        # vLLM, SGLang, llama.cpp
        "request_id add_special_tokens skip_special_tokens spaces_between_special_tokens include_reasoning "
        "separate_reasoning stream_reasoning length_penalty early_stopping timings_per_token "
        "reasoning_format return_progress "
        # LiteLLM, OpenRouter, DeepSeek
        "litellm_call_id litellm_session_id allowed_openai_params drop_params provider transforms usage",
    ),
    # DeepSeek, GLM, Anthropic; OpenRouter
    **_all(Handling.SPELLING, "thinking reasoning"),
    "functions": _refused([], instead=_TOOLS_INSTEAD),
    "function_call": _refused("none", "auto", instead=_TOOLS_INSTEAD),
    # of other APIs, which would change the answer
    "input": _refused(instead="it belongs to /v1/responses; here use `messages`"),
    "instructions": _refused(instead="it belongs to /v1/responses; here use a system message"),
    "max_output_tokens": _refused(instead="it belongs to /v1/responses; here use `max_completion_tokens`"),
    "previous_response_id": _refused(instead="it belongs to /v1/responses; here send all messages"),
    "text": _refused(instead="it belongs to /v1/responses; here use `response_format`"),
    "system": _refused(instead="it belongs to /v1/messages; here use a system message"),
    "stop_sequences": _refused(instead="it belongs to /v1/messages; here use `stop`"),
    "prompt": _refused(instead="it belongs to /v1/completions; here use `messages`"),
    "extra_body": _refused({}, instead="send its members in the body itself"),
    "modalities": _refused(["text"]),
    "audio": _refused(),
    "web_search_options": _refused(),
    "best_of": _refused(1, instead="use `n`"),
    "use_beam_search": _refused(False),
    "prompt_logprobs": _refused(0),
    "echo": _refused(False),
    "suffix": _refused(""),
    "continue_final_message": _refused(False),
    "add_generation_prompt": _refused(True),
    "include_stop_str_in_output": _refused(False),
    "no_stop_trim": _refused(False),
    "return_token_ids": _refused(False),
    "return_tokens_as_token_ids": _refused(False),
    "truncate_prompt_tokens": _refused(),
    "allowed_token_ids": _refused([]),
    "bad_words": _refused([]),
    "stop_regex": _refused([]),
    "logits_processors": _refused([]),
    "documents": _refused([]),
    "chat_template": _refused(),
    "mm_processor_kwargs": _refused({}),
    "media_io_kwargs": _refused({}),
    "guided_json": _refused(instead=_FORMAT_INSTEAD),
    "guided_regex": _refused(),
    "guided_choice": _refused(),
    "guided_grammar": _refused(),
    "structured_outputs": _refused(instead=_FORMAT_INSTEAD),
    "json_schema": _refused(instead=_FORMAT_INSTEAD),
    "grammar": _refused(""),
    "ebnf": _refused(),
    "regex": _refused(),
    "typical_p": _refused(1, 1.0),
    "tfs_z": _refused(1, 1.0),
    "top_a": _refused(0, 0.0),
    "mirostat": _refused(0),
    "dry_multiplier": _refused(0, 0.0),
    "xtc_probability": _refused(0, 0.0),
    **_all(
        Handling.HOST,
        "cache_salt extra_key priority rid custom_params custom_logit_processor lora_path session_params "
        "bootstrap_host bootstrap_port bootstrap_room data_parallel_rank kv_transfer_params vllm_xargs "
        "return_hidden_states return_logprob id_slot cache_prompt kv_bits",
    ),
}
MESSAGE: Table = {
    **_all(Handling.MAPPED, "role content tool_calls tool_call_id reasoning_content refusal"),
    **_all(
        Handling.HINT,
        "name annotations id timestamp cache_control reasoning provider_specific_fields",
    ),
    "function_call": _refused(instead=_TOOLS_INSTEAD),
    "audio": _refused(),
    "prefix": _refused(False),
    "partial": _refused(False),
}
PART: Table = {
    **_all(Handling.MAPPED, "type text"),
    **_all(Handling.HINT, "cache_control annotations citations id prompt_cache_breakpoint"),
}
CALL: Table = {**_all(Handling.MAPPED, "id type function"), **_all(Handling.HINT, "index extra_content")}
CALLED_FUNCTION: Table = _all(Handling.MAPPED, "name arguments")
TOOL: Table = {
    **_all(Handling.MAPPED, "type function"),
    **_all(Handling.HINT, "cache_control defer_loading allowed_callers"),
}
FUNCTION: Table = _all(Handling.MAPPED, "name description parameters strict")
STREAM_OPTIONS: Table = {
    **_all(Handling.MAPPED, "include_usage continuous_usage_stats"),
    **_all(Handling.HINT, "include_obfuscation"),
}


@dataclass(slots=True)
class Sieve:
    """Takes out of one request what is not followed. `unknown` gathers the names that no table has.

    `thinking_tokens_max`: how long the thoughts may be, if the request says.
    """

    strict: bool = False
    unknown: list[str] = field(default_factory=list)
    thinking_tokens_max: int | None = None

    def kept(self, given: Mapping[str, object], table: Table, place: str = "") -> dict[str, object]:
        """The members to be checked and followed. `place` is where `given` stands, as in `messages[0]`.

        Raises Refused for a parameter that this host cannot follow, or that is the host's own.
        """
        found = dict(given)
        for name, value in given.items():
            parameter = table.get(name)
            if parameter is _MAPPED:
                continue
            del found[name]
            if parameter is None:
                self._meet_unknown(_at(place, name))
            elif parameter.handling is Handling.HOST or (
                parameter.handling is Handling.REFUSED and parameter.asks(value)
            ):
                raise _refusal(_at(place, name), parameter)
        return found

    def _meet_unknown(self, name: str) -> None:
        if self.strict:
            raise Refused(Code.UNKNOWN_PARAMETER, f"Unknown parameter: {name}.", param=name)
        if len(self.unknown) < NAMES_LOGGED_MAX:
            self.unknown.append(name[:NAME_CHARS_MAX])


def sifted(body: Mapping[str, object], sieve: Sieve) -> dict[str, object]:
    """A chat request with only what is mapped, messages and parts included. Raises Refused."""
    kept = sieve.kept(body, BODY)
    if "thinking" in body or "reasoning" in body:
        _respell_thoughts(body, kept, sieve)
    if isinstance(messages := kept.get("messages"), list):
        kept["messages"] = [
            _sifted_message(message, sieve, f"messages[{number}]") if isinstance(message, dict) else message
            for number, message in enumerate(messages)
        ]
    if kept.get("tools"):
        kept["tools"] = _sifted_calls(kept["tools"], (TOOL, FUNCTION), sieve, "tools")
    if isinstance(options := kept.get("stream_options"), dict):
        kept["stream_options"] = sieve.kept(options, STREAM_OPTIONS, "stream_options")
    return kept


def _respell_thoughts(body: Mapping[str, object], kept: dict[str, object], sieve: Sieve) -> None:
    """What `thinking` and `reasoning` say, unless the request says it in this API's own words, too."""
    thinking, reasoning = _object_of(body, "thinking"), _object_of(body, "reasoning")
    wanted = {"enabled": True, "disabled": False}.get(str(thinking.get("type")), reasoning.get("enabled"))
    if isinstance(wanted, bool) and kept.get("reasoning_effort") is None:
        kept.setdefault("chat_template_kwargs", {"enable_thinking": wanted})
    if reasoning.get("effort") in EFFORTS:
        kept.setdefault("reasoning_effort", reasoning["effort"])
    most = thinking.get("budget_tokens", reasoning.get("max_tokens"))
    if type(most) is int and most > 0:
        sieve.thinking_tokens_max = most


def _object_of(body: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = body.get(name)
    return value if isinstance(value, dict) else {}


def _sifted_message(message: Mapping[str, object], sieve: Sieve, place: str) -> dict[str, object]:
    kept = sieve.kept(message, MESSAGE, place)
    if isinstance(parts := kept.get("content"), list):
        kept["content"] = [
            sieve.kept(part, PART, f"{place}.content[{number}]") if _is_text(part) else part
            for number, part in enumerate(parts)
        ]
    if kept.get("tool_calls"):
        kept["tool_calls"] = _sifted_calls(kept["tool_calls"], (CALL, CALLED_FUNCTION), sieve, f"{place}.tool_calls")
    return kept


def _sifted_calls(given: object, tables: tuple[Table, Table], sieve: Sieve, place: str) -> object:
    """Tools, or tool calls: objects with a `function` in them."""
    if not isinstance(given, list):
        return given
    found: list[object] = []
    for number, one in enumerate(given):
        if not isinstance(one, dict):
            found.append(one)
            continue
        kept = sieve.kept(one, tables[0], f"{place}[{number}]")
        if isinstance(function := kept.get("function"), dict):
            kept["function"] = sieve.kept(function, tables[1], f"{place}[{number}].function")
        found.append(kept)
    return found


def _is_text(part: object) -> bool:
    """Other parts are refused by their type, whatever else they hold."""
    return isinstance(part, dict) and part.get("type") == "text"


def described(table: Table) -> Callable[[dict[str, Any]], None]:
    """Adds to a model's JSON schema what its fields do not say: refused parameters pass with neutral values, and names
    beside the table are ignored."""
    neutral = {
        name: {"enum": list(parameter.neutral)}
        for name, parameter in table.items()
        if parameter.handling is Handling.REFUSED
    }

    def extend(schema: dict[str, Any]) -> None:
        schema["properties"].update(neutral)
        schema["additionalProperties"] = True

    return extend


def _at(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _refusal(name: str, parameter: Parameter) -> Refused:
    if parameter.handling is Handling.HOST:
        message = f"{name} is set by the host and cannot be set by a client."
    else:
        message = f"{name} is not supported" + (f": {parameter.instead}." if parameter.instead else ".")
    return Refused(Code.UNSUPPORTED_PARAMETER, message, param=name)
