"""A YAML file into a pydantic model, with the line in every complaint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

Model = TypeVar("Model", bound=BaseModel)


class ConfigError(Exception):
    """A file that cannot be used. The message has one `file:line: key: what is wrong` a line."""


class YamlFile:
    """One file's values, and the line of each. Raises ConfigError where it cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            text = path.read_text(encoding="utf-8")
            self._node = yaml.compose(text, Loader=yaml.SafeLoader)
            self._refuse_repeated(self._node)
            data = yaml.safe_load(text)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: not UTF-8 text") from error
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f":{mark.line + 1}" if mark else ""
            raise ConfigError(f"{path}{line}: {getattr(error, 'problem', None) or error}") from error
        if not isinstance(data, dict):
            raise ConfigError(f"{path}:1: expected keys and values")
        self.data: dict[str, object] = data

    def read_as(self, kind: type[Model]) -> Model:
        """The values as a `kind`. Raises ConfigError."""
        try:
            return kind.model_validate(self.data)
        except ValidationError as error:
            raise ConfigError("\n".join(map(self._describe, error.errors(include_url=False)))) from error

    def place(self, location: Sequence[str | int]) -> str:
        """`file:line` of the deepest part of `location` that the file has."""
        return f"{self.path}:{self._locate(location)[0]}"

    def _describe(self, problem: Mapping[str, Any]) -> str:
        line, key = self._locate(problem["loc"])
        what = "unknown key" if problem["type"] == "extra_forbidden" else str(problem["msg"])
        shown = "" if isinstance(problem["input"], dict) else f" (got {problem['input']!r})"
        return f"{self.path}:{line}: {f'{key}: ' if key else ''}{what}{shown}"

    def _locate(self, location: Sequence[str | int]) -> tuple[int, str]:
        """The deepest line that `location` reaches, and its key without the tags of unions, which are no keys."""
        node = self._node
        value: object = self.data
        line = node.start_mark.line + 1 if node else 1
        names: list[str] = []
        for number, part in enumerate(location, 1):
            if (step := _child(node, part)) is not None:
                key, node = step
                line = key.start_mark.line + 1
            known = _item(value, part)
            if known is not None or number == len(location):
                names.append(str(part))
                value = known
        return line, ".".join(names)

    def _refuse_repeated(self, node: yaml.Node | None) -> None:
        """YAML's reader takes the last of two sections with one name, and says nothing."""
        if isinstance(node, yaml.SequenceNode):
            for item in node.value:
                self._refuse_repeated(item)
        if not isinstance(node, yaml.MappingNode):
            return
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise ConfigError(f"{self.path}:{key.start_mark.line + 1}: {key.value!r} is there twice")
            seen.add(key.value)
            self._refuse_repeated(value)


def _child(node: yaml.Node | None, part: str | int) -> tuple[yaml.Node, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        return next(((key, value) for key, value in node.value if key.value == str(part)), None)
    if isinstance(node, yaml.SequenceNode) and str(part).isdigit() and int(part) < len(node.value):
        return node.value[int(part)], node.value[int(part)]
    return None


def _item(value: object, part: str | int) -> object:
    if isinstance(value, Mapping):
        return value.get(part)
    if isinstance(value, Sequence) and str(part).isdigit() and int(part) < len(value):
        return value[int(part)]
    return None
