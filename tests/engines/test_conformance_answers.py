"""Each parameter of Sampling has its effect, on real servers, which the last test of the conformance suite ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import orjson
import pytest

from gateway.json_schemas import enforceable
from services.contracts.chats import Sampling
from services.contracts.engine_kinds import ENGINE_KINDS
from services.engines.base import EngineRejected, Piece

from .kits import Kit, Running, collect, text_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

FRANCE = "What is the capital of France?"
ANSWER = "The capital of France is Paris."
CITY = orjson.dumps(
    {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 20},
            "people": {"type": "integer", "minimum": 0, "maximum": 10**8},
        },
        "required": ["city", "people"],
        "additionalProperties": False,
    }
).decode()


async def _ask(kit: Kit, running: Running, text: str = FRANCE, max_tokens: int = 24, **sampling: Any) -> list[Piece]:
    drawn = Sampling(**{"temperature": 0.0, **sampling})
    return await collect(running.engine, kit.request("sampling", text, max_tokens, sampling=drawn))


def _token(kit: Kit, text: str) -> int:
    [token] = kit.tokenizer.encode(text)
    return token


@pytest.mark.parametrize("cut", [{"top_k": 1}, {"min_p": 1.0}])
async def test_what_leaves_only_the_likeliest_token_is_greedy(kit: Kit, running: Running, cut: dict[str, Any]) -> None:
    pieces = await _ask(kit, running, temperature=2.0, **cut)
    assert text_of(pieces) == ANSWER


async def test_top_k_and_min_p_of_nothing_draw_from_all_tokens(kit: Kit, running: Running) -> None:
    assert text_of(await _ask(kit, running, temperature=2.0)) != ANSWER


async def test_a_bias_forces_a_token_and_another_bans_one(kit: Kit, running: Running) -> None:
    forced = await _ask(kit, running, max_tokens=3, logit_bias=((_token(kit, " sheep"), 100.0),))
    assert text_of(forced) == " sheep sheep sheep"
    banned = await _ask(kit, running, logit_bias=((_token(kit, "The"), -100.0),))
    assert not text_of(banned).startswith("The")


async def test_a_repetition_penalty_changes_what_repeats(kit: Kit, running: Running) -> None:
    text = "Repeat the word sheep twenty times."
    plain = text_of(await _ask(kit, running, text, max_tokens=40))
    assert text_of(await _ask(kit, running, text, max_tokens=40, repetition_penalty=1.8)) != plain


async def test_an_answer_may_not_end_before_its_least_tokens(kit: Kit, running: Running) -> None:
    pieces = await _ask(kit, running, max_tokens=40, min_tokens=20)
    assert text_of(pieces).startswith(ANSWER[:-1])
    last = pieces[-1]
    assert last.completion_tokens == sum(piece.tokens for piece in pieces)
    assert 20 <= (last.completion_tokens or 0) <= 40
    assert last.prompt_tokens == len(kit.request("", FRANCE).prompt)
    assert sum(piece.finish is not None for piece in pieces) == 1
    whole = await _ask(kit, running, max_tokens=12, min_tokens=12)
    assert (whole[-1].completion_tokens, whole[-1].finish) == (12, "length")


async def test_ignored_ends_go_on_to_the_length(kit: Kit, running: Running) -> None:
    pieces = await _ask(kit, running, max_tokens=20, ignore_eos=True)
    assert (pieces[-1].completion_tokens, pieces[-1].finish) == (20, "length")


async def test_a_stop_token_ends_the_answer_and_is_not_part_of_its_text(kit: Kit, running: Running) -> None:
    pieces = await _ask(kit, running, stop_token_ids=(_token(kit, " is"),))
    assert text_of(pieces) == "The capital of France"
    last = pieces[-1]
    assert (last.finish, last.completion_tokens) == ("stop", 5)
    assert last.prompt_tokens == len(kit.request("", FRANCE).prompt)
    assert last.cached_tokens is not None
    assert text_of(await _ask(kit, running)) == ANSWER, "the next chat has its slot to itself"


async def test_every_token_of_the_text_has_its_logprob_in_order(kit: Kit, running: Running) -> None:
    pieces = await _ask(kit, running, top_logprobs=3)
    items = [item for piece in pieces for item in orjson.loads(piece.logprobs or "[]")]
    assert "".join(item["token"] for item in items) == ANSWER
    assert [bytes(item["bytes"]).decode() for item in items] == [item["token"] for item in items]
    for item in items:
        ranked = item["top_logprobs"]
        assert ranked[0] == {name: item[name] for name in ("token", "logprob", "bytes")}, "greedy draws the likeliest"
        assert [other["logprob"] for other in ranked] == sorted((other["logprob"] for other in ranked), reverse=True)
        assert len(ranked) == 3
        assert sum(math.exp(other["logprob"]) for other in ranked) <= 1.001
    assert -3 < sum(item["logprob"] for item in items) < 0


async def test_logprobs_do_not_follow_the_temperature_nor_name_a_stop_sequence(kit: Kit, running: Running) -> None:
    plain = await _ask(kit, running, top_logprobs=0, max_tokens=1)
    hot = await _ask(kit, running, top_logprobs=0, max_tokens=1, temperature=1.5, top_k=1)
    [[one], [other]] = [orjson.loads("".join(piece.logprobs for piece in pieces)) for pieces in (plain, hot)]
    assert one["top_logprobs"] == []
    assert one["token"] == other["token"]
    assert one["logprob"] == pytest.approx(other["logprob"], abs=0.05)


async def test_nobody_pays_for_logprobs_that_were_not_asked_for(kit: Kit, running: Running) -> None:
    assert not any(piece.logprobs for piece in await _ask(kit, running))


async def test_a_schema_is_followed(kit: Kit, running: Running) -> None:
    request = kit.request("schema", FRANCE, max_tokens=80, json_schema=CITY)
    pieces = await collect(running.engine, request)
    answer = orjson.loads(text_of(pieces))
    assert (set(answer), type(answer["people"])) == ({"city", "people"}, int)
    assert pieces[-1].finish == "stop"


NUMBERS: list[tuple[dict[str, Any], Callable[[Decimal], bool]]] = [
    ({"minimum": 0.5, "maximum": 0.75}, lambda value: Decimal("0.5") <= value <= Decimal("0.75")),
    ({"exclusiveMinimum": 0, "maximum": 0.001}, lambda value: 0 < value <= Decimal("0.001")),
    ({"exclusiveMinimum": 2.5, "exclusiveMaximum": 2.75}, lambda value: Decimal("2.5") < value < Decimal("2.75")),
    ({"minimum": -1.5, "exclusiveMaximum": 0}, lambda value: Decimal("-1.5") <= value < 0),
    ({"multipleOf": 0.05, "minimum": 0.1, "maximum": 9}, lambda value: value % Decimal("0.05") == 0 < value <= 9),
    ({"type": "integer", "multipleOf": 7, "minimum": 100, "maximum": 199}, lambda value: value % 7 == 0 < value < 200),
]


@pytest.mark.parametrize(("bounds", "kept"), NUMBERS, ids=lambda case: "".join(case) if isinstance(case, dict) else "")
async def test_numbers_keep_their_bounds(
    kit: Kit, running: Running, bounds: dict[str, Any], kept: Callable[[Decimal], bool]
) -> None:
    schema = enforceable({"type": "number", **bounds}, "s", strict=True)
    hot = Sampling(temperature=3.0)  # so that only the grammar keeps them
    for place in range(4):
        question = kit.request(f"number-{place}", FRANCE, 20, json_schema=orjson.dumps(schema).decode(), sampling=hot)
        answer = text_of(await collect(running.engine, question))
        assert kept(Decimal(answer)), answer


async def test_a_schema_that_cannot_be_compiled_is_refused(kit: Kit, running: Running) -> None:
    schema = orjson.dumps({"type": "string", "pattern": "^(?=a)(b$"}).decode()
    with pytest.raises(EngineRejected):
        await collect(running.engine, kit.request("schema", FRANCE, json_schema=schema))
    assert text_of(await _ask(kit, running)) == ANSWER


@pytest.mark.parametrize("special", [(), ("<|im_start|>",)])
async def test_special_tokens_are_text_only_where_they_are_asked_for(
    kit: Kit, running: Running, special: tuple[str, ...]
) -> None:
    sampling = Sampling(temperature=0.0, logit_bias=((_token(kit, "<|im_start|>"), 100.0),))
    request = kit.request("special", FRANCE, max_tokens=2, sampling=sampling, special=special)
    assert text_of(await collect(running.engine, request)) == "".join(special) * 2
    asked = kit.request("special", FRANCE, max_tokens=24, special=special)
    assert text_of(await collect(running.engine, asked)) == ANSWER, "the token that ends an answer is none of it"


async def test_a_prompts_tokens_have_logprobs_where_the_engine_gives_them(kit: Kit, running: Running) -> None:
    pieces = await _ask(kit, running, top_logprobs=1, prompt_logprobs=True, max_tokens=3)
    given = [piece.prompt_logprobs for piece in pieces]
    if not ENGINE_KINDS[running.facts.engine].prompt_logprobs:
        assert not any(given)
        return
    assert not any(given[1:])
    first, *others = orjson.loads(given[0])
    assert first["logprob"] is None
    prompt = kit.tokenizer.encode(kit.tokenizer.decode([int(token) for token in kit.request("", FRANCE).prompt]))
    assert len(others) == len(prompt) - 1
    assert "".join(item["token"] for item in (first, *others)) == kit.tokenizer.decode(prompt)
    assert all(item["logprob"] <= item["top_logprobs"][0]["logprob"] <= 0 for item in others)
    [drawn, *_] = [item for piece in pieces for item in orjson.loads(piece.logprobs or "[]")]
    longer = kit.request("longer", FRANCE, max_tokens=1, prompt=[*prompt, *kit.tokenizer.encode(drawn["token"])])
    asked = replace(longer, sampling=Sampling(temperature=0.0, top_logprobs=1, prompt_logprobs=True))
    read = orjson.loads((await collect(running.engine, asked))[0].prompt_logprobs)
    assert len(read) == len(prompt) + 1, "a cached prefix has them, too"
    assert (read[-1]["token"], read[-1]["logprob"]) == (drawn["token"], pytest.approx(drawn["logprob"], abs=0.05))
