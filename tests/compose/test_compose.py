"""What compose.yaml says, read as data: no engine runs containers here."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from services.cli.app import app
from services.config.host_secrets import load_secrets
from services.config.schema import load
from services.host.mps.daemon import MpsDaemon, folder_of, shared_devices
from services.store.runtime import GATEWAY_URL_ENV

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONE_SHOT = {"seed"}
PROFILES = ("gpu", "cpu")
HOST_YAML = "/etc/bunkhouse/host.yaml"


def of_profile(profile: str) -> dict[str, dict[str, Any]]:
    return {name: each for name, each in SERVICES.items() if profile in each.get("profiles", [profile])}


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_watched_bounded_and_without_rights(name: str) -> None:
    service = SERVICES[name]
    assert name in ONE_SHOT or service["healthcheck"]["test"]
    assert service["restart"] == ("no" if name in ONE_SHOT else "unless-stopped")
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["networks"] == ["host"]
    assert "privileged" not in service


def test_only_the_gateway_publishes_a_port_and_only_on_loopback() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"gateway": ["${BUNKHOUSE_BIND:-127.0.0.1}:8000:8000"]}
    assert list(COMPOSE["networks"]) == ["host"]


def test_others_find_the_gateway_where_it_listens() -> None:
    port = load(ROOT / "docker" / "cpu.yaml", {}).gateway.port
    assert SERVICES["jobs"]["environment"][GATEWAY_URL_ENV] == f"http://gateway:{port}"


def test_images_are_pinned_to_a_version() -> None:
    images = {service["image"] for service in SERVICES.values()}
    for file in (ROOT / "docker").glob("*.Dockerfile"):
        images |= set(re.findall(r"^FROM (\S+)", file.read_text(), re.MULTILINE))
    for image in images:
        assert re.search(r":v?\d+\.\d+\.\d+", image), image


@pytest.mark.parametrize("service", [each for each in SERVICES.values() if "build" in each])
def test_containers_are_built_to_run_without_root(service: dict[str, Any]) -> None:
    dockerfile = (ROOT / service["build"]["dockerfile"]).read_text()
    users = re.findall(r"^USER (\S+)", dockerfile, re.MULTILINE)
    assert users[-1] == "10001:10001"
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE):
        for path in source.split():
            assert (ROOT / path).exists(), path
            assert f"!{path}\n" in (ROOT / ".dockerignore").read_text()


@pytest.mark.parametrize("name", [name for name in SERVICES if name != "redis"])
def test_the_commands_exist(name: str) -> None:
    command = SERVICES[name]["command"]
    if command[0] == "bunkhouse":
        assert command[1] in get_command(app).commands  # type: ignore[attr-defined]
    else:
        assert command[:2] == ["python", "-m"]
        assert importlib.util.find_spec(f"{command[2]}.__main__"), command
    assert command[3 if command[0] == "python" else 2] == HOST_YAML


@pytest.mark.parametrize("name", [name for name in SERVICES if name not in {"redis", *ONE_SHOT}])
def test_health_checks_ask_for_the_part_that_runs(name: str) -> None:
    service = SERVICES[name]
    kind, program, command, config, part = service["healthcheck"]["test"]
    assert (kind, program, command, config) == ("CMD", "bunkhouse", "health", HOST_YAML)
    module, *rest = service["command"][2:]
    assert part == (f"model {rest[1]}" if module == "services.worker" else module.removeprefix("services."))


@pytest.mark.parametrize("profile", PROFILES)
def test_each_profile_has_a_worker_for_each_model_of_its_configuration(profile: str) -> None:
    config = load(ROOT / "docker" / f"{profile}.yaml", {})
    commands = [
        service["command"] for service in of_profile(profile).values() if "services.worker" in service["command"]
    ]
    assert sorted(command[-1] for command in commands) == sorted(config.models)
    gpus = [name for name, service in of_profile(profile).items() if "deploy" in service]
    assert len(gpus) == (len(config.models) if profile == "gpu" else 0)


@pytest.mark.parametrize("name", [name for name in SERVICES if name != "redis"])
def test_all_read_one_copy_of_the_weights_and_few_may_fetch(name: str) -> None:
    service = SERVICES[name]
    fetches = name in ONE_SHOT or "deploy" in service
    assert service["environment"]["HF_HOME"] == "/weights"
    assert service["environment"]["HF_HUB_OFFLINE"] == ("0" if fetches else "1")
    assert ("weights:/weights" if fetches else "weights:/weights:ro") in service["volumes"]
    assert name in ONE_SHOT or "seed" in service["depends_on"]  # whoever may not fetch comes after whoever does


@pytest.mark.parametrize("service", [each for each in SERVICES.values() if "build" in each])
def test_volumes_belong_to_the_user_who_runs(service: dict[str, Any]) -> None:
    """A new volume takes its owner from the image's folder; where the image has none, it is root's for good."""
    dockerfile = (ROOT / service["build"]["dockerfile"]).read_text()
    made = re.search(r"install -d -o bunkhouse -g bunkhouse (.+)$", dockerfile, re.MULTILINE)
    assert made
    assert dockerfile.index("useradd --uid 10001") < made.start() < dockerfile.rindex("USER 10001")
    mounts = [volume.split(":") for volume in service["volumes"]]
    assert {target for source, target, *_ in mounts if source in COMPOSE["volumes"]} <= set(made[1].split())


def test_gpu_workers_share_one_gpu() -> None:
    devices = [
        service["deploy"]["resources"]["reservations"]["devices"]
        for service in of_profile("gpu").values()
        if "deploy" in service
    ]
    assert all(each == [{"driver": "nvidia", "device_ids": ["0"], "capabilities": ["gpu"]}] for each in devices)


@pytest.mark.parametrize("profile", PROFILES)
def test_dependencies_are_there(profile: str) -> None:
    services = of_profile(profile)
    for service in services.values():
        for name, how in service.get("depends_on", {}).items():
            assert name in services
            assert how["condition"] == ("service_completed_successfully" if name in ONE_SHOT else "service_healthy")


def test_secrets_come_from_files_that_the_script_makes(tmp_path: Path) -> None:
    (tmp_path / "make-secrets").write_text((ROOT / "docker" / "make-secrets").read_text())
    for _ in range(2):  # the second time changes nothing
        subprocess.run(["bash", str(tmp_path / "make-secrets")], check=True, capture_output=True)
    made = {f"./docker/secrets/{path.name}": path for path in (tmp_path / "secrets").iterdir()}
    named = {secret["file"] for secret in COMPOSE["secrets"].values()}
    assert named <= set(made)
    secrets = load_secrets(tmp_path, {"BUNKHOUSE_SECRETS_FILE": str(tmp_path / "secrets" / "bunkhouse.json")})
    password = (tmp_path / "secrets" / "redis_password").read_text()
    assert secrets.redis_password == password
    assert f"requirepass {password}\n" in (tmp_path / "secrets" / "redis.conf").read_text()
    assert (tmp_path / "secrets").stat().st_mode & 0o077 == 0
    assert json.loads((tmp_path / "secrets" / "bunkhouse.json").read_text())["admin_key"].startswith("bh-")
    assert not re.search(r"(?i)(password|secret|key): \S*[0-9a-f]{16}", (ROOT / "compose.yaml").read_text())


@pytest.mark.parametrize(
    ("profile", "files"), [("gpu", []), ("cpu", []), ("gpu", ["compose.yaml", "compose.mps.yaml"])]
)
def test_docker_compose_itself_finds_nothing_wrong(profile: str, files: list[str]) -> None:
    command = _compose_command()
    if command is None:
        pytest.skip("no docker compose on this machine")
    checked = subprocess.run(
        [*command, *(part for file in files for part in ("-f", file)), "config", "--quiet"],
        cwd=ROOT,
        env={**os.environ, "COMPOSE_PROFILES": profile},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def _compose_command() -> list[str] | None:
    for command in (["docker", "compose"], ["docker-compose"]):
        try:
            if subprocess.run([*command, "version"], capture_output=True, check=False).returncode == 0:
                return command
        except FileNotFoundError:
            continue
    return None


class Reset(yaml.YAMLObject):
    """Compose's `!reset`: what the file before has is taken away."""

    yaml_loader = yaml.SafeLoader
    yaml_tag = "!reset"

    @classmethod
    def from_yaml(cls, loader: yaml.SafeLoader, node: yaml.Node) -> None:
        return None


