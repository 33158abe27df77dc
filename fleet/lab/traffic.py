"""Traffic with known sizes between lab hosts: a server that answers, a client that counts. Ground truth for records.

``python -m fleet.lab.traffic serve PORT…`` and ``… ask ADDRESS PORT SENT RECEIVED [COUNT]`` run inside a host's network
namespace; the client prints one JSON line per connection, so that what really happened can be compared with records.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading
import time

_HEADER = struct.Struct("!II")  # bytes that follow, bytes to answer
ASK_TIMEOUT_S = 2.0


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(min(65_536, count - len(data)))
        if not piece:
            raise ConnectionError("closed early")
        data += piece
    return data


def _answer(connection: socket.socket) -> None:
    with connection:
        connection.settimeout(10)
        try:
            follow, wanted = _HEADER.unpack(_exactly(connection, _HEADER.size))
            _exactly(connection, follow)
            connection.sendall(b"a" * wanted)
            connection.recv(1)  # the client closes first
        except OSError:
            return


def serve(ports: list[int]) -> None:
    """Listen on *ports*, IPv4 and IPv6, and answer every client until killed; says ``ready`` once all listen."""

    def accept(listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_answer, args=(connection,), daemon=True).start()

    listeners = [socket.create_server(("", p), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128) for p in ports]
    for listener in listeners:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    threading.Event().wait()


def ask(address: str, port: int, sent: int, received: int) -> dict[str, object]:
    """Make one connection that sends *sent* bytes and reads *received*; return what happened."""
    begin = time.monotonic()
    truth: dict[str, object] = {"daddr": address, "dport": port, "tx_bytes": sent, "rx_bytes": received}
    try:
        with socket.create_connection((address, port), timeout=ASK_TIMEOUT_S) as connection:
            truth["saddr"], truth["sport"] = connection.getsockname()[:2]
            connection.sendall(_HEADER.pack(sent - _HEADER.size, received) + b"q" * (sent - _HEADER.size))
            _exactly(connection, received)
    except OSError as error:
        truth["error"] = type(error).__name__
    return {**truth, "ok": "error" not in truth, "took_ms": round((time.monotonic() - begin) * 1000, 1)}


def main(argv: list[str]) -> None:
    """Run the role that *argv* names."""
    if argv[0] == "serve":
        serve([int(p) for p in argv[1:]])
        return
    address, port, sent, received, *rest = argv[1:]
    for _ in range(int(rest[0]) if rest else 1):
        sys.stdout.write(json.dumps(ask(address, int(port), int(sent), int(received))) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
