"""Scenarios of load tests as the admin API takes them."""

from __future__ import annotations

import yaml
from pydantic import ValidationError

from services.evidence.loadtest.scenario import Scenario

DURATION_S_MAX = 3600.0


class BadScenario(ValueError):
    """A scenario that this host does not run. Says what is wrong."""


def parse(text: str) -> Scenario:
    """A scenario from YAML. Raises BadScenario."""
    try:
        scenario = Scenario.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise BadScenario(f"no valid YAML: {error}") from error
    except (ValidationError, RecursionError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": "nested too deep"}
        raise BadScenario(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if scenario.duration_s + scenario.drain_s > DURATION_S_MAX:
        raise BadScenario(f"duration_s and drain_s are at most {DURATION_S_MAX:.0f} together here")
    if any(tenant.key or tenant.key_env for tenant in scenario.tenants):
        raise BadScenario("key and key_env are not taken here: the host makes keys for the test")
    return scenario
