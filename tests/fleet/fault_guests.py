"""The third world of the fault matrix: a full host under emulation, which reboots, loses its link, has a clock to set.

The agent is the one of ``fault_agents`` with more dooms: what strikes there may be the host itself.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from fault_agents import BAKING, DOOM, POLICY, PROGRAMS, AgentWorld, doomed_agent
from fault_matrix import FORWARD, Fault, Row, Snapshot
from fault_snapshot import COMMAND, parse
from lab_fleet import LabFleet
from lab_kernels import CACHE

from fleet.lab.guests import GuestLab, guest
from fleet.rollout.execute import ssh
from inventory.connect import open_connection
from inventory.connect.errors import Unreachable
from probes.agent.apply import STEPS

LEVEL = "guests"
SERIES = "6.1-systemd"
WITHIN_S = 900.0
_DAY_S = 86_400
_CUT_S = 45
# Emulated hosts pay the emulator's price in user space.
_SLOW = ("--budget", "cpu_percent=6400", "--budget", "ns_per_event=1000000000", "--budget", "loss_percent=100")

# name → what the host does to itself, as a shell command
DOOMS = {
    "rebooted": "sync; echo b >/proc/sysrq-trigger",
    "clock-ahead": f"date -s @$(($(date +%s) + {_DAY_S}))",
    "clock-back": f"date -s @$(($(date +%s) - {_DAY_S}))",
    "link-down": f"(ip link set eth0 down; sleep {_CUT_S}; ip link set eth0 up) >/dev/null 2>&1 </dev/null &",
}
FAULTS = (
    Fault("rebooted", "the host restarts at once, without ending anything", ("PAUSED", "HALTED"), again=1,
          out=("retry", "reconcile", "resume")),
    Fault("clock-ahead", "the host's clock is set a day ahead", ("PAUSED", "HALTED")),
    Fault("clock-back", "the host's clock is set a day back", ("PAUSED", "HALTED")),
    Fault("link-down", f"the host's network link is down for {_CUT_S} seconds", ("PAUSED", "HALTED")),
)  # fmt: skip


class GuestFleet(LabFleet):
    """One guest as the whole fleet, and the patience it takes."""

    def shell(self, name: str, command: str) -> str:
        known = self.inventory()
        with open_connection(known[name], hosts=known, timeout_s=60) as connection:
            return connection.run(command, timeout=300).stdout.decode()

    def boot_id(self) -> str:
        """Which boot the host is in; empty while it does not answer."""
        try:
            return self.shell(next(iter(self.inventory())), "cat /proc/sys/kernel/random/boot_id")
        except (Unreachable, OSError):
            return ""


class GuestWorld(AgentWorld):
    """The same as with namespaced hosts, on a host that can be restarted."""

    fleet: GuestFleet
    # Told before it happens: the command's own answer has to get through.
    in_bake = tuple((fault, f"(sleep 1; {DOOMS[fault.name]}) >/dev/null 2>&1 </dev/null &") for fault in FAULTS)
    timeout_s, deadline_s = 60.0, 300.0

    def strike(self, row: Row) -> str:
        self.before = self.fleet.boot_id()
        return super().strike(row)

    def struck(self) -> bool:
        self._back()
        return self.fleet.boot_id() != self.before or super().struck()

    def mend(self, row: Row) -> None:
        """Wait until the host is there again, and set its clock by this machine's."""
        self._back()
        self.fleet.shell(self.canary, f"rm -f {DOOM}*; date -s @{time.time():.0f}")

    def _back(self) -> None:
        until = time.monotonic() + WITHIN_S
        while not self.fleet.boot_id():
            assert time.monotonic() < until, "the host does not come back"
            time.sleep(1)

    def snapshot(self) -> dict[str, Snapshot]:
        return {name: parse(self.fleet.shell(name, COMMAND)) for name in self.hosts}


@contextmanager
def guest_fleet() -> Iterator[GuestFleet]:
    """The guest, scanned, with the doomed agent in the place of the product's."""
    doomed = doomed_agent(DOOMS)
    real = ssh.agent_zipapp
    with tempfile.TemporaryDirectory(prefix="corollout-faults-") as folder, contextlib.ExitStack() as stack:
        lab = GuestLab(Path(folder) / "lab", CACHE, guests=[guest(SERIES)])
        stack.callback(lab.down)
        fleet = GuestFleet(lab, Path(folder) / "home", patience_s=WITHIN_S)
        stack.callback(setattr, ssh, "agent_zipapp", real)
        inventory = lab.up()
        ssh.agent_zipapp = lambda: (doomed, sha256(doomed).hexdigest())
        fleet.run("init")
        fleet.run("hosts", "import", str(inventory))
        fleet.run("hosts", "scan", "--timeout", "60", "--deadline", "300")
        yield fleet


def options_of(fleet: GuestFleet, program: str) -> tuple[str, ...]:
    """What a plan of *program* is asked with here."""
    lab = fleet.lab
    network = lab.address(lab.guests[0]).rpartition(".")[0]
    return (*_SLOW, "--policy", str(POLICY), "--controller", f"{network}.2/32") if program == "net-policy" else _SLOW


def rows() -> list[Row]:
    """A restart around each step of the agent, for both programs; the rest for the one that has timers and a link."""
    places = [*(f"{step.name} {when}" for step in STEPS for when in ("before", "after")), BAKING]
    found = [Row(LEVEL, FAULTS[0], FORWARD, place, program) for program in PROGRAMS for place in places]
    return found + [Row(LEVEL, fault, FORWARD, place, "net-policy") for fault in FAULTS[1:] for place in places]
