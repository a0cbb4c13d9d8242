"""What may be reached by whom: public API, admin API, Redis, engines."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import httpx
import psutil
import pytest
import redis

from tests.security.conftest import BOTS, Hosted

ADMIN_PATHS = ("tenants", "bots", "models", "usage", "audit", "sessions", "jobs", "admins", "me", "overview")


@pytest.mark.parametrize("what", ADMIN_PATHS)
def test_the_admin_api_takes_no_tenants_key(hosted: Hosted, what: str) -> None:
    for tenant in BOTS:
        assert hosted.get(tenant, f"/admin/v1/{what}").status_code in (401, 404)
    assert hosted.http.get(f"/admin/v1/{what}").status_code in (401, 404)


def test_the_admin_key_is_for_the_admin_api_only(hosted: Hosted) -> None:
    admin = {"Authorization": f"Bearer {hosted.secrets.admin_key}"}
    assert hosted.http.get("/admin/v1/tenants", headers=admin).status_code == 200
    assert hosted.http.get("/v1/models", headers=admin).status_code == 401
    refused = hosted.http.post("/v1/chat/completions", headers=admin, json={})
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")


def _family(hosted: Hosted) -> list[psutil.Process]:
    parent = psutil.Process(hosted.host.process.pid)
    return [parent, *parent.children(recursive=True)]


def test_everything_listens_on_loopback(hosted: Hosted) -> None:
    listening = [
        link.laddr
        for process in _family(hosted)
        for link in process.net_connections("tcp")
        if link.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 2, "gateway and engine"
    assert {address.ip for address in listening} == {"127.0.0.1"}


def _engine_port(hosted: Hosted) -> int:
    engine = hosted.host.find("services.engines.llamacpp_server")
    [port] = {link.laddr.port for link in engine.net_connections("tcp") if link.status == psutil.CONN_LISTEN}
    return int(port)


@pytest.mark.parametrize("path", ["/completion", "/slots", "/metrics", "/tokenize", "/v1/chat/completions"])
@pytest.mark.parametrize("key", [None, "wrong", "acme"])
def test_an_engine_answers_its_own_worker_only(hosted: Hosted, path: str, key: str | None) -> None:
    shown = hosted.host.keys[key] if key in BOTS else key
    headers = {"Authorization": f"Bearer {shown}"} if shown else {}
    url = f"http://127.0.0.1:{_engine_port(hosted)}{path}"
    answer = (
        httpx.get(url, headers=headers) if path in ("/slots", "/metrics") else httpx.post(url, headers=headers, json={})
    )
    assert answer.status_code == 401


def test_redis_has_no_port_and_asks_for_its_password(hosted: Hosted) -> None:
    server = next(process for process in _family(hosted) if "valkey" in process.name())
    assert [link for link in server.net_connections("tcp") if link.status == psutil.CONN_LISTEN] == []
    [path] = {str(link.laddr) for link in server.net_connections("unix") if str(link.laddr).endswith(".sock")}
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o700
    with redis.Redis(unix_socket_path=path) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    with redis.Redis(unix_socket_path=path, password=hosted.secrets.redis_password) as known:
        assert known.ping()


def test_what_is_kept_is_the_owners_alone(hosted: Hosted) -> None:
    assert stat.S_IMODE(hosted.host.data_dir.stat().st_mode) == 0o700
    for name in ("secrets.json", "redis/redis.conf"):
        assert stat.S_IMODE((hosted.host.data_dir / name).stat().st_mode) == 0o600


def test_slow_heads_hold_nobody_up_and_are_cut_off(hosted: Hosted) -> None:
    address = ("127.0.0.1", httpx.URL(hosted.host.url).port or 0)
    slow = [socket.create_connection(address) for _ in range(200)]
    try:
        for connection in slow:
            connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-a:")
        assert hosted.ask("acme", "Hello").status_code == 200
        for connection in slow:
            connection.settimeout(30)
            assert b" 408 " in connection.recv(4096)
    finally:
        for connection in slow:
            connection.close()
