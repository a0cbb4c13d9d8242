"""Gives the KV planes plugin to an SGLang process whose interpreter does not have it installed."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path

from services.kvplanes import config as kvplanes_config
from services.kvplanes.config import ENVIRONMENT_NAME, KVPlanesConfig

SOURCE = Path(kvplanes_config.__file__).parent


def plugin_environment(config: KVPlanesConfig, folder: Path, base: Mapping[str, str]) -> dict[str, str]:
    """`base` with the plugin switched on by `config`.

    `folder` (made if missing, safe to reuse) becomes what an installation of services/kvplanes would be, and goes first
    onto PYTHONPATH, before an older copy that may be installed. Nothing else of the host becomes visible there.
    """
    project = tomllib.loads((SOURCE / "pyproject.toml").read_text())["project"]
    package = project["name"].replace("-", "_")
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / package
    if not link.exists():
        link.symlink_to(SOURCE, target_is_directory=True)
    metadata = folder / f"{package}-{project['version']}.dist-info"
    metadata.mkdir(exist_ok=True)
    names = f"Name: {project['name']}\nVersion: {project['version']}\n"
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\n{names}")
    (metadata / "entry_points.txt").write_text(
        "".join(
            f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
            for group, points in project["entry-points"].items()
        )
    )
    path = os.pathsep.join(part for part in (str(folder), base.get("PYTHONPATH", "")) if part)
    return {**base, ENVIRONMENT_NAME: config.to_json(), "PYTHONPATH": path}
