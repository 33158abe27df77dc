"""The far end of a simulated fleet, as a process of its own: every host's agent, answering at one local socket.

A connection is one login to one host. What goes over it is what goes over SSH: the command line that
``fleet.rollout.execute.ssh`` makes for a POSIX shell, and its input; back come exit status and output. So all of the
controller is the real one. An agent here keeps its promises (tokens never go back, the same order again changes
nothing), in memory. ``script`` says who misbehaves, and how. Usage: ``simulated_hosts.py SOCKET SCRIPT``.

Frames: a line of JSON with the sizes of what follows.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

KERNELS = 20
SLOW_S = 0.5
VERBS = ("missing", "stage", "check", "apply", "confirm", "status", "renew", "remove")


def kernel_of(host: str) -> dict[str, str]:
    """Return the kernel that a host runs; names end in a number."""
    number = int(host.rpartition("-")[2]) % KERNELS
    return {"build_id": f"{number:040x}", "release": f"6.1.{number}-sim"}


class Agent:
    """What one host remembers."""

    __slots__ = ("applied", "build", "has", "host", "looks", "state", "token", "way")

    def __init__(self, host: str, way: str) -> None:
        self.host, self.way = host, way
        self.has: set[str] = set()
        self.token = self.applied = self.looks = 0
        self.state, self.build = "absent", ""

    def run(self, command: str, stdin: bytes) -> tuple[int, bytes]:
        """Answer a command as the host's shell would."""
        words = shlex.split(command.partition("exec python3 ")[2])
        verb = next((i for i, word in enumerate(words) if word in VERBS), None)
        if verb is None:  # the zipapp is brought
            self.has.add("agent")
            return 0, b""
        if "agent" not in self.has:
            return 97, b""
        return getattr(self, f"do_{words[verb]}")(words[verb + 1 :], stdin)

    def do_missing(self, digests: list[str], _: bytes) -> tuple[int, bytes]:
        return said(missing=[d for d in digests if d not in self.has])

    def do_stage(self, words: list[str], _: bytes) -> tuple[int, bytes]:
        self.has.add(words[0])
        return said()

    def do_check(self, _: list[str], stdin: bytes) -> tuple[int, bytes]:
        json.loads(stdin)
        return said(loaded=["flow_open", "flow_close"], log_lines=12)

    def do_apply(self, words: list[str], stdin: bytes) -> tuple[int, bytes]:
        token, spec = int(words[words.index("--token") + 1]), json.loads(stdin)
        if token < self.token:
            return refused("COR-AGT-003", "stale token")
        if self.way == "fails":
            return refused("COR-AGT-008", "the kernel refused to attach")
        already = (self.token, self.state) == (token, "running")
        if not already:
            self.token, self.state, self.build = token, "running", spec["build"]
            self.applied += 1
        return said(already=already, program=spec["program"], token=token)

    def do_confirm(self, _: list[str], __: bytes) -> tuple[int, bytes]:
        return said(already=False)

    def do_renew(self, _: list[str], __: bytes) -> tuple[int, bytes]:
        return said()

    def do_remove(self, words: list[str], _: bytes) -> tuple[int, bytes]:
        self.token, self.state = int(words[words.index("--token") + 1]), "stopped"
        return said(already=False)

    def do_status(self, words: list[str], _: bytes) -> tuple[int, bytes]:
        self.looks += 1
        programs = [] if self.state == "absent" else [self.entry(words[words.index("--program") + 1])]
        return said(
            schema="corollout.status/1", boot_id=f"boot-{self.host}", kernel=kernel_of(self.host), now=time.time(),
            programs=programs,
        )  # fmt: skip

    def entry(self, program: str) -> dict[str, Any]:
        tripped = self.way == "trips" and self.looks > 2
        runs = self.state == "running" and not tripped
        return {
            "program": program, "variant": "core", "build": self.build, "generation": 1, "token": self.token,
            "state": "tripped" if tripped else self.state, "applied": self.applied, "lease": None, "revert": None,
            "reason": "COR-AGT-020: cpu_percent 9 over 1" if tripped else None, "observed": {"alive": runs},
            "sample": {
                "at": float(self.looks), "window_s": 1.0, "cpu_percent": 0.1, "ns_per_event": 90, "events": 1000,
                "memory_bytes": 1 << 20, "lost": 0, "records": 10, "loss_percent": 0.0,
            },
        }  # fmt: skip


def said(**answer: Any) -> tuple[int, bytes]:
    return 0, json.dumps({"ok": True, **answer}).encode()


def refused(code: str, message: str) -> tuple[int, bytes]:
    return 1, json.dumps({"ok": False, "code": code, "message": message}).encode()


async def serve(place: str, script: dict[str, str]) -> None:
    agents: dict[str, Agent] = {}

    async def login(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            host = (await reader.readline()).decode().strip()
            agent = agents.setdefault(host, Agent(host, script.get(host, "")))
            if agent.way == "silent":
                return
            writer.write(b"in\n")
            while line := await reader.readline():
                head = json.loads(line)
                stdin = await reader.readexactly(head["stdin"])
                if agent.way == "slow":
                    await asyncio.sleep(SLOW_S)
                status, stdout = agent.run(head["command"], stdin)
                writer.write(json.dumps({"status": status, "stdout": len(stdout)}).encode() + b"\n" + stdout)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_unix_server(login, place, limit=1 << 24, backlog=1024)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], json.loads(Path(sys.argv[2]).read_text())))
