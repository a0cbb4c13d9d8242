"""Schemas of answers: what clients send works, what engines do not enforce is refused by name, and nothing explodes."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import jsonschema_rs
import orjson
import pytest
from pydantic import BaseModel, ConfigDict, Field

from gateway.json_schemas import enforceable
from gateway.outcomes import Refused
from gateway.patterns import UnsupportedPattern, portable
from gateway.request import checked_chat

from .conftest import Host
from .test_bad_input import GOOD, error_of


class Mood(StrEnum):
    """How it went."""

    GOOD = "good"
    BAD = "bad"


class Cat(BaseModel):
    """One of two kinds of animals."""

    kind: Literal["cat"]
    lives: int = Field(ge=1, lt=10)


class Dog(BaseModel):
    """The other."""

    kind: Literal["dog"]
    name: Annotated[str, Field(pattern=r"^[A-Z]\w{1,20}$")]


class Report(BaseModel):
    """What clients' schemas are made of."""

    model_config = ConfigDict(extra="forbid", title="A report", json_schema_extra={"examples": [{}]})

    title: str = Field(description="In few words.", max_length=80)
    mood: Mood = Mood.GOOD
    score: float = Field(ge=0, le=1)
    note: str | None = None
    tags: list[str] = Field(default=[], max_length=5)
    place: tuple[int, int]
    id: UUID
    pets: list[Annotated[Cat | Dog, Field(discriminator="kind")]]
    sizes: dict[str, int] = {}
    anything: Any = None


VALUE = {
    "title": "Fine",
    "mood": "bad",
    "score": 0.5,
    "note": None,
    "tags": ["a"],
    "place": [1, 2],
    "id": "123e4567-e89b-12d3-a456-426614174000",
    "pets": [{"kind": "cat", "lives": 9}, {"kind": "dog", "name": "Rex"}],
    "sizes": {"x": 1},
    "anything": [{"deep": True}],
}


def rebuilt(schema: dict[str, Any], *, strict: bool = True) -> dict[str, Any]:
    return enforceable(schema, "s", strict=strict)


def why_refused(schema: dict[str, Any], *, strict: bool = True) -> tuple[str | None, str]:
    with pytest.raises(Refused) as caught:
        rebuilt(schema, strict=strict)
    return caught.value.param, caught.value.message


def test_a_clients_schema_is_followed() -> None:
    given = Report.model_json_schema()
    assert {"$defs", "title", "examples"} <= given.keys()
    found = rebuilt(given)
    text = orjson.dumps(found).decode()
    assert not any(word in text for word in ("$ref", "$defs", "discriminator", '"default"', "description"))
    assert jsonschema_rs.is_valid(found, VALUE)
    Report.model_validate(VALUE)
    wrong: list[dict[str, Any]] = [
        {"mood": "so so"},
        {"tags": ["a"] * 6},
        {"place": [1]},
        {"place": [1, 2, 3]},
        {"pets": [{"kind": "cat", "lives": 10}]},
        {"pets": [{"kind": "dog", "name": "rex"}]},
        {"sizes": {"x": "y"}},
        {"title": "x" * 81},
        {"score": 1.5},
        {"score": -0.1},
        {"more": 1},
        {"id": 1},
    ]
    for change in wrong:
        assert not jsonschema_rs.is_valid(found, VALUE | change), change
    assert list(found["properties"]) == list(given["properties"])


