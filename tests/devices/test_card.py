"""Which device `memory.card` and `memory.bandwidth_bytes_per_s` are about."""

from __future__ import annotations

from services.config.schema import Config
from services.contracts.devices import CPU
from services.devices.card import bandwidths, card, devices

CONFIG = Config.model_validate(
    {
        "memory": {"card": "24GB", "bandwidth_bytes_per_s": 1e12},
        "models": {
            "big": {"engine": "sglang", "device": "cuda", "weights": "x/y"},
            "small": {"engine": "llamacpp", "device": "cpu", "weights": "x/z"},
        },
    }
)


def test_the_configuration_says_which_devices_are_used() -> None:
    assert devices(CONFIG) == ["gpu0", CPU]
    assert bandwidths(CONFIG, {CPU: 5e10}) == {"gpu0": 1e12, CPU: 5e10}
    assert card(CONFIG, "gpu0").total_bytes == 24 * 10**9


def test_what_engines_report_outranks_it() -> None:
    used = devices(CONFIG, {"big": CPU, "small": CPU})
    assert used == [CPU]
    assert bandwidths(CONFIG, {CPU: 5e10}, used) == {CPU: 1e12}
    assert card(CONFIG, CPU, used).total_bytes == 24 * 10**9
