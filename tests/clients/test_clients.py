"""A short part of `make test-clients`: those clients whose packages are here already, on the features used most."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.clients import environments
from tests.clients.runner import CLIENTS, Client, clients_host, run_client
from tests.host_process import HostProcess

SHORT = {  # script -> its features in the short part
    "openai_python": ("models", "hints", "errors"),
    "openai_node": ("stream",),
    "langchain": ("stream",),
}
# openai-python is among the host's own tools for development, so it runs everywhere.
CHOSEN = [
    replace(client, environment=environments.HOST) if client.script == "openai_python" else client
    for client in CLIENTS
    if client.script in SHORT
]
HERE = [client for client in CHOSEN if environments.installed(client.environment)]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostProcess]:
    with clients_host(tmp_path_factory.mktemp("clients")) as running:
        yield running


@pytest.mark.parametrize("client", HERE, ids=lambda client: client.script)
def test_client(client: Client, host: HostProcess, tmp_path: Path) -> None:
    results = run_client(client, host, tmp_path, SHORT[client.script])
    assert [each for each in results if not each.passed] == []
    assert len(results) >= len(SHORT[client.script])
