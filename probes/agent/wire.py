"""Messages between an apply and the holder it started: JSON lines over one socket pair. Nothing else uses it."""

import json
import socket
import time
from typing import Any, Dict, List, Optional

_MAX = 16 * 1024 * 1024


class Wire:
    """One end. ``closed`` is true once the other end is gone."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._pending = b""
        self.closed = False

    def fileno(self) -> int:
        """Return the descriptor, to wait on."""
        return self._end.fileno()

    def send(self, message: Dict[str, Any]) -> None:
        """Send one message; a dead other end is found out when reading."""
        try:
            self._end.settimeout(10)
            self._end.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            pass

    def messages(self, timeout_s: float = 0.0) -> List[Dict[str, Any]]:
        """Return the messages of one read, waiting at most *timeout_s* seconds for it."""
        try:
            self._end.settimeout(max(timeout_s, 0.001))
            data = self._end.recv(1024 * 1024)
        except socket.timeout:
            return []
        except OSError:
            data = b""
        if not data or len(self._pending) > _MAX:
            self.closed = True
            return []
        lines = (self._pending + data).split(b"\n")
        self._pending = lines.pop()
        return [json.loads(line.decode("utf-8")) for line in lines if line]

    def receive(self, timeout_s: float) -> Optional[Dict[str, Any]]:
        """Wait for the next message; None when the time is over or the other end is gone."""
        until = time.monotonic() + timeout_s
        while not self.closed and time.monotonic() < until:
            for message in self.messages(until - time.monotonic()):
                return message
        return None

    def close(self) -> None:
        """Close this end; idempotent."""
        self._end.close()
