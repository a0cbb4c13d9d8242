"""A bot's actions: HTTP calls that the host makes for it (gateway/actions)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from services.config.urls import check_reachable, endpoint, unusable

ACTIONS_MAX = 16
PARAMETERS_MAX = 16  # of one action
PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_.]{0,63})\}")
HOST_HEADERS = frozenset({"host", "content-length", "content-type", "transfer-encoding", "connection", "te", "upgrade"})

ActionName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
ParameterName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{1,64}$", to_lower=True)]
HeaderValue = Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]{0,500}$")]
SecretName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
Sentence = Annotated[str, StringConstraints(max_length=500)]
FieldPath = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+){0,7}$", max_length=200)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ActionSecret(_Section):
    """A header's value that lies in a file, and the hosts that may see it. No API shows it."""

    file: Path
    hosts: Annotated[tuple[str, ...], Field(min_length=1)]


class ActionParameter(_Section):
    """One argument, in JSON schema's words, and two of ours.

    `from_message`: it must occur in what the visitor wrote, as a match of `pattern`; the model cannot make one up.
    `secret`: the audit log masks it.
    """

    type: Literal["string", "integer", "number", "boolean"] = "string"
    description: str = Field(default="", max_length=500)
    pattern: str | None = Field(default=None, max_length=200)
    enum: tuple[JsonValue, ...] | None = Field(default=None, min_length=1, max_length=100)
    minimum: float | None = None
    maximum: float | None = None
    from_message: bool = False
    secret: bool = False

    def problem(self) -> tuple[str, str] | None:
        """The option that does not work, and why."""
        if self.pattern is not None:
            if self.type != "string":
                return "pattern", "only a string has one"
            try:
                re.compile(self.pattern)
            except re.error as error:
                return "pattern", f"not a regular expression: {error}"
            if not (self.pattern.startswith("^") and self.pattern.endswith("$")):
                return "pattern", "it must begin with ^ and end with $"
        if self.from_message:
            if self.pattern is None:
                return "from_message", "it needs a pattern, which is looked for in the visitor's messages"
            if re.search(r"\)[*+?{]", self.pattern):
                return "pattern", "with from_message, no group may be repeated: the search could take too long"
        return None


class ActionParameters(_Section):
    """A JSON schema of an object whose values are texts, numbers or booleans."""

    type: Literal["object"] = "object"
    properties: Annotated[dict[ParameterName, ActionParameter], Field(max_length=PARAMETERS_MAX)] = {}
    required: tuple[str, ...] = ()


class ActionConfig(_Section):
    """One action.

    `url` has arguments as {name} in its path and query. Those that are not in it go into the query of a GET or DELETE,
    and into the JSON body of another method.
    """

    description: str = Field(min_length=1, max_length=1000)
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "GET"
    url: str = Field(min_length=1, max_length=1000)
    parameters: ActionParameters = ActionParameters()
    headers: dict[HeaderName, HeaderValue] = {}
    secret_headers: dict[HeaderName, SecretName] = {}  # header -> a name under `action_secrets`
    timeout_s: float = Field(default=5.0, gt=0, le=20)
    answer_bytes_max: int = Field(default=65_536, ge=256, le=1_048_576)
    confirm: bool | None = None  # the visitor is asked first; None: unless the method is GET
    whenever_mentioned: bool = False  # its arguments in the message are enough, unless the model wants another action
    asks: Sentence = ""  # the question before it, with {argument}s
    shows: tuple[FieldPath, ...] = Field(default=(), max_length=32)  # fields of the answer that the model sees; (): all
    says: Sentence = ""  # the answer as a sentence, with {field}s and {argument}s: small models repeat it
    not_found: Sentence = ""  # instead of a 404 or 410
    failed: Sentence = ""  # instead of any other failure

    @property
    def confirms(self) -> bool:
        """Whether the visitor must say yes first."""
        return self.method != "GET" if self.confirm is None else self.confirm

    @property
    def host(self) -> str:
        """Where it goes, as DNS has it. Raises ValueError."""
        return endpoint(self.url)[0]

    def problem(self) -> tuple[str, str] | None:
        """The option that does not work, and why. No validator: what is stored must stay readable."""
        known = self.parameters.properties
        for name, parameter in known.items():
            if (found := parameter.problem()) is not None:
                return f"parameters.properties.{name}.{found[0]}", found[1]
        for name in self.parameters.required:
            if name not in known:
                return "parameters.required", f"{name!r} is not among the properties"
        if self.whenever_mentioned and (
            self.confirms or not any(known[name].from_message for name in self.parameters.required)
        ):
            return "whenever_mentioned", "only for a call that is not confirmed, with a required parameter from_message"
        return self._url_problem() or self._header_problem()

    def _url_problem(self) -> tuple[str, str] | None:
        places = PLACEHOLDER.findall(self.url)
        bare = PLACEHOLDER.sub("x", self.url)
        if "{" in bare or "}" in bare:
            return "url", "a { or } that is not around the name of an argument"
        try:
            if "{" in urlsplit(self.url).netloc or "{" in urlsplit(self.url).scheme:
                return "url", "the host is never an argument's"
            check_reachable(bare)
        except ValueError as error:
            return "url", f"{error} (got {self.url!r})"
        if (why := unusable(bare)) is not None:
            return "url", why
        for name in places:
            if name not in self.parameters.required:
                return "url", f"{{{name}}} is not a required parameter"
        return None

    def _header_problem(self) -> tuple[str, str] | None:
        for option, headers in (("headers", self.headers), ("secret_headers", self.secret_headers)):
            for name in headers:
                if name in HOST_HEADERS or name == "idempotency-key":
                    return f"{option}.{name}", "the host sets this header itself"
        twice = self.headers.keys() & self.secret_headers.keys()
        return ("headers", f"{min(twice)} is under secret_headers, too") if twice else None


def secret_problem(action: ActionConfig, secrets: Mapping[str, ActionSecret]) -> tuple[str, str] | None:
    """A secret that the action cannot have, and why: whoever may change a bot must not send it elsewhere."""
    for name in action.secret_headers.values():
        if name not in secrets:
            return "secret_headers", f"{name!r} is not under `action_secrets`"
        if action.host not in secrets[name].hosts:
            return "secret_headers", f"{name!r} may not be sent to {action.host}: see its `hosts`"
    return None
