"""net-policy under the real agent: variants take over from each other, holders die, the policy stands all the while."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_host import AgentHost, wait_for
from net_policy_wire import FOLDER, HEADERS, Wire, wire
from test_net_policy_kernel import IN, OPEN, rule, table, tcp, udp

from probes.catalogue import RUNNER

pytestmark = pytest.mark.kernel

PROGRAM = "net-policy"
FILES = {
    "core": {"object": FOLDER / "core.bpf.o", "runner": RUNNER},
    "bcc": {"source": FOLDER / "legacy.bcc.c"},
    "fallback": {"module": FOLDER / "fallback.py"},
}


class Policed(AgentHost):
    """An agent on the policed side of a wire."""

    def __init__(self, folder: Path, line: Wire) -> None:
        self.line = line
        prefix = (*line.enter, "env", f"BCC_KERNEL_SOURCE={HEADERS}")
        super().__init__(folder, python="/usr/bin/python3", prefix=prefix)

    def policy(self, variant: str, generation: int, config: dict[str, Any]) -> dict[str, Any]:
        roles = {**FILES[variant], "adapter": FOLDER / "adapter.py"}
        made = self.networking(
            program=PROGRAM,
            variant=variant,
            generation=generation,
            files={role: self.stage(path.read_bytes()) for role, path in roles.items()},
            record="net_policy_event",
            scope={"kind": "netns"},
            budget={"interval_s": 0.4, "action": "static"},
        )
        return {**made, "config": config}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Policed]:
    with wire(()) as line:
        made = Policed(tmp_path, line)
        before = line.state()
        try:
            yield made
        finally:
            made.run("remove", "--program", PROGRAM, "--token", str(2**40))
            stray = made.close()
        assert stray == []
        assert line.state() == before


def counted(host: Policed) -> dict[Any, int]:
    row = host.row(PROGRAM)
    return {(r["rule_id"], r["dir"]): r["packets"] for r in row["counters"] if r["packets"]} if row else {}


def test_variants_take_over_from_each_other(host: Policed) -> None:
    order = ("core", "bcc", "fallback", "bcc", "core")
    for generation, variant in enumerate(order, start=1):
        host.applied(host.policy(variant, generation, OPEN), generation)
        row = host.row(PROGRAM)
        assert (row["state"], row["variant"]) == ("running", variant)
        assert tcp(host.line, IN, 80)
        assert not tcp(host.line, IN, 81)
        assert udp(host.line, IN, 81, version=6) == "lost"
        wait_for(lambda: counted(host).get(("default", IN)))
        assert counted(host).get((1, IN))
    row = host.row(PROGRAM)
    assert row["applied"] == len(order)
    records = wait_for(lambda: list(samples(host)))
    assert {(r["dir"], r["dport"], r["rule_id"], r["action"]) for r in records} == {(IN, 81, "default", "deny")}
    assert {r["host"] for r in records} == {"alpha"}


def samples(host: Policed) -> Iterator[dict[str, Any]]:
    done = subprocess.run(host.command("records", "--program", PROGRAM), capture_output=True, timeout=60, check=True)
    yield from (json.loads(line) for line in done.stdout.splitlines())


@pytest.mark.parametrize("variant", ["core", "bcc", "fallback"])
def test_a_policy_outlives_its_holder_and_not_its_removal(host: Policed, variant: str) -> None:
    host.applied(host.policy(variant, 1, OPEN), 1)
    os.kill(host.document("state.json", PROGRAM)["holder"]["pid"], signal.SIGKILL)
    wait_for(lambda: host.row(PROGRAM)["state"] != "running")
    assert tcp(host.line, IN, 80)
    assert not tcp(host.line, IN, 81)
    status, answer = host.run("remove", "--program", PROGRAM, "--token", "2")
    assert status == 0, answer
    assert tcp(host.line, IN, 81)


def test_a_table_that_does_not_fit_is_refused_and_the_old_one_stands(host: Policed) -> None:
    host.applied(host.policy("core", 1, OPEN), 1)
    rows = [rule(n, IN, "deny", "10.0.0.0/8") for n in range(1, 5000)]
    status, answer = host.apply(host.policy("core", 2, table(rows)), 2)
    assert status and answer["ok"] is False
    assert "4096" in answer["message"]
    assert tcp(host.line, IN, 80)
    assert not tcp(host.line, IN, 81)
