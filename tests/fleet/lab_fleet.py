"""A real fleet for tests: the lab's eight hosts, a home of their own, and the command line as a person types it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleet.lab.hosts import LabHost
from fleet.lab.namespaces import Lab
from inventory.connect import open_connection
from inventory.host import Host
from inventory.sources import load

PROJECT = Path(__file__).resolve().parents[2]
FIXTURES = PROJECT / "tests" / "programs"
QUICK = ("--waves", "100", "--canary-bake", "1", "--bake", "1")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(PROJECT), "COROLLOUT_PROGRAMS": str(FIXTURES)}
_TRAFFIC = (sys.executable, "-m", "fleet.lab.traffic")


@dataclass
class LabFleet:
    """The hosts, their home, and what tests do with them."""

    lab: Lab
    home: Path
    patience_s: float = 180.0

    def argv(self, *arguments: str) -> list[str]:
        return [sys.executable, "-c", "from fleet.cli.main import run; run()", "--home", str(self.home), *arguments]

    def run(self, *arguments: str, code: int = 0) -> str:
        """Type a command; its exit code must be *code*."""
        done = subprocess.run(
            self.argv(*arguments), capture_output=True, text=True, env=ENVIRONMENT, timeout=self.patience_s, check=False
        )
        assert done.returncode == code, f"{arguments} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def ask(self, *arguments: str, code: int = 0) -> Any:
        """Type a command with -o json and return its document."""
        return json.loads(self.run(*arguments, "-o", "json", code=code))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Type a command and leave it running."""
        return subprocess.Popen(
            self.argv(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
        )

    def plan(self, program: str, *options: str) -> str:
        return str(self.ask("plan", program, *options, *QUICK)["id"])

    def roll_out(self, program: str, *options: str, code: int = 0) -> str:
        """Plan and carry out; returns the rollout's id."""
        self.run("rollout", "start", self.plan(program, *options), "--yes", code=code)
        return self.newest()

    def newest(self) -> str:
        return str(self.ask("rollout", "list")["rollouts"][0]["id"])

    def state(self, rollout_id: str) -> str:
        rollouts = {r["id"]: r["state"] for r in self.ask("rollout", "list")["rollouts"]}
        return str(rollouts[rollout_id])

    def host(self, name: str) -> LabHost:
        return next(h for h in self.lab.hosts if h.name == name)

    def inventory(self) -> dict[str, Host]:
        return {h.name: h for h in load(self.lab.folder / "hosts.toml", kind="toml")}

    def shell(self, name: str, command: str) -> str:
        """Run *command* on a host, as an operator would log in."""
        known = self.inventory()
        with open_connection(known[name], hosts=known) as connection:
            return connection.run(command, timeout=30).stdout.decode()

    def applied(self, name: str, program: str) -> int:
        """How often the host has really attached the program, as its own state counts it."""
        state = self.shell(name, f"cat /var/lib/corollout/programs/{program}/state.json 2>/dev/null || echo '{{}}'")
        return int(json.loads(state).get("applied", 0))

    @contextlib.contextmanager
    def servers(self, *names: str) -> Iterator[None]:
        running = []
        try:
            for name in names:
                argv = self.lab.command(self.host(name), [*_TRAFFIC, "serve", "8080", "9090"])
                process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
                running.append(process)
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
            time.sleep(0.6)  # the fallback knows a server by its listener, which it must have seen in a poll (250 ms)
            yield
        finally:
            for process in running:
                process.kill()
                process.wait()

    def connect(self, client: str, server: str, port: int, *, sent: int = 1234, received: int = 5000) -> dict[str, Any]:
        """Make one connection and return the client's account of it: the ground truth."""
        argv = [*_TRAFFIC, "ask", self.lab.address(self.host(server)), str(port), str(sent), str(received)]
        done = subprocess.run(
            self.lab.command(self.host(client), argv), capture_output=True, text=True, check=True, env=ENVIRONMENT
        )
        truth: dict[str, Any] = json.loads(done.stdout)
        return truth

    def records(self, host: str, program: str) -> list[dict[str, Any]]:
        lines = self.run("records", host, program, "--limit", "1000", "-o", "jsonl").splitlines()
        return [json.loads(line) for line in lines]

    def status(self, program: str, *, code: int = 0) -> dict[str, dict[str, Any]]:
        rows = self.ask("status", code=code)["programs"]
        return {r["host"]: r for r in rows if r.get("program") == program}


def eventually(condition: Callable[[], Any], what: str, *, within_s: float = 40.0) -> Any:
    """Return the first true value of *condition*, or fail after *within_s* seconds."""
    end = time.monotonic() + within_s
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, f"it never came: {what}"
        time.sleep(0.3)


def kill_9(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
