"""The host's own secrets: made once, kept, never shown."""

from __future__ import annotations

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.config.host_secrets import FILE_ENV, SecretsError, load_secrets


def test_made_at_the_first_start_and_kept(tmp_path: Path) -> None:
    first = load_secrets(tmp_path / "data", {})
    path = tmp_path / "data" / "secrets.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert load_secrets(tmp_path / "data", {}) == first
    assert [each.name for each in path.parent.iterdir()] == ["secrets.json"]


def test_processes_that_start_at_once_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: load_secrets(tmp_path, {}), range(32)))
    assert len({each.pepper for each in found}) == 1


def test_repr_shows_none(tmp_path: Path) -> None:
    found = load_secrets(tmp_path, {})
    for secret in (found.redis_password, found.admin_key, found.pepper.hex(), repr(found.pepper)):
        assert secret not in repr(found)


def test_another_file_by_the_environment(tmp_path: Path) -> None:
    made = load_secrets(tmp_path / "one", {})
    environ = {FILE_ENV: str(tmp_path / "one" / "secrets.json")}
    assert load_secrets(tmp_path / "two", environ) == made
    assert not (tmp_path / "two").exists()


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(SecretsError, match=r"nowhere\.json: cannot be read"):
        load_secrets(tmp_path, {FILE_ENV: str(tmp_path / "nowhere.json")})


@pytest.mark.parametrize(
    "broken",
    ["", "{", "[]", "{}", json.dumps({"pepper": "zz", "salt": "", "redis_password": "", "admin_key": ""})],
)
def test_a_broken_file_is_told_and_not_replaced(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "secrets.json"
    path.write_text(broken)
    with pytest.raises(SecretsError, match=r"secrets\.json .*backup"):
        load_secrets(tmp_path, {})
    assert path.read_text() == broken


def test_a_short_pepper_is_broken(tmp_path: Path) -> None:
    load_secrets(tmp_path, {})
    path = tmp_path / "secrets.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pepper": "00"}))
    with pytest.raises(SecretsError, match="under 32 bytes"):
        load_secrets(tmp_path, {})


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SecretsError, match="cannot be written"):
        load_secrets(tmp_path / "file" / "data", {})


def test_lost_secrets_beside_data_are_told_and_not_replaced(tmp_path: Path) -> None:
    """New ones would void every API key of the tenants in that data."""
    data = tmp_path / "redis" / "appendonlydir"
    data.mkdir(parents=True)
    (data / "appendonly.aof.1.incr.aof").write_text("*1")
    with pytest.raises(SecretsError, match=r"secrets\.json is missing.*backup.*BUNKHOUSE_NEW_SECRETS=yes"):
        load_secrets(tmp_path, {})
    assert not (tmp_path / "secrets.json").exists()
    assert load_secrets(tmp_path, {"BUNKHOUSE_NEW_SECRETS": "yes"}) == load_secrets(tmp_path, {})
