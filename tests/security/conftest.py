"""One host with two tenants on one model, for the tests that leave it whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from services.config.host_secrets import Secrets, read_secrets
from tests.host_process import LAPTOP, HostProcess, run_host

BOTS = {"acme": "acme/support", "globex": "globex/returns"}
BRIEF = "acme/brief"  # takes and says little: for very many chats


@dataclass
class Hosted:
    """The host, its secrets, and how to ask it."""

    host: HostProcess
    secrets: Secrets
    http: httpx.Client

    def ask(self, tenant: str, text: str, headers: dict[str, str] | None = None, **options: Any) -> httpx.Response:
        """One chat, whole unless `stream` says otherwise."""
        body = {
            "model": BOTS[tenant],
            "messages": [{"role": "user", "content": text}],
            "max_tokens": 4,
            "temperature": 0,
            **options,
        }
        return self.http.post("/v1/chat/completions", headers=self.host.headers(tenant) | (headers or {}), json=body)

    def get(self, tenant: str, path: str, **headers: str) -> httpx.Response:
        return self.http.get(path, headers=self.host.headers(tenant) | headers)


@pytest.fixture(scope="session")
def hosted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosted]:
    """Both bots have the same model and system prompt: only the tenant parts their caches."""
    folder = tmp_path_factory.mktemp("security")
    config = yaml.safe_load(LAPTOP.read_text())
    config["models"] = {"one": config["models"]["smollm2-kv8"] | {"context_tokens": 1024}}
    config["gateway"] = {"request_read_s_max": 2.0}
    for tenant in config["tenants"].values():
        for name in tenant["bots"]:
            tenant["bots"][name] = {"model": "one", "system": "You are a support assistant."}
    brief = {"model": "one", "system": "Hi.", "context_tokens": 64, "completions": True, "answer_tokens_max": 2}
    config["tenants"]["acme"]["bots"]["brief"] = brief
    path = folder / "host.yaml"
    path.write_text(yaml.safe_dump(config))
    with run_host(folder / "data", path, 90.0) as host, httpx.Client(base_url=host.url, timeout=60.0) as http:
        yield Hosted(host, read_secrets(host.data_dir / "secrets.json"), http)


@pytest.fixture(scope="session")
def logs_dir(hosted: Hosted) -> Path:
    return hosted.host.data_dir / "logs"
