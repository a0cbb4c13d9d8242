"""Every secret of a run, looked for in every log of that run."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import psutil

from services.config.api_keys import salt
from tests.security.conftest import BOTS, Hosted

PRIVATE = "My customer number is 7731-4402-9918"


def _use(hosted: Hosted) -> list[str]:
    """Good and bad requests with keys wherever people put them. Returns what must be in no log."""
    keys = [*hosted.host.keys.values(), hosted.secrets.admin_key]
    admin = {"Authorization": f"Bearer {hosted.secrets.admin_key}"}
    made = hosted.http.post("/admin/v1/tenants/acme/keys", headers=admin, json={})
    assert made.status_code in (200, 201), made.text
    keys.append(made.json()["key"])
    for key in keys:
        headers = {"Authorization": f"Bearer {key}"}
        for path in (f"/v1/models?api_key={key}", f"/v1/models/{key}", f"/{key}", f"/v1/chats/{key}"):
            hosted.http.get(path, headers=headers)
            hosted.http.get(path)
        hosted.http.get("/v1/models", headers={"Authorization": key})
        hosted.http.get("/v1/models", headers={"Authorization": f"Basic {key}", "x-api-key": key})
        hosted.http.post("/v1/chat/completions", headers=headers, json={"model": key, "messages": key, key: 1})
        hosted.http.post("/v1/chat/completions", headers=headers, content=key.encode())
        hosted.http.get(f"/admin/v1/tenants/{key}", headers=admin)
    for tenant in BOTS:
        assert hosted.ask(tenant, PRIVATE).status_code == 200
        hosted.ask(tenant, PRIVATE, max_tokens=10**6)
        hosted.ask(tenant, PRIVATE, nonsense=PRIVATE)
    secrets = hosted.secrets
    salts = [salt(tenant, secrets.salt) for tenant in BOTS]
    return [*keys, *salts, secrets.pepper.hex(), secrets.salt.hex(), secrets.redis_password, PRIVATE]


def test_no_secret_and_no_conversation_is_logged(hosted: Hosted, logs_dir: Path) -> None:
    wanted = _use(hosted)
    files = sorted(path for path in logs_dir.rglob("*") if path.is_file())
    assert {"gateway.log", "scheduler.log", "redis.log"} <= {path.name for path in files}
    assert "chat.done" in (logs_dir / "worker-one.log").read_text()
    found = [(path.name, number) for path in files for number, one in enumerate(wanted) if one in path.read_text()]
    assert found == []


def test_no_secret_on_a_command_line(hosted: Hosted) -> None:
    """Every user of the machine may read those."""
    wanted = _use(hosted)
    parent = psutil.Process(hosted.host.process.pid)
    for process in [parent, *parent.children(recursive=True)]:
        line = " ".join(process.cmdline())
        assert not [one for one in wanted if one in line]


def test_a_key_is_stored_as_a_digest(hosted: Hosted) -> None:
    wanted = [*hosted.host.keys.values(), hosted.secrets.admin_key]
    admin = {"Authorization": f"Bearer {hosted.secrets.admin_key}"}
    shown = json.dumps([hosted.http.get(f"/admin/v1/{path}", headers=admin).json() for path in ("tenants", "audit")])
    stored = b"".join(path.read_bytes() for path in (hosted.host.data_dir / "redis").rglob("*aof*") if path.is_file())
    assert stored, "the append-only file is there"
    for key in wanted:
        assert key not in shown
        assert key.encode() not in stored


def test_metrics_name_no_key_chat_or_prompt(hosted: Hosted) -> None:
    chat = hosted.ask("acme", PRIVATE).headers["x-bunkhouse-chat"]
    text = httpx.get(f"{hosted.host.url}/metrics").text
    assert "bunkhouse_" in text
    for secret in (chat, PRIVATE, *hosted.host.keys.values()):
        assert secret not in text
