"""The child protocol from the child's side: events out on stdout, orders in on stdin, an end that cannot be missed.

The end comes by SIGTERM or when stdin closes, because then the holder is dead. A child that does not finish within
``GRACE_S`` seconds of it is killed by its own alarm, whatever it is stuck in.
"""

import json
import os
import queue
import select
import signal
import sys
import threading
from types import FrameType
from typing import Any, Iterator, List, Optional

GRACE_S = 8


class Channel:
    """One child's end of the protocol. Make it first: from then on nothing else can write to the real stdout."""

    def __init__(self) -> None:
        self._out = os.dup(1)
        os.dup2(2, 1)  # a stray print() of a module must not break the protocol
        sys.stdout = sys.stderr
        self._writing = threading.Lock()
        self._ending, self._end = os.pipe()
        self._orders: "queue.Queue[List[str]]" = queue.Queue(maxsize=64)
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=self._listen, name="orders", daemon=True).start()

    def say(self, event: str, **fields: Any) -> None:
        """Write one event line; when nobody reads any more, end."""
        fields["event"] = event
        data = json.dumps(fields, default=_plain).encode() + b"\n"
        try:
            with self._writing:
                while data:
                    data = data[os.write(self._out, data) :]
        except OSError:
            self.end()

    def stopping(self, timeout_s: float = 0.0) -> bool:
        """Wait up to *timeout_s* seconds; True as soon as the child must end."""
        try:
            return bool(select.select([self._ending], [], [], max(0.0, timeout_s))[0])
        except OSError:
            return True

    def orders(self) -> Iterator[List[str]]:
        """Yield the orders that have come in, each a list of words."""
        while True:
            try:
                yield self._orders.get_nowait()
            except queue.Empty:
                return

    def end(self) -> None:
        """Ask the child to end, with its alarm set; callable from a signal handler and from any thread."""
        signal.alarm(GRACE_S)
        os.write(self._end, b".")

    def _on_signal(self, _number: int, _frame: Optional[FrameType]) -> None:
        self.end()

    def _listen(self) -> None:
        pending = b""
        while True:
            try:
                data = os.read(0, 65536)
            except OSError:
                data = b""
            if not data:
                break
            lines = (pending + data[-65536:]).split(b"\n")
            pending = lines.pop()
            for line in lines:
                words = line.decode("utf-8", "replace").split()
                if words[:1] == ["quit"]:
                    self.end()
                elif words and not self._orders.full():
                    self._orders.put(words)
        self.end()


def _plain(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).hex()
    raise TypeError("%r does not belong in an event" % type(value).__name__)
