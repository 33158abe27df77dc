"""Test fixture: rollouts in every standing, in a record whose clock stands still; and one followed in a process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from scripted_hosts import plan_of, prepare

from fleet.record import Record, open_record
from fleet.record.rollout_views import SampleView
from fleet.rollout.driving.controller import new_id

START = 1_800_000_000.0  # 2027-01-15 08:00:00 UTC
WAVES = (["db-1", "web-1"], [f"web-{n}" for n in range(2, 12)], [f"edge-{n:02}" for n in range(88)])
NAMES = ("canary", "to 10 %", "to 100 %")
HOSTILE = "COR-AGT-007: \x1b[2J\x1b]0;owned\x07 the kernel said\nno: 日本語 and a good deal more than fits on a line"


class Clock:
    def __init__(self) -> None:
        self.at = START

    def __call__(self) -> float:
        return self.at


def _walk(record: Record, rollout: str, host: str, *states: str, detail: str | None = None) -> None:
    record.begin_step(rollout, host)
    for state in states:
        record.finish_step(rollout, host, state, detail=detail)


def _measure(record: Record, rollout: str, wave: int, hosts: list[str], cpu: float) -> None:
    record.record_samples(
        SampleView(h, "tcp-flow", rollout, wave, record.now(), window_s=1.0, cpu_percent=cpu + n / 100,
                   ns_per_event=210.0, events=900, memory_bytes=12 << 20, lost=0, loss_percent=0.0)
        for n, h in enumerate(hosts)
    )  # fmt: skip


def gate(answer: str, **checks: str) -> dict[str, object]:
    rows = [{"name": n, "answer": a, "detail": "told elsewhere"} for n, a in checks.items()]
    return {"answer": answer, "reason": "", "checks": rows, "failed_kernels": []}


def make(home: Path, standing: str) -> tuple[str, float]:
    """Make the record at *home* with a rollout in this *standing*; returns its id and the time it is."""
    clock = Clock()
    with open_record(home / "fleet.db", create=True, now=clock) as record:
        plan = plan_of(*WAVES, bake_s=300.0, canary_bake_s=600.0)
        waves = tuple(replace(w, name=name) for w, name in zip(plan.waves, NAMES, strict=True))
        rollout = prepare(record, replace(plan, waves=waves))
        if standing == "planned":
            return rollout, clock.at
        record.set_rollout_state(rollout, "RUNNING", verb="start", actor="ann", wave=0)
        record.set_wave(rollout, 0, state="running", phase="probe", started_at=clock.at)
        for host in WAVES[0]:
            clock.at += 2
            _walk(record, rollout, host, "attached", "verified", "healthy")
        record.set_wave(rollout, 0, state="baking", phase="bake", baking_since=clock.at)
        record.set_rollout_state(rollout, "BAKING", wave=0)
        _measure(record, rollout, 0, WAVES[0], 0.2)
        clock.at += 600
        record.set_wave(rollout, 0, state="passed", gate=gate("pass", finished="pass", cpu="pass"), ended_at=clock.at)
        record.set_wave(rollout, 1, state="running", phase="probe", started_at=clock.at)
        record.set_rollout_state(rollout, "RUNNING", wave=1)
        _STANDINGS[standing](record, rollout, clock)
        if standing in ("baking", "applying"):
            record.claim_rollout(rollout, new_id(), alive=lambda *_: True)
        return rollout, clock.at


def _baking(record: Record, rollout: str, clock: Clock) -> None:
    for host in WAVES[1][:-2]:
        clock.at += 1
        _walk(record, rollout, host, "attached", "verified")
    record.finish_step(rollout, WAVES[1][-2], "unreachable", detail="COR-SSH-003: no route to host")
    _walk(record, rollout, WAVES[1][-1], "failed", detail=HOSTILE)
    record.set_wave(rollout, 1, state="baking", phase="bake", baking_since=clock.at)
    record.set_rollout_state(rollout, "BAKING", wave=1)
    clock.at += 170
    _measure(record, rollout, 1, WAVES[1][:-2], 0.4)


def _applying(record: Record, rollout: str, clock: Clock) -> None:
    record.set_wave(rollout, 1, phase="apply")
    for host in WAVES[1][:4]:
        clock.at += 9
        record.begin_step(rollout, host)
    _walk(record, rollout, WAVES[1][4], "attached", "verified")


def _halted(record: Record, rollout: str, clock: Clock) -> None:
    _baking(record, rollout, clock)
    reason = "gate-failed: wave 1: cpu: over 1 % of one core on 2 of 10 hosts (web-2, web-3); worst 4.81"
    verdict = gate("fail", finished="pass", failures="fail", unreachable="pass", cpu="fail", memory="pass")
    record.set_wave(rollout, 1, state="failed", gate=verdict, ended_at=clock.at)
    record.set_rollout_state(rollout, "HALTED", verb="halt", reason=reason)


def _completed(record: Record, rollout: str, clock: Clock) -> None:
    for wave in (1, 2):
        for host in WAVES[wave]:
            clock.at += 1
            _walk(record, rollout, host, "attached", "verified", "healthy")
        record.set_wave(rollout, wave, state="passed", gate=gate("pass", finished="pass"), ended_at=clock.at)
    record.set_rollout_state(rollout, "COMPLETED", wave=2, ended_at=clock.at)


_STANDINGS = {"baking": _baking, "applying": _applying, "halted": _halted, "completed": _completed}
