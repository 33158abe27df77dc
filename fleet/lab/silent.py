"""A listener that accepts connections on port 22 and never answers: the host that hangs."""

from __future__ import annotations

import socket


def main() -> None:
    """Accept for ever, keep every connection open, send nothing."""
    listener = socket.create_server(("", 22))
    held = []
    while True:
        held.append(listener.accept())


if __name__ == "__main__":
    main()
