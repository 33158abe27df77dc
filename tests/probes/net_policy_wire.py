"""Two joined namespaces, a net-policy variant in force in one of them, and packets between: arriving is the verdict."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import namespaces
from namespaces import Namespace

FOLDER = Path(__file__).parents[2] / "probes" / "programs" / "net_policy"
INSIDE = Path(__file__).parent / "net_policy_inside.py"
PYTHON = {"bcc": "/usr/bin/python3"}  # BCC belongs to the system's Python
QUIET_S = 0.2
# BCC compiles with the nearest headers there are, which Debian splits in two: one file system of both, for this test.
HEADERS = "/mnt"
MOUNTS = """
mount -t bpf bpf /sys/fs/bpf
for one in /usr/src/linux-headers-*-common; do
    mount -t overlay -o "lowerdir=${one%-common}-amd64:$one" none /mnt
done
echo; exec cat
"""


class Held:
    """A variant that is in force, with what it says."""

    def __init__(self, wire: Wire, variant: str, config: dict[str, Any]) -> None:
        self.variant, self.config = variant, config
        command = [*wire.enter, PYTHON.get(variant, sys.executable), str(INSIDE), "hold", variant, str(FOLDER)]
        environment = {**os.environ, "BCC_KERNEL_SOURCE": HEADERS}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.events: list[dict[str, Any]] = []
        self.order(json.dumps(config))
        try:
            self.until("ready")
        except BaseException:
            self.process.kill()
            raise

    def order(self, text: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def until(self, name: str) -> dict[str, Any]:
        assert self.process.stdout
        for line in self.process.stdout:
            event: dict[str, Any] = json.loads(line)
            self.events.append(event)
            if event["event"] == name:
                return event
            assert event["event"] != "error", event
        raise AssertionError(f"{self.variant} ended: {self.events[-3:]}")

    def counters(self) -> dict[Any, int]:
        """Packets by (rule, direction), zeros left out, as the adapter gives them."""
        if self.variant == "fallback":
            self.order("dump")
            rows = self.until("fresh")["rows"]
        else:
            self.order("dump counters")
            entries = self.until("map")["entries"]
            dump = [(bytes.fromhex(k), [bytes.fromhex(v) for v in values]) for k, values in entries]
            rows = adapter().counters({"counters": dump}, self.config)
        return {(row["rule_id"], row["dir"]): row["packets"] for row in rows if row["packets"]}

    def records(self) -> list[dict[str, Any]]:
        raws = [event["data"] for event in self.events if event["event"] == "record"]
        return [adapter().normalise(raw, {"offset_ns": 0, "host": "h"}) for raw in raws]

    def end(self) -> None:
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        assert self.process.stdout
        for line in self.process.stdout:
            self.events.append(json.loads(line))
        assert self.process.wait(20) == 0


@dataclass(frozen=True, slots=True)
class Wire:
    """``host`` is policed; ``peer`` has every remote address of the cases."""

    host: Namespace
    peer: Namespace
    mounts: int  # process whose mount namespace has a bpffs of the test's own

    @property
    def enter(self) -> list[str]:
        return ["nsenter", f"--net={self.host.path}", f"--mount=/proc/{self.mounts}/ns/mnt"]

    def run(self, where: Namespace, *words: str, text: str | None = None) -> str:
        return subprocess.run(
            [*where.enter, *words], input=text, stdout=subprocess.PIPE, text=True, check=True, timeout=60
        ).stdout

    def remote(self, address: str) -> None:
        bits = "128" if ":" in address else "32"
        nodad = ["nodad"] if ":" in address else []
        self.run(self.peer, "ip", "addr", "add", f"{address}/{bits}", "dev", "eth0", *nodad)
        self.run(self.host, "ip", "route", "add", f"{address}/{bits}", "dev", "eth0")

    def state(self) -> str:
        """Everything that a variant may leave: rules, sets, qdiscs and filters."""
        commands = (
            ["iptables-legacy-save"],
            ["ip6tables-legacy-save"],
            ["iptables-nft-save"],
            ["ip6tables-nft-save"],
            ["ipset", "save"],
            ["tc", "qdisc", "show", "dev", "eth0"],
            ["tc", "filter", "show", "dev", "eth0", "ingress"],
            ["tc", "filter", "show", "dev", "eth0", "egress"],
        )
        text = "".join(
            subprocess.run(
                [*self.host.enter, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False
            ).stdout
            for words in commands
        )
        # iptables itself leaves its empty built-in chains behind once it was asked anything.
        empty = re.compile(r"#|\*|COMMIT|:(INPUT|FORWARD|OUTPUT) ACCEPT")
        lines = [line for line in text.splitlines() if not empty.match(line)]
        return re.sub(r"\[\d+:\d+\]", "[]", "\n".join(lines))

    @contextlib.contextmanager
    def hold(self, variant: str, config: dict[str, Any]) -> Iterator[Held]:
        held = Held(self, variant, config)
        try:
            yield held
            held.end()
        finally:
            if held.process.poll() is None:
                held.process.kill()
                held.process.wait()
            self.remove(variant, config)

    def remove(self, variant: str, config: dict[str, Any]) -> None:
        python = PYTHON.get(variant, sys.executable)
        subprocess.run(
            [*self.enter, python, str(INSIDE), "remove", variant, str(FOLDER)],
            input=json.dumps(config) + "\n",
            stdout=subprocess.DEVNULL,
            text=True,
            check=True,
            timeout=60,
        )

    def arrived(self, direction: str, rows: Sequence[dict[str, Any]]) -> set[int]:
        """Send *rows* into or out of the host and return the ids of those that arrived."""
        sender, receiver = (self.peer, self.host) if direction == "ingress" else (self.host, self.peer)
        command = [*receiver.enter, sys.executable, str(INSIDE), "receive", str(QUIET_S)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin and process.stdout
            assert json.loads(process.stdout.readline())["event"] == "ready"
            self.run(sender, sys.executable, str(INSIDE), "send", text=json.dumps(list(rows)))
            process.stdin.close()
            return set(json.loads(process.stdout.readline())["ids"])


def adapter() -> Any:
    import probes.programs.net_policy.adapter as module

    return module


@contextlib.contextmanager
def wire(remotes: Sequence[str]) -> Iterator[Wire]:
    with (
        namespaces.pair() as (host, peer),
        subprocess.Popen(
            ["unshare", "-m", "sh", "-ec", MOUNTS], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as mounts,
    ):
        assert mounts.stdin and mounts.stdout
        assert mounts.stdout.readline()
        made = Wire(host, peer, mounts.pid)
        for address in remotes:
            made.remote(address)
        try:
            yield made
        finally:
            mounts.stdin.close()
