"""A bot's actions as its model and the host's HTTP client need them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.json_schemas import Budget, enforceable
from gateway.outcomes import Refused
from services.config.actions import ActionConfig, ActionParameter
from services.config.schema import BotConfig

_OF_A_VALUE = ("type", "description", "pattern", "enum", "minimum", "maximum")


@dataclass(frozen=True, slots=True)
class Action:
    """One action by its name."""

    name: str
    config: ActionConfig

    @property
    def parameters(self) -> Mapping[str, ActionParameter]:
        """Its parameters by name."""
        return self.config.parameters.properties

    @property
    def required(self) -> tuple[str, ...]:
        """The names of those that a call must have."""
        return self.config.parameters.required

    def with_choices(self, choices: Mapping[str, Sequence[str]]) -> Action:
        """The same, with parameters that must be one of these texts; those without texts stay as they are."""
        properties = {
            name: parameter.model_copy(update={"enum": tuple(choices[name]), "pattern": None})
            if choices.get(name)
            else parameter
            for name, parameter in self.parameters.items()
        }
        parameters = self.config.parameters.model_copy(update={"properties": properties})
        return Action(self.name, self.config.model_copy(update={"parameters": parameters}))


def actions_of(bot: BotConfig) -> tuple[Action, ...]:
    """A bot's actions, in the order of its configuration."""
    return tuple(Action(name, config) for name, config in bot.actions.items())


def schema_of(parameters: Mapping[str, ActionParameter], required: tuple[str, ...]) -> dict[str, object]:
    """These parameters as a JSON schema of an object. Parameters of one that are not required may be left out."""
    return {
        "type": "object",
        "properties": {name: value_schema(parameter) for name, parameter in parameters.items()},
        "required": [name for name in parameters if name in required],
        "additionalProperties": False,
    }


def value_schema(parameter: ActionParameter) -> dict[str, object]:
    """One parameter as a JSON schema."""
    given = parameter.model_dump(mode="json", include=set(_OF_A_VALUE), exclude_none=True)
    return {name: value for name, value in given.items() if value != ""}


def action_problem(action: ActionConfig) -> tuple[str, str] | None:
    """Why engines could not be held to an action's arguments, and in which option."""
    budget = Budget()
    for name, parameter in action.parameters.properties.items():
        place = f"parameters.properties.{name}"
        try:
            enforceable(value_schema(parameter), place, strict=True, budget=budget)
        except Refused as refused:
            return refused.param or place, refused.message.partition(": ")[2].rstrip(".")
    return None