class TestMps:
    """compose.mps.yaml beside compose.yaml: one daemon for the card, and every GPU worker can join it."""

    @pytest.fixture
    def services(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "compose.mps.yaml").read_text())["services"]
        return found

    def test_every_gpu_worker_joins_and_no_other_service(self, services: dict[str, dict[str, Any]]) -> None:
        workers = {name for name, service in of_profile("gpu").items() if "deploy" in service}
        assert services.keys() == {"mps", *workers}
        for name in workers:
            joins = services[name]
            assert joins["ipc"] == joins["pid"] == "service:mps"
            assert joins["shm_size"] is None, "a container that uses another one's IPC has no size of its own"
            assert joins["depends_on"] == {"mps": {"condition": "service_healthy"}}

    def test_its_folders_are_those_that_workers_look_in(self, services: dict[str, dict[str, Any]]) -> None:
        config = load(ROOT / "docker" / "gpu.yaml", {"BUNKHOUSE__DATA_DIR": "/var/lib/bunkhouse"})
        daemon = MpsDaemon("gpu0", folder_of(config, "gpu0"), Path("log"), {})
        assert services["worker-qwen-a"]["environment"] == daemon.environment
        assert "data:/var/lib/bunkhouse" in SERVICES["worker-qwen-a"]["volumes"]

    def test_the_daemon_is_watched_and_told_to_try(self, services: dict[str, dict[str, Any]]) -> None:
        mps = services["mps"]
        assert SERVICES[mps["extends"]["service"]]["profiles"] == ["gpu"]
        assert mps["command"] == ["python", "-m", "services.host.mps", HOST_YAML]
        assert importlib.util.find_spec("services.host.mps.__main__")
        assert mps["healthcheck"]["test"] == ["CMD", "bunkhouse", "health", HOST_YAML, "mps"]
        environ = {**mps["environment"], "BUNKHOUSE__DATA_DIR": "/d"}
        assert shared_devices(load(ROOT / "docker" / "gpu.yaml", environ)) == ["gpu0"]
        assert shared_devices(load(ROOT / "docker" / "gpu.yaml", {})) == []
        assert (mps["ipc"], mps["shm_size"]) == ("shareable", "4g")
