"""KV planes install alone: the wheel, the folder that the host makes in its place, and what SGLang sees of both."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from services.engines.kvplanes_site import SOURCE, plugin_environment
from services.kvplanes.config import KVPlanesConfig

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "bunkhouse"
SGLANG_PYTHON = Path(os.environ.get("BUNKHOUSE_SGLANG_PYTHON", CACHE / "sglang-0.5.17" / "bin" / "python"))
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
LOOK = """
import importlib.util, json, os, sys
from sglang.srt.plugins import load_plugins_by_group
found = load_plugins_by_group("sglang.srt.plugins")
register, distribution = found["kvplanes"]
print(json.dumps({
    "module": register.__module__, "distribution": distribution, "file": sys.modules[register.__module__].__file__,
    "services": importlib.util.find_spec("services") is not None,
    "folders": [folder for folder in sys.path if os.path.isdir(os.path.join(folder, "services"))],
}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("setuptools", minversion="77", reason="the host's environment builds the wheel")
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(SOURCE, folder / "source", ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder)]
    subprocess.run([*PIP, *build, str(folder / "source")], check=True)
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([*PIP, "install", "--no-deps", "--no-index", "--target", str(folder), str(wheel)], check=True)
    return folder


def found_by_sglang(folder: Path, path: str) -> dict[str, object]:
    """What SGLang's own interpreter finds with `path` as PYTHONPATH."""
    if not SGLANG_PYTHON.exists():
        pytest.skip(f"no SGLang environment: {SGLANG_PYTHON} does not exist")
    environment = {**os.environ, "PYTHONPATH": path}
    environment.pop("BUNKHOUSE_KVPLANES", None)
    done = subprocess.run(
        [str(SGLANG_PYTHON), "-c", LOOK], cwd=folder, env=environment, check=True, capture_output=True, text=True
    )
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_the_package_imports_nothing_of_the_host() -> None:
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names.append(node.module or "")
            own = [name for name in names if name.split(".")[0] in ("services", "gateway", "scheduler")]
            assert not own, f"{path.relative_to(SOURCE)} imports {own}; it runs without the host"


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    inside = {name.partition("/")[2] for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    sources = (path for path in SOURCE.rglob("*") if path.is_file())
    kept = {str(path.relative_to(SOURCE)) for path in sources if not {"__pycache__", "build"} & set(path.parts)}
    assert inside == {name for name in kept if ".egg-info/" not in name} - {"pyproject.toml", "README.md"}


def test_the_folder_that_the_host_makes_is_what_an_installation_is(installed: Path, tmp_path: Path) -> None:
    plugin_environment(KVPlanesConfig(), tmp_path / "site", {})
    [made], [real] = (
        list(importlib.metadata.distributions(path=[str(folder)])) for folder in (tmp_path / "site", installed)
    )
    assert (made.metadata["Name"], made.version) == (real.metadata["Name"], real.version)
    assert list(made.entry_points) == list(real.entry_points)
    assert {path.name for path in (tmp_path / "site").iterdir()} == {path.name for path in installed.iterdir()}


@pytest.mark.sglang
@pytest.mark.timeout(300)
def test_sglang_finds_the_installed_plugin_and_no_services(installed: Path, tmp_path: Path) -> None:
    found = found_by_sglang(tmp_path, str(installed))
    assert (found["module"], found["distribution"]) == ("bunkhouse_kvplanes.plugin", "bunkhouse-kvplanes")
    assert found["file"] == str(installed / "bunkhouse_kvplanes" / "plugin.py")
    assert (found["services"], found["folders"]) == (False, [])


@pytest.mark.sglang
@pytest.mark.timeout(300)
def test_the_host_needs_no_installed_plugin_and_goes_before_one(installed: Path, tmp_path: Path) -> None:
    environment = plugin_environment(KVPlanesConfig(), tmp_path / "site", {"PYTHONPATH": str(installed)})
    found = found_by_sglang(tmp_path, environment["PYTHONPATH"])
    assert found["module"] == "bunkhouse_kvplanes.plugin"
    assert found["file"] == str(tmp_path / "site" / "bunkhouse_kvplanes" / "plugin.py")
    assert (found["services"], found["folders"]) == (False, [])
