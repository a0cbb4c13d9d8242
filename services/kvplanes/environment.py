"""The environment that makes a SGLang process load the plugin, wherever the host itself is installed. No torch here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from services.kvplanes.config import ENVIRONMENT_NAME, KVPlanesConfig

ENTRY_POINT = "[sglang.srt.plugins]\nkvplanes = services.kvplanes.plugin:register\n"
METADATA = "Metadata-Version: 2.1\nName: bunkhouse-kvplanes\nVersion: 0\n"


def plugin_environment(config: KVPlanesConfig, folder: Path, base: Mapping[str, str]) -> dict[str, str]:
    """`base` with the plugin switched on by `config`.

    SGLang usually lives in an environment of its own. `folder` (made if missing, safe to reuse) gets a link to the
    host's ``services`` package and the metadata that declares the entry point, and goes onto PYTHONPATH: nothing else
    of the host's environment becomes visible there.
    """
    package = Path(__file__).resolve().parents[1]
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / package.name
    if not link.exists():
        link.symlink_to(package, target_is_directory=True)
    info = folder / "bunkhouse_kvplanes-0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(METADATA)
    (info / "entry_points.txt").write_text(ENTRY_POINT)
    path = os.pathsep.join(part for part in (str(folder), base.get("PYTHONPATH", "")) if part)
    return {**base, ENVIRONMENT_NAME: config.to_json(), "PYTHONPATH": path}
