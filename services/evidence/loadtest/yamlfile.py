"""A YAML file into a pydantic model, with the line in every complaint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

Model = TypeVar("Model", bound=BaseModel)


class YamlError(Exception):
    """The file cannot be used. The message has one `file:line: key: what is wrong` a line."""


def read_yaml_model(path: Path, model: type[Model]) -> Model:
    """Read `path` as `model`. Raises YamlError."""
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        value = yaml.safe_load(text)
    except OSError as error:
        raise YamlError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise YamlError(f"{path}: not UTF-8 text") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise YamlError(f"{path}{line}: {getattr(error, 'problem', None) or error}") from error
    if not isinstance(value, dict):
        raise YamlError(f"{path}:1: expected keys and values")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_url=False, include_input=False):
            at, key = _locate(node, problem["loc"])
            said = "unknown key" if problem["type"] == "extra_forbidden" else problem["msg"]
            lines.append(f"{path}:{at}: {key}: {said}" if key else f"{path}:{at}: {said}")
        raise YamlError("\n".join(lines)) from error


def _locate(node: yaml.Node | None, loc: Sequence[str | int]) -> tuple[int, str]:
    """The deepest line that `loc` reaches, and its key. Parts that are no keys (union tags) are skipped."""
    line = node.start_mark.line + 1 if node else 1
    names: list[str] = []
    for place, part in enumerate(loc):
        step = _child(node, part)
        if step is None:
            if place == len(loc) - 1:
                names.append(str(part))
            continue
        key, node = step
        line = key.start_mark.line + 1
        names.append(str(part))
    return line, ".".join(names)


def _child(node: yaml.Node | None, part: str | int) -> tuple[yaml.Node, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        return next(((k, v) for k, v in node.value if k.value == str(part)), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part]
    return None
