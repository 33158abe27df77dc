"""Children that speak the child protocol, for tests: start one, wait for its events, give it orders, end it."""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from probes.catalogue import RUNNER

ROOT = Path(__file__).parents[2]
TCP_FLOW = ROOT / "probes/programs/tcp_flow"
BURN = ROOT / "tests/programs/burn"
DEADLINE_S = 60.0

# A mount namespace of its own, with tracefs in it: nothing is mounted for anybody else.
WITH_TRACEFS = ("unshare", "-m", "sh", "-c", 'mount -t tracefs none /sys/kernel/tracing && exec "$@"', "sh")
SCOPE_HOST = "config:00000000=" + "00" * 16

Event = dict[str, Any]


class Child:
    """A running child and what it has said."""

    def __init__(self, command: Sequence[str | Path]) -> None:
        self.process = subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.said: list[Event] = []
        self._queue: queue.Queue[Event | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._queue.put(json.loads(line))
        self._queue.put(None)

    def wait(self, name: str, **fields: Any) -> Event:
        """Return the next event called *name* whose *fields* are equal; others are kept in ``said``."""
        while True:
            event = self._queue.get(timeout=DEADLINE_S)
            assert event is not None, f"ended before {name}: {self.said[-3:]}"
            self.said.append(event)
            if event["event"] == name and all(event.get(key) == value for key, value in fields.items()):
                return event

    def order(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def records(self, count: int) -> list[Event]:
        """Wait until *count* records have come and return the data of all."""
        while True:
            found = [event["data"] for event in self.said if event["event"] == "record"]
            if len(found) >= count:
                return found
            self.wait("record")

    def rest(self) -> list[Event]:
        """Wait for its end and return everything it said."""
        while (event := self._queue.get(timeout=DEADLINE_S)) is not None:
            self.said.append(event)
        self.process.wait(DEADLINE_S)
        return self.said

    def end(self) -> list[Event]:
        self.process.send_signal(signal.SIGTERM)
        return self.rest()


@contextlib.contextmanager
def child(command: Sequence[str | Path]) -> Iterator[Child]:
    """Start *command*; kill it at the end if it still runs."""
    held = Child(command)
    try:
        yield held
    finally:
        held.process.kill()
        held.process.wait()
        for pipe in (held.process.stdin, held.process.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()


def hold(*arguments: str | Path, inside: Sequence[str] = WITH_TRACEFS) -> contextlib.AbstractContextManager[Child]:
    """Hold an object with the runner; the runner is exec'd, so the child is the runner itself."""
    return child([*inside, RUNNER, "hold", *arguments])


def bpfrun(*arguments: str | Path, inside: Sequence[str] = ()) -> tuple[int, list[Event]]:
    """Run the runner to its end; return the exit code and its events."""
    done = subprocess.run(
        [str(word) for word in (*inside, RUNNER, *arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]
