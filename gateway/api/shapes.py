"""What the other APIs' request models share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from gateway.outcomes import Code, Refused
from gateway.validation import translated

Model = TypeVar("Model", bound=BaseModel)


class Shape(BaseModel):
    """A part of a request. Members that it does not name are hints here, such as ids and cache marks."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


def checked(model: type[Model], value: object, place: str = "") -> Model:
    """A part of a request that stands at `place`. Raises Refused."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise translated(error, place) from None


def checked_kind(
    kinds: Mapping[str, type[Model]],
    value: Mapping[str, object],
    place: str,
    *,
    default: str | None = None,
    where: str = "",
) -> Model:
    """A part whose `type` says which of `kinds` it is. `where`: words for what takes only those. Raises Refused."""
    kind = value.get("type", default)
    if not isinstance(kind, str) or kind not in kinds:
        raise Refused(
            Code.UNSUPPORTED_PARAMETER,
            f"{place}.type: {str(kind)[:40]!r} is not supported{where}, only {', '.join(kinds)}.",
            param=f"{place}.type",
        )
    return checked(kinds[kind], value, place)


def refuse_mixed(body: Mapping[str, object], path: str, other: Mapping[str, str]) -> None:
    """Raises Refused for a parameter of another API, and says what this one takes."""
    for name, instead in other.items():
        if body.get(name) is not None and (name, body[name]) != ("n", 1):
            raise Refused(
                Code.UNSUPPORTED_PARAMETER, f"{name} belongs to another API: {path} takes {instead}.", param=name
            )
