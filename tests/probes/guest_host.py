"""A host guest for the agent's tests: the real zipapp on a real kernel, reached over SSH as an operator would."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent_host import AgentHost

from fleet.lab.guests import Guest, GuestLab
from inventory.sources import load
from probes.agent.zipapp import build_agent

PATIENCE_S = 900.0  # emulated, on a machine that does other things too


class GuestShell:
    """A way into one guest of a lab that is up."""

    def __init__(self, lab: GuestLab, guest: Guest) -> None:
        host = next(h for h in load(lab.folder / "hosts.toml", kind="toml") if h.name == guest.name)
        self.words = (
            *("ssh", "-p", str(host.port), "-i", str(host.key_file), "-o", f"UserKnownHostsFile={host.known_hosts}"),
            *("-o", "BatchMode=yes", "-o", "ConnectTimeout=60", f"root@{host.address}"),
        )

    def run(self, command: str, stdin: bytes = b"") -> bytes:
        """Run *command* in the guest's shell; it must end well."""
        done = subprocess.run([*self.words, command], input=stdin, capture_output=True, timeout=PATIENCE_S, check=False)
        assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
        return done.stdout

    def put(self, data: bytes, path: str) -> None:
        self.run(f"cat >{path}", data)

    def ask(self, command: str, document: Any = None) -> Any:
        """Run a command that reads one JSON document and writes one."""
        return json.loads(self.run(command, json.dumps(document).encode()))


class GuestAgent(AgentHost):
    """One state directory of the agent inside a guest; several can be there side by side."""

    def __init__(self, folder: Path, shell: GuestShell, name: str) -> None:
        super().__init__(folder, python="python3", prefix=shell.words)
        self.shell = shell
        self.agent = Path("/root/agent.pyz")
        self.state_inside = Path("/var/lib/corollout-" + name)
        shell.put(build_agent(), str(self.agent))

    def run(self, verb: str, *arguments: str, stdin: bytes = b"") -> tuple[int, Any]:
        done = subprocess.run(
            self.command(verb, *arguments), input=stdin, capture_output=True, timeout=PATIENCE_S, check=False
        )
        assert done.stdout.count(b"\n") == 1, (done.stdout, done.stderr)
        return done.returncode, json.loads(done.stdout)

    def build(self, variant: str, files: Mapping[str, Path], **changes: Any) -> dict[str, Any]:
        """The spec of one build on the kernel that is there, with a budget for a machine as slow as this one."""
        kernel = self.run("facts")[1]["facts"]
        made = self.spec(
            variant=variant,
            files={role: self.stage(path.read_bytes()) for role, path in files.items()},
            kernel={name: kernel[f"kernel.{name}"].get("value") for name in ("build_id", "release")},
            budget={"cpu_percent": 6400.0, "ns_per_event": 1e9, "interval_s": 5.0, "memory_mib": 128.0},
        )
        return {**made, **changes}

    def record_lines(self, program: str) -> list[dict[str, Any]]:
        """Every record the agent has kept."""
        words = self.command("records", "--program", program, "--limit", "10000")
        done = subprocess.run(words, capture_output=True, timeout=PATIENCE_S, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]


def progress(line: str) -> None:
    """Say where a long test is; `make proof` shows it."""
    os.write(2, f"proof: {line}\n".encode())
