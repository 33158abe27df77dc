"""Just enough netlink to read links, addresses and rule dumps, and to hook a program into a namespace of our own."""

import errno
import os
import socket
import struct
from typing import Dict, List, Tuple

ROUTE, SOCK_DIAG, NETFILTER = 0, 4, 12
REQUEST, ACK, DUMP, CREATE, EXCL = 1, 4, 0x300, 0x400, 0x200
_ERROR, _DONE = 2, 3


class Netlink:
    """One netlink socket; every wait ends after *timeout* seconds with OSError."""

    def __init__(self, family: int, timeout: float = 2.0) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, family)
        self._socket.settimeout(timeout)
        self._socket.bind((0, 0))
        self._sequence = 0

    def __enter__(self) -> "Netlink":
        return self

    def __exit__(self, *ignored: object) -> None:
        self._socket.close()

    def ask(self, kind: int, flags: int, payload: bytes) -> List[Tuple[int, bytes]]:
        """Send one request and return the answers as (type, payload); raises OSError with the kernel's errno."""
        self._sequence += 1
        header = struct.pack("=IHHII", 16 + len(payload), kind, REQUEST | flags, self._sequence, 0)
        self._socket.send(header + payload)
        answers: List[Tuple[int, bytes]] = []
        while True:
            data = self._socket.recv(65536)
            at = 0
            while at + 16 <= len(data):
                size, kind, _, sequence, _ = struct.unpack_from("=IHHII", data, at)
                if size < 16:
                    raise OSError(errno.EBADMSG, "broken netlink answer")
                body = data[at + 16 : at + size]
                at += (size + 3) // 4 * 4
                if sequence != self._sequence:
                    continue
                if kind == _DONE:
                    return answers
                if kind == _ERROR:
                    number = -struct.unpack_from("=i", body)[0]
                    if number:
                        raise OSError(number, os.strerror(number))
                    return answers
                answers.append((kind, body))
            if not flags & DUMP and answers:
                return answers


def attribute(kind: int, payload: bytes) -> bytes:
    """Return one attribute, padded."""
    size = 4 + len(payload)
    return struct.pack("=HH", size, kind) + payload + b"\0" * (-size % 4)


def attributes(data: bytes) -> Dict[int, bytes]:
    """Return the attributes of *data* by type; flags in the type are dropped, a broken tail is ignored."""
    at = 0
    found: Dict[int, bytes] = {}
    while at + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        if size < 4 or at + size > len(data):
            break
        found[kind & 0x3FFF] = data[at + 4 : at + size]
        at += (size + 3) // 4 * 4
    return found


def text(payload: bytes) -> str:
    """Return a zero-terminated string attribute."""
    return payload.split(b"\0", 1)[0].decode("ascii", "replace")
