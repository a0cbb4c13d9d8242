"""`response_format`: JSON, or JSON that matches a schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from gateway.json_schemas import ANY_OBJECT, enforceable
from gateway.outcomes import Code, Refused


class JsonSchema(BaseModel):
    """A schema with a name. One that is not `strict` is followed as far as engines can."""

    model_config = ConfigDict(extra="ignore", strict=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = None
    description: str | None = None
    schema_: Annotated[dict[str, object] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """What an answer must be. `schema` beside json_object is how llama.cpp's clients write it."""

    model_config = ConfigDict(extra="ignore", strict=True)

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    schema_: Annotated[dict[str, object] | None, Field(alias="schema")] = None


def schema_of(wanted: ResponseFormat | None) -> Mapping[str, object] | None:
    """What the answer must match, as engines get it; None: anything. Raises Refused."""
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        if wanted.schema_ is None:
            return ANY_OBJECT
        return enforceable(wanted.schema_, "response_format.schema", strict=False)
    if wanted.json_schema is None:
        raise Refused(
            Code.MISSING_PARAMETER,
            "Missing required parameter: response_format.json_schema.",
            param="response_format.json_schema",
        )
    given = wanted.json_schema
    param = "response_format.json_schema.schema"
    return ANY_OBJECT if given.schema_ is None else enforceable(given.schema_, param, strict=bool(given.strict))
