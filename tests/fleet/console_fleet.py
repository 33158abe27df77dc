"""A record for the console's tests: the eight lab hosts with decisions really made, and rollouts in every mood."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from decide_cases import CASES, decide, facts, program

from btf.fault import Fault
from fleet.compatibility.verdict import Choice
from fleet.record import Record, open_record
from fleet.record.rollout_views import SampleView
from fleet.record.views import Difference
from fleet.rollout.planning.freeze import make_plan
from fleet.rollout.planning.settings import WaveSettings, WaveStep
from inventory.connect.errors import HostKeyChanged, Unreachable
from inventory.facts import Facts
from inventory.host import Host
from probes.catalogue import Build

NOW = 1_800_000_000.0
PROGRAMS = ("tcp-flow", "net-policy")

# host → the decision case of its kind, or the fault its scan ends with
LAB: Mapping[str, str | Fault] = {
    "plain-1": "lab-plain",
    "plain-2": "lab-plain-second",
    "no-btf": "lab-no-btf",
    "seccomp-eperm": "lab-seccomp-eperm",
    "seccomp-enosys": "lab-seccomp-enosys",
    "no-python": "no-python-no-bpf",
    "key-changed": HostKeyChanged("key-changed (198.18.77.16) shows another key than known_hosts holds"),
    "silent": Unreachable("silent (198.18.77.17) accepted the connection and then said nothing for 10 s"),
}


@dataclass(frozen=True)
class Scan:
    host: Host
    facts: Facts | None = None
    fault: Fault | None = None


class Clock:
    """A clock that stands still, and steps when told."""

    def __init__(self, at: float = NOW) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


def case_of(kind: str) -> dict[str, Any]:
    return json.loads((CASES / "choose" / f"{kind}.json").read_text())


def decisions(host: str, kind: str) -> list[Choice]:
    return [decide({**case_of(kind), "program": {"name": name}}, host) for name in PROGRAMS]


def make_lab(path: Path, clock: Clock | None = None) -> Record:
    """The eight lab hosts, scanned and decided two minutes ago."""
    clock = clock or Clock()
    clock.at -= 120
    record = open_record(path, create=True, now=clock)
    hosts = {name: Host(name, f"198.18.77.{10 + n}", zone="lab") for n, name in enumerate(LAB)}
    record.import_hosts(list(hosts.values()), "hosts.toml")
    for name, kind in LAB.items():
        if isinstance(kind, Fault):
            record.record_scan(Scan(hosts[name], fault=kind))
        else:
            case = case_of(kind)
            record.record_scan(Scan(hosts[name], facts(case.get("changes"), case.get("facts_only"))))
            record.record_choices(decisions(name, kind))
    clock.at += 120
    return record


def make_drift(record: Record) -> None:
    """Three hosts that a look an hour ago found to differ, and one that a hostile word tries to decorate."""
    at = record.now

    def look(host: str, *differences: tuple[str, str, str, str, str]) -> None:
        record.record_looks({host: [Difference(host, *d) for d in differences]})

    record.now, now = (lambda: at() - 3600.0), record.now
    look("plain-1", ("tcp-flow", "missing", "running", "stopped", "COR-AGT-024: the host rebooted"))
    look(
        "plain-2",
        ("net-policy", "wrong-tag", "policy 1f2e", "policy \x1b[31m9a9a", "another program sits there"),
        ("", "foreign", "", "3 programs", "cgroup_device sd_devices, kprobe other"),
    )
    record.now = now
    look("no-btf", ("tcp-flow", "kernel-changed", "ab12ab12ab12", "cd34cd34cd34", "now 6.12.1: to be decided again"))


def make_rollout(record: Record, *, plan_id: str = "plan-1", program_name: str = "tcp-flow") -> str:
    """A rollout of a real plan of the lab's decisions, not started."""
    choices = record.choices(program_name)
    builds = {v: Build(program_name, v, f"sha256:{v}", {}, {}) for v in ("core", "core-btf", "bcc", "fallback")}
    plan = make_plan(
        program(name=program_name),
        choices,
        record.definitions().values(),
        WaveSettings(waves=(WaveStep("50%"),), canary_bake_s=60.0, bake_s=30.0),
        builds,
        config={},
        now=record.now(),
        id=plan_id,
    )
    record.save_plan(plan)
    return record.create_rollout(plan_id, "ann")


