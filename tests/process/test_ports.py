"""Which ports servers get."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from services.process import ports


def test_no_outgoing_connection_can_take_a_free_port() -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(1024 < ports.free_port() < first for _ in range(50))


def test_where_the_kernel_takes_all_ports_it_chooses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ports, "EPHEMERAL", tmp_path / "none")
    monkeypatch.setattr(ports, "TRIES", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(ports, "LOWEST", server.getsockname()[1])
        assert ports.free_port() not in (0, server.getsockname()[1])


def test_a_port_that_is_asked_for_is_taken_or_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            ports.free_port(port=port)
    assert ports.free_port(port=port) == port