NARROWER: list[tuple[dict[str, Any], list[object], list[object]]] = [
    ({"type": ["string", "null"]}, ["x", None], [1]),
    ({"type": "object"}, [{}, {"a": [1]}], [[]]),
    ({"type": "object", "properties": {}}, [{}], [{"a": 1}]),
    ({"properties": {"a": {}}, "required": ["a"]}, [{"a": {"b": []}}], [{}, {"b": 1}]),
    ({"oneOf": [{"const": 1}, {"enum": ["a", None]}]}, [1, "a", None], [2]),
    ({"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"type": "integer"}}}, [1], ["1"]),
    ({"$ref": "#/definitions/a~1b", "definitions": {"a/b": {"type": "boolean"}}}, [True], [1]),
    ({"type": "integer", "exclusiveMinimum": 1, "maximum": 3.5}, [2, 3], [1, 4]),
    ({"type": "array", "prefixItems": [{"type": "integer"}], "minItems": 1, "maxItems": 1}, [[1]], [[], [1, 2]]),
    ({"items": {"type": "integer"}, "minItems": 2}, [[1, 2]], [[1], ["a", "b"]]),
    ({"type": "array", "items": False}, [[]], [[1]]),
    ({"type": "string", "pattern": r"^\d{2}-(?:a|b)+?$"}, ["12-ab"], ["12-", "1-a"]),
    ({"type": "string", "pattern": "^a+$", "minLength": 2, "maxLength": 3}, ["aa"], ["a", "aaaa", "bb"]),
    (
        {"type": "object", "properties": {"a": True}, "additionalProperties": {"type": "null"}},
        [{"b": None}],
        [{"b": 1}],
    ),
    ({"title": "T", "default": 1, "x-more": {}}, [1, "a", None], []),
]


@pytest.mark.parametrize(("schema", "good", "bad"), NARROWER)
def test_what_a_schema_means_stays(schema: dict[str, Any], good: list[object], bad: list[object]) -> None:
    found = rebuilt(schema)
    assert [value for value in good if not jsonschema_rs.is_valid(found, value)] == []
    assert [value for value in bad if jsonschema_rs.is_valid(found, value)] == []


_NUMBER: dict[str, Any] = {"type": "number"}
UNSUPPORTED: list[tuple[dict[str, Any], str]] = [
    ({"not": {"type": "string"}}, "s.not"),
    ({"type": "array", "items": {}, "uniqueItems": True}, "s.uniqueItems"),
    (_NUMBER | {"multipleOf": 0.07}, "s.multipleOf"),
    (_NUMBER | {"multipleOf": 12345}, "s.multipleOf"),
    (_NUMBER | {"minimum": 1e300}, "s.minimum"),
    ({"type": "integer", "exclusiveMaximum": -(2**62)}, "s.exclusiveMaximum"),
    ({"properties": {"a": _NUMBER | {"minimum": 2, "maximum": 1}}}, "s.properties.a.maximum"),
    (_NUMBER | {"exclusiveMinimum": 1, "maximum": 1}, "s.maximum"),
    (_NUMBER | {"multipleOf": 10, "minimum": 1, "exclusiveMaximum": 10}, "s.exclusiveMaximum"),
    ({"anyOf": [_NUMBER | {"multipleOf": 4000 + n} for n in range(3)]}, "s.anyOf[2].multipleOf"),
    ({"anyOf": [_NUMBER | {"minimum": n} for n in range(300)]}, "s.anyOf[200].minimum"),
    ({"enum": [0.1, 0.9], "minimum": 0.5}, "s.enum"),
    ({"const": "abc", "maxLength": 2}, "s.const"),
    ({"type": "object", "patternProperties": {"^x": {}}}, "s.patternProperties"),
    ({"type": "object", "minProperties": 1}, "s.minProperties"),
    ({"if": {}, "then": {}}, "s.if"),
    ({"allOf": [{"type": "string"}, {"maxLength": 1}]}, "s.allOf"),
    ({"type": "object", "anyOf": [{"required": ["a"]}], "properties": {"a": {}}}, "s.anyOf"),
    ({"type": "object", "properties": {}, "required": ["a"]}, "s.required"),
    ({"type": "string", "pattern": "abc"}, "s.pattern"),
    ({"type": "string", "pattern": "^(?=a)b$"}, "s.pattern"),
    ({"type": "string", "maxLength": 1000}, "s.maxLength"),
    ({"type": "array", "items": {}, "maxItems": 10**6}, "s.maxItems"),
]


@pytest.mark.parametrize(("schema", "param"), UNSUPPORTED)
def test_what_is_not_enforced_is_refused_or_loosened(schema: dict[str, Any], param: str) -> None:
    where, words = why_refused(schema)
    assert where in (param, "s.then")
    assert words.startswith(str(where))
    rebuilt(schema, strict=False)


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"type": "strin"}, "s.type"),
    ({"type": []}, "s.type"),
    ({"properties": {"a": 1}}, "s.properties.a"),
    ({"properties": []}, "s.properties"),
    ({"required": "a"}, "s.required"),
    ({"anyOf": []}, "s.anyOf"),
    ({"enum": []}, "s.enum"),
    ({"minItems": -1}, "s.minItems"),
    ({"type": "integer", "minimum": "1"}, "s.minimum"),
    ({"type": "number", "maximum": True}, "s.maximum"),
    ({"type": "number", "multipleOf": 0}, "s.multipleOf"),
    ({"$ref": "#/$defs/none"}, "s.$ref"),
    ({"$ref": "https://example.com/schema"}, "s.$ref"),
    ({"$ref": 1}, "s.$ref"),
    ({"allOf": 1}, "s.allOf"),
]


@pytest.mark.parametrize(("schema", "param"), BROKEN)
def test_what_is_no_schema_is_refused(schema: dict[str, Any], param: str) -> None:
    for strict in (True, False):
        assert why_refused(schema, strict=strict)[0] == param


def _nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def _doubling(names: int) -> dict[str, Any]:
    """Each refers twice to the next: 2**names parts."""
    defs: dict[str, Any] = {
        f"d{n}": {"properties": {"a": {"$ref": f"#/$defs/d{n + 1}"}, "b": {"$ref": f"#/$defs/d{n + 1}"}}}
        for n in range(names)
    }
    return {"$ref": "#/$defs/d0", "$defs": defs | {f"d{names}": {"type": "integer"}}}