def walk(
    record: Record, rollout: str, wave: int, states: Sequence[str], details: Mapping[str, str] | None = None
) -> list[str]:
    """Take the hosts of *wave* to *states*, one after the other; returns their names."""
    hosts = [s.host for s in record.steps(rollout, wave=wave)]
    for host in hosts:
        record.begin_step(rollout, host)
        for state in states:
            record.finish_step(rollout, host, state, detail=(details or {}).get(host))
    return hosts


def measure(record: Record, rollout: str, wave: int, hosts: Sequence[str], *, cpu: float = 0.2, **fields: Any) -> None:
    record.record_samples(
        SampleView(
            h, "tcp-flow", rollout, wave, record.now(), window_s=5.0, cpu_percent=cpu + n / 100, ns_per_event=210.0,
            events=4000, memory_bytes=12 * 1024 * 1024, lost=0, loss_percent=0.0, **fields,
        )
        for n, h in enumerate(hosts)
    )  # fmt: skip


GATE_PASS = {
    "answer": "pass",
    "checks": [
        {"name": "success", "answer": "pass", "detail": "2 of 2 hosts healthy"},
        {"name": "cpu", "answer": "pass", "detail": "worst 0.21 of 1 % of one core"},
    ],
}
GATE_FAIL = {
    "answer": "fail",
    "checks": [
        {"name": "success", "answer": "pass", "detail": "1 of 1 hosts healthy"},
        {"name": "cpu", "answer": "fail", "detail": "plain-1: 3 of 3 samples above 1 % of one core"},
    ],
}


def make_running(record: Record) -> str:
    """The canaries passed, wave 1 bakes."""
    rollout = make_rollout(record)
    record.claim_rollout(rollout, "ctl-1", alive=lambda _c, _s: True)
    record.set_rollout_state(rollout, "RUNNING", wave=0)
    measure(record, rollout, 0, walk(record, rollout, 0, ("attached", "verified", "healthy")))
    record.set_wave(rollout, 0, state="passed", gate=GATE_PASS)
    record.set_rollout_state(rollout, "BAKING", wave=1)
    hosts = walk(record, rollout, 1, ("attached", "verified", "healthy"))
    measure(record, rollout, 1, hosts, cpu=0.9)
    record.set_wave(rollout, 1, state="baking", baking_since=record.now() - 10)
    return rollout


def make_halted(record: Record) -> str:
    """A canary cost too much."""
    rollout = make_rollout(record)
    record.set_rollout_state(rollout, "RUNNING", wave=0)
    first, *rest = walk(record, rollout, 0, ("attached", "verified", "healthy"))
    measure(record, rollout, 0, [first], cpu=7.5, tripped=True)
    measure(record, rollout, 0, rest)
    record.finish_step(rollout, first, "failed", detail="COR-AGT-020: the watchdog stopped it: cpu 7.5 % of 1 %")
    record.set_wave(rollout, 0, state="failed", gate=GATE_FAIL)
    record.set_rollout_state(rollout, "HALTED", wave=0, reason="gate-failed: cpu above budget on wave 0")
    return rollout


def make_paused(record: Record) -> str:
    """The first wave was inconclusive; a person must say how to go on."""
    rollout = make_rollout(record)
    record.set_rollout_state(rollout, "RUNNING", wave=0)
    walk(record, rollout, 0, ("attached", "verified"))
    record.set_wave(rollout, 0, state="inconclusive")
    record.set_rollout_state(rollout, "PAUSED", wave=0, reason="gate-inconclusive: no events were seen")
    return rollout
