"""Bounds for a conversation that has not earned trust: bytes before the login."""

from __future__ import annotations

import contextlib
import re
import socket
from typing import Any

_MAX_GREETING = 8 * 1024  # bytes before a server must have said SSH-
_MAX_HANDSHAKE = 1024 * 1024  # bytes until we are logged in
_IDLE_S = 5.0
_GREETING = re.compile(rb"(?:\A|\n)SSH-[^\n]*\n")


class Wire:
    """The socket (or jump channel) under a transport: counts what comes in until we are logged in.

    paramiko collects an endless greeting in memory; this stops it, and remembers whether anything was said at all.
    """

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._head = bytearray()
        self.heard = 0
        self.greeted = False
        self.trusted = False

    def trust(self) -> None:
        """Take note that we are logged in: no more bounds, and an idle connection is looked at seldom.

        paramiko looks ten times a second whether it is closed meanwhile, which for a hundred kept connections is a
        twentieth of a processor; closing tears the socket down, which wakes it.
        """
        self.trusted = True
        self._sock.settimeout(_IDLE_S)

    def recv(self, size: int) -> bytes:
        """Receive, or raise OSError when more came than a login needs."""
        data: bytes = self._sock.recv(size)
        if not self.trusted:
            self.heard += len(data)
            if not self.greeted:
                self._head += data
                self.greeted = _GREETING.search(self._head) is not None
            if self.heard > (_MAX_HANDSHAKE if self.greeted else _MAX_GREETING):
                raise OSError("too much before the login")
        return data

    def tear_down(self) -> None:
        """End every wait on the socket, from any thread."""
        with contextlib.suppress(OSError, EOFError):
            if isinstance(self._sock, socket.socket):
                self._sock.shutdown(socket.SHUT_RDWR)
            else:
                self._sock.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)
