"""A host for the agent's tests: a state directory, the real zipapp, real children. Every process it makes it ends."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from probes.agent import process, scope
from probes.agent.zipapp import build_agent

DEADLINE_S = 30.0

# A fallback that really leaves something outside the agent's state (a file named by its tag) and really undoes it.
FALLBACK = """
import os, time

def _mark(context):
    return os.path.join(context.config["outside"], context.tag.replace(":", "_"))

def run(context):
    if context.config.get("refuse"):
        raise OSError(1, "the host says no")
    with open(_mark(context), "w") as file:
        file.write("on")
    if context.config.get("replace"):  # as networking must: one generation's policy takes the place of another's
        for name in os.listdir(context.config["outside"]):
            if os.path.join(context.config["outside"], name) != _mark(context):
                os.unlink(os.path.join(context.config["outside"], name))
    context.ready({"hooks": ["file:" + context.tag]})
    number = 0
    while not context.stopping(context.config.get("every_s", 0.05)):
        for _ in range(context.config.get("burst", 1)):
            number += 1
            context.emit({"number": number, "scope": context.scope["kind"]})
        if context.config.get("lose"):
            context.lost(context.config["lose"])
        context.counters([{"rule_id": 1, "packets": number}])
        if context.config.get("die") and number > context.config["die"]:
            raise RuntimeError("died on purpose")
        until = time.monotonic() + context.config.get("burn_s", 0)
        while time.monotonic() < until:
            pass

def remove(context):
    try:
        os.unlink(_mark(context))
    except FileNotFoundError:
        pass
"""

ADAPTER = """
def normalise(raw, clock):
    if raw["number"] % 10 == 0:
        return None
    if raw["number"] == 3:
        raise ValueError("three is not for us")
    return {"number": raw["number"], "seen_on": clock["host"]}
"""


def wait_for(what: Callable[[], Any], deadline_s: float = DEADLINE_S) -> Any:
    """Poll until *what* returns something true and return that; fail after the deadline."""
    until = time.monotonic() + deadline_s
    while True:
        found = what()
        if found:
            return found
        assert time.monotonic() < until, f"nothing within {deadline_s:g} s; last: {found!r}"
        time.sleep(0.02)


class AgentHost:
    """One state directory and the agent over it; ``python`` is the host's interpreter."""

    def __init__(self, folder: Path, python: str = sys.executable, prefix: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.state_inside = self.state  # its name for the agent, where that differs
        self.outside = folder / "outside"
        self.outside.mkdir(parents=True)
        self.agent = folder / "agent.pyz"
        self.agent.write_bytes(build_agent())
        self.python = python
        self.prefix = prefix
        self.seen: list[Mapping[str, Any]] = []

    def command(self, verb: str, *arguments: str) -> list[str]:
        return [*self.prefix, self.python, str(self.agent), verb, "--state", str(self.state_inside), *arguments]

    def run(self, verb: str, *arguments: str, stdin: bytes = b"") -> tuple[int, Any]:
        done = subprocess.run(
            self.command(verb, *arguments), input=stdin, capture_output=True, timeout=120, check=False
        )
        self.remember()
        assert done.stdout.count(b"\n") == 1, (done.stdout, done.stderr)
        return done.returncode, json.loads(done.stdout)

    def stage(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        status, answer = self.run("stage", digest, stdin=zlib.compress(data))
        assert status == 0, answer
        return digest

    def spec(self, **changes: Any) -> dict[str, Any]:
        """A tracing spec on the fallback above; *changes* replace keys, ``config`` and ``budget`` are merged."""
        config = {"outside": str(self.outside), **changes.pop("config", {})}
        budget = {
            "cpu_percent": 400.0,
            "ns_per_event": 1e6,
            "memory_mib": 512.0,
            "loss_percent": 5.0,
            "interval_s": 0.3,
            "strikes": 2,
            "action": "detach",
            **changes.pop("budget", {}),
        }
        spec: dict[str, Any] = {
            "schema": "corollout.spec/1",
            "program": "sample-trace",
            "kind": "tracing",
            "variant": "fallback",
            "build": "sha256:" + "0" * 64,
            "generation": 1,
            "host": "alpha",
            "files": {"module": hashlib.sha256(FALLBACK.encode()).hexdigest()},
            "btf": None,
            "record": None,
            "optional": [],
            "scope": {"kind": "host"},
            "config": config,
            "budget": budget,
            "fail_mode": "detach",
            "boot": "stay-off",
            "lease_s": 3600,
            "revert_s": 0,
            "kernel": scope.kernel(),
            "restart": {"limit": 0},  # most tests look at what a death leaves
        }
        return {**spec, **changes}

    def networking(self, **changes: Any) -> dict[str, Any]:
        """A networking spec on the same fallback: static, no lease, a revert timer."""
        changes["config"] = {"replace": True, **changes.get("config", {})}
        return self.spec(**{"kind": "networking", "fail_mode": "static", "lease_s": 0, "revert_s": 600, **changes})

    def apply(self, spec: Mapping[str, Any], token: int) -> tuple[int, Any]:
        return self.run("apply", "--spec", "-", "--token", str(token), stdin=json.dumps(spec).encode())

    def applied(self, spec: Mapping[str, Any], token: int) -> Any:
        status, answer = self.apply(spec, token)
        assert status == 0, answer
        return answer

    def row(self, program: str = "sample-trace") -> Any:
        status, answer = self.run("status", "--program", program)
        assert status == 0, answer
        return answer["programs"][0] if answer["programs"] else None

    def when(self, holds: Callable[[Any], Any]) -> Any:
        """Wait for a status row that *holds* and return it."""
        return wait_for(lambda: [row for row in (self.row(),) if row and holds(row)])[0]

    def reaches(self, state: str, reason: str = "") -> Any:
        """Wait until the program is in *state* for a reason that starts with *reason*; return the row."""
        return self.when(lambda row: row["state"] == state and (row["reason"] or "").startswith(reason))

    def marks(self) -> list[str]:
        return sorted(p.name for p in self.outside.iterdir())

    def document(self, name: str, program: str = "sample-trace") -> Any:
        return json.loads((self.state / "programs" / program / name).read_bytes())

    def make_due(self, name: str, key: str) -> None:
        """Let a lease or a revert be due now, as if its time had passed; the waiting process finds it so."""
        path = self.state / "programs/sample-trace" / name
        document = json.loads(path.read_bytes())
        beside = path.with_suffix(".due")
        beside.write_text(json.dumps({**document, key: 0}))
        beside.replace(path)

    def holder(self) -> Any:
        return self.document("state.json")["holder"]

    def child(self) -> Any:
        return self.document("status.json")["child"]

    def records(self, *arguments: str) -> list[Any]:
        command = self.command("records", "--program", "sample-trace", *arguments)
        done = subprocess.run(command, capture_output=True, timeout=60, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def remember(self) -> None:
        """Note every process that the state files name, so that close() can end even the forgotten ones."""
        for path in self.state.glob("programs/*/*.json"):
            try:
                document = json.loads(path.read_bytes())
            except (OSError, ValueError):
                continue
            self.seen += [k for k in (document.get(n) for n in ("holder", "child", "retiring")) if k]

    def close(self) -> list[int]:
        """End what is left; return the pids that still lived although nothing runs any more by the status."""
        self.remember()
        stray = {k["pid"] for k in self.seen if process.alive(k)}
        for pid in stray:
            os.kill(pid, signal.SIGKILL)
        return sorted(stray)
