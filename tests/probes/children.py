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

    def close(self) -> None:
        """Kill it if it still runs and close its pipes."""
        assert self.process.stdin and self.process.stdout
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(OSError):
            self.process.stdin.close()  # what a killed strace held goes on until its input ends
        self._reader.join(DEADLINE_S)
        self.process.stdout.close()

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
        held.close()


def hold(*arguments: str | Path, inside: Sequence[str] = WITH_TRACEFS) -> contextlib.AbstractContextManager[Child]:
    """Hold an object with the runner; the runner is exec'd, so the child is the runner itself."""
    return child([*inside, RUNNER, "hold", *arguments])


def compile_object(name: str, into: Path, **macros: str) -> Path:
    """Compile tests/probes/objects/NAME.bpf.c as the project compiles its own objects."""
    out = into / f"{name}{''.join(macros.values())}.bpf.o"
    words = subprocess.run(
        ["make", "-s", "-f", "-", "flags"],
        input="include probes/build.mk\nflags:\n\t@echo $(CLANG) $(BPF_CFLAGS)\n",
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    source = ROOT / "tests/probes/objects" / f"{name}.bpf.c"
    defines = [f"-D{key}={value}" for key, value in macros.items()]
    # Test programs take a context that they do not read.
    subprocess.run([*words, "-Wno-unused-parameter", *defines, "-c", source, "-o", out], cwd=ROOT, check=True)
    return out


def refusing(command: str, run: Sequence[str | Path]) -> list[str]:
    """Return the words that run *run* on a kernel that refuses one bpf() command.

    *command* is text that strace shows in the call, `BPF_LINK_CREATE`. The calls are counted in a first run, since only
    the n-th call of a name can be made to fail.
    """
    shown = subprocess.run(
        ["strace", "-qq", "-e", "trace=bpf", *map(str, run)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    ).stderr
    calls = [line for line in shown.splitlines() if line.startswith("bpf(")]
    numbers = [number for number, line in enumerate(calls, 1) if command in line]
    assert numbers, f"no {command} among {len(calls)} calls"
    words = ["strace", "-qq", "-o", "/dev/null", "-e", "trace=bpf", "-e", f"inject=bpf:error=EINVAL:when={numbers[0]}"]
    return [*words, *map(str, run)]


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
