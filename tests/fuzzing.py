"""How hypothesis makes requests up: the same each time, none too slow, and none shrunk where servers keep state."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings

FIXED = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
UNSHRUNK = settings(FIXED, phases=[Phase.explicit, Phase.generate])