RECURSIVE = {"$ref": "#/$defs/node", "$defs": {"node": {"properties": {"next": {"$ref": "#/$defs/node"}}}}}
EXPLOSIVE: list[tuple[dict[str, Any], str]] = [
    (_nested(200), "levels deep"),
    (_doubling(40), "more than 2000 parts"),
    (RECURSIVE, "recursive"),
    ({"$ref": "#"}, "recursive"),
    ({"properties": {"a": {"$ref": "#"}}}, "recursive"),
    ({"allOf": [{"$ref": "#"}]}, "recursive"),
    ({"properties": {"a": {"type": "string", "description": "x" * 2**20}}}, "larger than"),
    ({"enum": list(range(2000))}, "more than 1000 values"),
    ({"properties": {f"p{n}": {} for n in range(100)}}, "more than 64 properties"),
    ({"anyOf": [{"properties": {f"p{n}": {}}} for n in range(1500)]}, "more than 2000 parts"),
]


@pytest.mark.parametrize(("schema", "words"), EXPLOSIVE)
def test_a_schema_that_explodes_is_refused_at_once(schema: dict[str, Any], words: str) -> None:
    began_s = time.process_time()
    for strict in (True, False):
        assert words in why_refused(schema, strict=strict)[1]
    assert time.process_time() - began_s < 0.5


async def test_schemas_over_http(host: Host) -> None:
    where = "response_format.json_schema.schema"
    for schema, words in EXPLOSIVE:
        form = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema, "strict": True}}
        answer = await host.ask({**GOOD, "response_format": form})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_value")
        assert words in answer.json()["error"]["message"]
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"not": {}}, "strict": True}}
    error_of(await host.ask({**GOOD, "response_format": form}), 400, "unsupported_parameter", f"{where}.not")
    for bad, param in (
        ({"type": "xml"}, "response_format.type"),
        ({"type": "json_schema"}, "response_format.json_schema"),
        ({"type": "json_schema", "json_schema": {"schema": []}}, "response_format.json_schema.schema"),
        ({"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}, "response_format.json_schema.name"),
    ):
        answer = await host.ask({**GOOD, "response_format": bad})
        assert answer.json()["error"]["param"] == param
    assert host.driver.tickets == []


def test_json_alone() -> None:
    for form in ({"type": "json_object"}, {"type": "json_schema", "json_schema": {"name": "s"}}):
        schema = _answer_schema(form)
        assert jsonschema_rs.is_valid(schema, {"a": [1]})
        assert not jsonschema_rs.is_valid(schema, [1])
    assert checked_chat({**GOOD, "response_format": {"type": "text"}}).answer_schema is None
    llama = {"type": "json_object", "schema": {"type": "object", "properties": {"a": {"type": "null"}}}}
    assert jsonschema_rs.is_valid(_answer_schema(llama), {"a": None})


def _answer_schema(form: dict[str, Any]) -> dict[str, Any]:
    schema = checked_chat({**GOOD, "response_format": form}).answer_schema
    assert schema is not None
    return dict(schema)


@pytest.mark.parametrize(
    ("pattern", "portable_pattern", "chars"),
    [
        (r"^\d{3}-\w+$", r"^[0-9]{3}-[A-Za-z0-9_]+$", 5),
        (r"^.*$", r'^[^"\\\x00-\x1f]*$', 1),
        (r"^[^a-c]\S$", r'^[^a-c"\\\x00-\x1f][^ "\\\x00-\x1f]$', 2),
        (r"^(?:a|b{2,3}?)*\.\s$", r"^(a|b{2,3})*\.[ ]$", 6),
        (r"^[\w.\-\]]{1,}$", r"^[A-Za-z0-9_.\-\]]{1,}$", 1),
        (r"^(a{10}){20}$", r"^(a{10}){20}$", 200),
    ],
)
def test_patterns_in_both_engines_dialect(pattern: str, portable_pattern: str, chars: int) -> None:
    assert portable(pattern) == (portable_pattern, chars)


@pytest.mark.parametrize(
    "pattern",
    ["a", "^a", r"^a\$", "^(?=a)$", r"^(a)\1$", r"^\bx$", "^a{999}$", "^(a$", "^a)$", "^[a$", '^"$', r"^\\$", "^a**$",
     "^{2}$", "^a{x}$", "^" + "a" * 600 + "$", "^\n$", r"^\p{L}$", "^a^b$"],
)  # fmt: skip
def test_patterns_that_are_refused(pattern: str) -> None:
    with pytest.raises(UnsupportedPattern):
        portable(pattern)
