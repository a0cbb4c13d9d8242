"""What pydantic finds wrong with a request, in OpenAI's words."""

from __future__ import annotations

from pydantic import ValidationError

from gateway.outcomes import Code, Refused


def translated(error: ValidationError, place: str = "") -> Refused:
    """OpenAI's words for the most telling of pydantic's findings: of a union's branches, the one that fits furthest.

    `place` is where the checked value stands in the body.
    """
    findings = error.errors(include_url=False, include_context=False)
    first = max(findings, key=lambda finding: (len(finding["loc"]), not finding["type"].endswith("_type")))
    location = [part for part in first["loc"] if not (isinstance(part, str) and _is_no_name(part))]
    param = place + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    param = param.removeprefix(".")
    kind = first["type"]
    if kind == "extra_forbidden":
        return Refused(Code.UNKNOWN_PARAMETER, f"Unknown parameter: {param}.", param=param)
    if kind == "missing":
        return Refused(Code.MISSING_PARAMETER, f"Missing required parameter: {param}.", param=param)
    if location[-1:] == ["type"] and "content" in location:
        return Refused(
            Code.UNSUPPORTED_PARAMETER,
            f"{param}: only parts of type 'text' are supported, no images, audio or files.",
            param=param,
        )
    if location[-1:] == ["role"] and first["input"] == "function":
        return Refused(Code.UNSUPPORTED_PARAMETER, f"{param}: 'function' is not supported; use 'tool'.", param=param)
    return Refused(Code.INVALID_VALUE, f"{param}: {first['msg']} (got {_shown(first['input'])}).", param=param)


def _is_no_name(part: str) -> bool:
    """A union's branch, or a mark that a name itself is wrong."""
    return (
        part in ("str", "[key]")
        or part[:1].isupper()
        or part.startswith(("list[", "literal[", "constrained-", "function-"))
    )


def _shown(value: object) -> str:
    if isinstance(value, list | dict):  # as deep as a client likes
        return "a list" if isinstance(value, list) else "an object"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
