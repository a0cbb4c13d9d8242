"""JSON schemas that an answer must match, cut to what both engines enforce.

Both compile schemas with llguidance, of two versions, which ignore some keywords, mistake others, and take long over
schemas that explode. So a schema is rebuilt from keywords that both mean the same by: references are replaced by what
they refer to, annotations are dropped, sizes are bounded. A `strict` schema that says more is refused by the keyword's
name; another is loosened, so that answers match as much of it as can be enforced.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import orjson

from gateway.messages import NESTING_MAX, depth_of
from gateway.number_bounds import STEPS_MAX, BrokenBound, number_bounds, steps_of
from gateway.outcomes import Code, Refused
from gateway.patterns import UnsupportedPattern, portable

SCHEMA_BYTES_MAX = 64 * 1024
NODES_MAX = 2_000  # with references replaced
VALUES_MAX = 1_000  # of all enums
OPTIONAL_MAX = 64  # properties of one object that may be left out
ITEMS_MAX = 2_000  # that a list can be made to have
CHARS_MAX = 512  # of all strings whose length is bounded, and of patterns with their repetitions
NUMBERS_MAX = 200  # that have bounds; llguidance gives up at some more
FORMATS = frozenset({"date", "time", "date-time", "uuid"})
ANY_OBJECT: Mapping[str, object] = {"type": "object", "additionalProperties": True}

# What would make fewer answers match, and at least one engine does not enforce.
_UNSUPPORTED = frozenset(
    re.findall(
        r"\S+",
        "not if then else dependentRequired dependentSchemas dependencies patternProperties propertyNames "
        "minProperties maxProperties unevaluatedProperties unevaluatedItems uniqueItems contains minContains "
        "maxContains $dynamicRef $recursiveRef additionalItems",
    )
)
_TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")
_TYPE_BY_KEYWORD = {
    **dict.fromkeys(("properties", "required", "additionalProperties"), "object"),
    **dict.fromkeys(("items", "prefixItems", "minItems", "maxItems"), "array"),
    **dict.fromkeys(("pattern", "minLength", "maxLength"), "string"),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), "number"),
}

Schema = dict[str, object]


@dataclass(slots=True)
class Budget:
    """What schemas that are compiled together have used of their bounds."""

    nodes: int = 0
    values: int = 0
    chars: int = 0
    numbers: int = 0
    steps: int = 0


def enforceable(schema: Mapping[str, object], param: str, *, strict: bool, budget: Budget | None = None) -> Schema:
    """The schema as engines get it. `param` is its name in errors. Raises Refused."""
    if depth_of(schema) > NESTING_MAX:
        raise _refused(param, f"nested more than {NESTING_MAX} levels deep")
    if len(orjson.dumps(schema)) > SCHEMA_BYTES_MAX:
        raise _refused(param, f"larger than {SCHEMA_BYTES_MAX} bytes of JSON")
    return _Rebuilder(schema, param, strict, budget or Budget()).built(schema, param, ())


def _refused(param: str, why: str) -> Refused:
    return Refused(Code.INVALID_VALUE, f"{param}: {why}.", param=param)


class _Loosened(Exception):
    """A part of a schema that is not strict cannot be enforced: anything goes there."""


class _Rebuilder:
    def __init__(self, root: Mapping[str, object], param: str, strict: bool, budget: Budget) -> None:
        self._root = root
        self._param = param
        self._strict = strict
        self._budget = budget

    def built(self, schema: object, place: str, within: tuple[str, ...]) -> Schema:
        """One schema. `within` are the references that led here."""
        self._budget.nodes += 1
        if self._budget.nodes > NODES_MAX:
            raise _refused(self._param, f"more than {NODES_MAX} parts, with references replaced")
        if schema is True:
            return {}
        if not isinstance(schema, dict):
            raise _refused(place, "not a JSON schema")
        try:
            return self._of_keywords(schema, place, within)
        except _Loosened:
            return {}

    def _of_keywords(self, schema: Schema, place: str, within: tuple[str, ...]) -> Schema:
        while "$ref" in schema or "allOf" in schema:
            schema, within = self._without_ref(schema, place, within)
        for keyword in _UNSUPPORTED & schema.keys():
            self._unsupported(f"{place}.{keyword}", "this keyword is not supported")
        if (fixed := next((name for name in ("const", "enum") if name in schema), None)) is not None:
            self._alone(schema, f"{place}.{fixed}")
            return {fixed: (self._value if fixed == "const" else self._enum)(schema[fixed], f"{place}.{fixed}")}
        if (union := next((name for name in ("anyOf", "oneOf") if name in schema), None)) is not None:
            return self._union(schema, union, place, within)
        return self._typed(schema, place, within)

    def _without_ref(self, schema: Schema, place: str, within: tuple[str, ...]) -> tuple[Schema, tuple[str, ...]]:
        """The schema with one $ref or allOf replaced by what it stands for."""
        rest = {name: value for name, value in schema.items() if name not in ("$ref", "allOf")}
        if "$ref" in schema:
            ref = schema["$ref"]
            if not isinstance(ref, str):
                raise _refused(f"{place}.$ref", "not a reference")
            if ref in within:
                raise _refused(f"{place}.$ref", f"{ref} refers to itself; recursive schemas are not supported")
            return {**self._resolved(ref, f"{place}.$ref"), **rest}, (*within, ref)
        parts = schema["allOf"]
        if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
            raise _refused(f"{place}.allOf", "not a list of schemas")
        if len(parts) != 1:
            self._unsupported(f"{place}.allOf", "more than one schema is not supported")
            raise _Loosened
        return {**parts[0], **rest}, within

    def _resolved(self, ref: str, place: str) -> Schema:
        if ref != "#" and not ref.startswith("#/"):
            raise _refused(
                place, f"{ref[:100]!r} is not in this schema; only references that begin with # are followed"
            )
        found: object = self._root
        for step in ref.split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            found = found.get(name) if isinstance(found, dict) else None
        if not isinstance(found, dict):
            raise _refused(place, f"{ref[:100]!r} refers to nothing")
        return found

    def _union(self, schema: Schema, name: str, place: str, within: tuple[str, ...]) -> Schema:
        options = schema[name]
        if not isinstance(options, list) or not options:
            raise _refused(f"{place}.{name}", "not a list of schemas")
        if not self._alone(schema, f"{place}.{name}"):
            return self._typed(schema, place, within)
        return {"anyOf": [self.built(one, f"{place}.{name}[{n}]", within) for n, one in enumerate(options)]}

    def _alone(self, schema: Schema, place: str) -> bool:
        """Whether nothing beside a union, an enum or a constant says more of the same value."""
        beside = next((keyword for keyword in _TYPE_BY_KEYWORD if keyword in schema), None)
        if beside is not None:
            self._unsupported(place, f"it cannot stand beside {beside}")
        return beside is None

    def _typed(self, schema: Schema, place: str, within: tuple[str, ...]) -> Schema:
        named = schema.get("type", next((kind for word, kind in _TYPE_BY_KEYWORD.items() if word in schema), None))
        if named is None:
            return {}
        if isinstance(named, list) and named:
            options = [self._typed({**schema, "type": one}, place, within) for one in named]
            return options[0] if len(options) == 1 else {"anyOf": options}
        if named not in _TYPES:
            raise _refused(f"{place}.type", f"must be one of {', '.join(_TYPES)}")
        if named in ("object", "array"):
            return (self._object if named == "object" else self._array)(schema, place, within)
        if named == "string":
            return self._string(schema, place)
        return self._number(schema, named, place) if named in ("integer", "number") else {"type": named}

    def _object(self, schema: Schema, place: str, within: tuple[str, ...]) -> Schema:
        given, more = schema.get("properties", {}), schema.get("additionalProperties")
        required = schema.get("required", [])
        if not isinstance(given, dict):
            raise _refused(f"{place}.properties", "not an object of schemas")
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise _refused(f"{place}.required", "not a list of names")
        if lacking := [name for name in required if name not in given]:
            self._unsupported(f"{place}.required", f"{lacking[0][:64]!r} is not among the properties")
        properties = {name: self.built(one, f"{place}.properties.{name}", within) for name, one in given.items()}
        needed = [name for name in given if name in required]
        if len(properties) - len(needed) > OPTIONAL_MAX:
            raise _refused(f"{place}.properties", f"more than {OPTIONAL_MAX} properties that are not required")
        if isinstance(more, dict):
            more = self.built(more, f"{place}.additionalProperties", within)
        elif more is None:
            more = not given and "properties" not in schema  # one with properties is closed, as OpenAI's are
        return {"type": "object", "properties": properties, "required": needed, "additionalProperties": more}

    def _array(self, schema: Schema, place: str, within: tuple[str, ...]) -> Schema:
        found: Schema = {"type": "array"}
        first, items = schema.get("prefixItems"), schema.get("items", True)
        if isinstance(items, list):  # before draft 2020-12
            first, items = items, False
        if first is not None:
            if not isinstance(first, list):
                raise _refused(f"{place}.prefixItems", "not a list of schemas")
            found["prefixItems"] = [self.built(one, f"{place}.prefixItems[{n}]", within) for n, one in enumerate(first)]
            length = len(first)
            if (schema.get("minItems"), schema.get("maxItems", length)) != (length, length):
                self._unsupported(f"{place}.prefixItems", "minItems and maxItems must be its length")
            return {**found, "items": False, "minItems": length, "maxItems": length}
        if items is not False:
            found["items"] = self.built(items, f"{place}.items", within)
        else:
            found["maxItems"] = 0
        return found | dict(self._lengths(schema, place, "minItems", "maxItems"))

    def _string(self, schema: Schema, place: str) -> Schema:
        found: Schema = {"type": "string"}
        if (pattern := schema.get("pattern")) is not None:
            try:
                if not isinstance(pattern, str):
                    raise UnsupportedPattern("it must be a string")
                text, chars = portable(pattern)
                if self._takes_chars(chars, f"{place}.pattern"):
                    found["pattern"] = text
            except UnsupportedPattern as error:
                self._unsupported(f"{place}.pattern", str(error))
        if schema.get("format") in FORMATS:
            found["format"] = schema["format"]
        lengths = dict(self._lengths(schema, place, "minLength", "maxLength"))
        if lengths and self._takes_chars(max(lengths.values()), f"{place}.{max(lengths, key=lengths.__getitem__)}"):
            found |= lengths
        return found

    def _takes_chars(self, chars: int, place: str) -> bool:
        if self._budget.chars + chars > CHARS_MAX:
            self._unsupported(place, f"the lengths of strings and patterns add up to more than {CHARS_MAX} characters")
            return False
        self._budget.chars += chars
        return True

    def _lengths(self, schema: Schema, place: str, *names: str) -> Iterator[tuple[str, int]]:
        for name in names:
            value = schema.get(name)
            if value is None:
                continue
            if isinstance(value, float) and value.is_integer():
                value = int(value)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise _refused(f"{place}.{name}", "not a length")
            if value <= ITEMS_MAX:
                yield name, value
            else:
                self._unsupported(f"{place}.{name}", f"lengths above {ITEMS_MAX} are not supported")

    def _number(self, schema: Schema, kind: object, place: str) -> Schema:
        def unsupported(keyword: str, why: str) -> None:
            self._unsupported(f"{place}.{keyword}", why)

        budget = self._budget
        try:
            bounds = number_bounds(schema, kind == "integer", unsupported, STEPS_MAX - budget.steps)
        except BrokenBound as error:
            raise _refused(f"{place}.{error.keyword}", str(error)) from error
        if bounds and budget.numbers >= NUMBERS_MAX:
            unsupported(next(iter(bounds)), f"more than {NUMBERS_MAX} numbers have bounds")
            return {"type": kind}
        budget.numbers += bool(bounds)
        budget.steps += steps_of(bounds["multipleOf"]) or 0 if "multipleOf" in bounds else 0
        return {"type": kind, **bounds}

    def _enum(self, values: object, place: str) -> Sequence[object]:
        if not isinstance(values, list) or not values:
            raise _refused(place, "not a list of values")
        return [self._value(value, place) for value in values]

    def _value(self, value: object, place: str) -> object:
        self._budget.values += 1
        if self._budget.values > VALUES_MAX:
            raise _refused(place, f"more than {VALUES_MAX} values in all enums")
        return value

    def _unsupported(self, place: str, why: str) -> None:
        """Refuses what a strict schema may not say; else it is left out."""
        if self._strict:
            raise Refused(Code.UNSUPPORTED_PARAMETER, f"{place}: {why}.", param=place)
