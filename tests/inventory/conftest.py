"""Real sshds for the tests, and servers that misbehave."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from own_sshd import Sshd, start_sshd


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """One sshd for all tests; a test that changes its files uses ``new_sshd``."""
    server = start_sshd(tmp_path_factory.mktemp("sshd"))
    yield server
    server.stop()


@pytest.fixture
def new_sshd(tmp_path: Path) -> Iterator[Callable[[], Sshd]]:
    """Start an sshd of one's own, whose files the test may change."""
    servers: list[Sshd] = []

    def start() -> Sshd:
        servers.append(start_sshd(tmp_path / f"sshd{len(servers)}"))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def talker() -> Iterator[Callable[[Callable[[socket.socket], None]], int]]:
    """Serve each connection of a loopback port with a function; returns the port."""
    servers: list[socket.socket] = []
    held: list[socket.socket] = []

    def serve(speak: Callable[[socket.socket], None]) -> int:
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                held.append(connection)
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

        def answer(connection: socket.socket) -> None:
            with contextlib.suppress(OSError):  # the client hung up, which is what most of these tests are about
                speak(connection)

        threading.Thread(target=accept, daemon=True).start()
        port: int = server.getsockname()[1]
        return port

    yield serve
    for each in (*servers, *held):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
