"""A host with systemd that really reboots, on a real kernel: what runs again by itself, and what does not.

One full guest under emulation serves all; `make proof` runs this, `make test` does not.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "fleet"))
from children import RUNNER, TCP_FLOW
from guest_host import PATIENCE_S, GuestAgent, GuestShell, progress
from lab_kernels import CACHE

from fleet.lab.guests import GuestLab, guest

pytestmark = pytest.mark.proof

FILES = {"object": TCP_FLOW / "core.bpf.o", "runner": RUNNER, "adapter": TCP_FLOW / "adapter.py"}
RESTART = {"limit": 5, "backoff_s": 1.0}
CONNECT = 'import os, socket; socket.create_connection(("127.0.0.1", int(os.environ["SSH_CONNECTION"].split()[-1])))'


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuestShell]:
    lab = GuestLab(tmp_path_factory.mktemp("guest") / "lab", CACHE, guests=[guest("6.1-systemd")])
    lab.up(progress)
    try:
        yield GuestShell(lab, lab.guests[0])
    finally:
        lab.down()


@pytest.fixture
def agent(shell: GuestShell, tmp_path: Path) -> Iterator[GuestAgent]:
    made = GuestAgent(tmp_path / "agent", shell, "host")
    yield made
    for program in ("sample-trace", "asked", "off"):
        made.run("remove", "--program", program, "--token", "1000")
    said = made.run("clean", "--older-s", "0")[1]
    assert said["residue"] == [] and made.run("status")[1]["residue"] == []
    assert shell.run("ls /etc/systemd/system | grep -c corollout || true").strip() == b"0"
    assert shell.run("systemctl list-units --all 'corollout*' --no-legend | grep -v scope || true") == b""


def patiently(what: Callable[[], Any]) -> Any:
    until = time.monotonic() + PATIENCE_S
    while not (found := what()):
        assert time.monotonic() < until
        time.sleep(1)
    return found


def boot_of(shell: GuestShell) -> bytes:
    return shell.run("cat /proc/sys/kernel/random/boot_id")


def reboot(shell: GuestShell) -> None:
    """Reboot as an operator would, and wait until the host answers with another boot id."""
    before = boot_of(shell)
    shell.run("(sleep 1; systemctl reboot) >/dev/null 2>&1 </dev/null &")

    def answers() -> bool:
        try:
            return boot_of(shell) != before
        except (AssertionError, OSError):
            return False

    patiently(answers)


def trace(agent: GuestAgent, **changes: Any) -> dict[str, Any]:
    """tcp-flow, with a budget and a pace for a machine as slow as this one."""
    made = agent.spec(
        variant="core",
        files={role: agent.stage(path.read_bytes()) for role, path in FILES.items()},
        kernel=agent.run("status")[1]["kernel"],
        budget={"cpu_percent": 6400.0, "ns_per_event": 1e9, "interval_s": 30.0},
    )
    return {**made, "record": "flow_record", "restart": RESTART, **changes}


def test_a_reboot_brings_back_what_says_so_and_nothing_else(agent: GuestAgent, shell: GuestShell) -> None:
    progress("reboot: applying three programs")
    made = trace(agent, boot="reattach")
    agent.applied(made, 1)
    for number, (program, boot) in enumerate((("asked", "ask"), ("off", "stay-off")), start=2):
        agent.applied({**made, "program": program, "boot": boot}, number)
    assert agent.run("status", "--program", "off")[1]["supervisor"]["boot"].startswith("systemd: corollout-")
    progress("reboot: rebooting")
    reboot(shell)
    progress("reboot: back")
    row = patiently(lambda: (r := agent.row()) and r["state"] == "running" and r["observed"]["alive"] and r)
    assert (row["token"], row["applied"], row["boot"]) == (1, 1, "reattach")
    assert all(program["attached"] for program in row["observed"]["programs"])
    asked = patiently(lambda: (r := agent.row("asked")) and r["state"] == "waiting" and r)
    assert asked["reason"].startswith("COR-AGT-030") and not asked["observed"]["alive"]
    assert agent.row("off")["reason"].startswith("COR-AGT-029")
    shell.run(f"python3 -c '{CONNECT}'")
    assert patiently(lambda: agent.record_lines("sample-trace"))
    journal = shell.run(f"cat {agent.state_inside}/programs/sample-trace/journal.jsonl").decode()
    assert journal.count('"reattached"') == 1
    assert agent.run("boot", "--program", "asked", "--yes")[1]["programs"] == {"asked": "running"}
    progress("reboot: all as their specs say")


def test_the_end_of_the_session_is_not_the_end_of_what_it_started(agent: GuestAgent, shell: GuestShell) -> None:
    """What logind does with KillUserProcesses at the end of a session: everything in its scope is killed."""
    spec = trace(agent, restart={"limit": 0})
    session = "systemd-run --scope --quiet --unit=session-test --"
    words = agent.command("apply", "--spec", "-", "--token", "1001")[len(agent.prefix) :]
    shell.ask(f"{session} {' '.join(words)}", spec)
    holder = agent.row()["observed"]
    assert holder["alive"]
    shell.run("systemctl kill --signal=KILL session-test.scope 2>/dev/null; systemctl stop session-test.scope || true")
    assert agent.row()["observed"] == holder
    place = shell.run("grep -l . /proc/$(pgrep -f 'hold --state' | head -1)/cgroup | xargs cat").decode()
    assert "corollout-apply" in place, place
