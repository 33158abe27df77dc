"""What a rollout of a whole fleet costs its controller: the real plan, record, engine, executor and gate.

Only the far end is simulated (``simulated_hosts``), by a process whose time is not counted: some hosts are slow, some
silent, some refuse, some trip, by a seeded rule, never canaries. Processor time is the controller's own; the wall's
clock says more about the machine. The record is in memory (``/dev/shm``), as a commit waits for the disk, and a shared
disk says nothing of the rest. Usage: ``bench_fleet.py [HOSTS] [--profile | --plan]``; ``--plan`` stops before the first
host is touched.
"""

from __future__ import annotations

import cProfile
import json
import os
import pstats
import random
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


from bench.simulated_hosts import KERNELS, kernel_of
from btf.archive.archive import Archive
from fleet.compatibility.verdict import Choice, Verdict
from fleet.prepare import Wishes, prepare
from fleet.record import Record, open_record
from fleet.rollout.driving.engine import run_rollout
from fleet.rollout.execute.artefacts import Artefacts
from fleet.rollout.execute.budget import Budget
from fleet.rollout.execute.ssh import agent_executors
from fleet.rollout.planning.plan import read_plan
from fleet.rollout.planning.settings import WaveSettings
from inventory.connect import Completed
from inventory.connect.errors import ConnectionLost, NotBegun, Unreachable
from inventory.host import Host
from probes.catalogue import load_catalogue

SEED = 5
WAYS = {"slow": 0.02, "silent": 0.005, "fails": 0.001, "trips": 0.001}
PARALLEL = 32


class SimulatedConnection:
    """A login to one simulated host; see ``inventory.connect.Connection``."""

    took: ClassVar[list[float]] = []  # seconds, of every command
    logins = 0

    def __init__(self, host: Host, place: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(60)
        self._socket.connect(str(place))
        self._socket.sendall(host.name.encode() + b"\n")
        self._file = self._socket.makefile("rb")
        if self._file.readline() != b"in\n":
            self.close()
            raise Unreachable(f"{host.name}: no answer")
        SimulatedConnection.logins += 1

    def run(
        self, command: str, *, stdin: bytes = b"", timeout: float = 60.0, limit: int = 8 * 1024 * 1024
    ) -> Completed:
        del timeout, limit  # nothing here hangs, and nothing is large
        began = time.perf_counter()
        try:
            self._socket.sendall(json.dumps({"command": command, "stdin": len(stdin)}).encode() + b"\n" + stdin)
        except OSError as error:
            raise NotBegun(str(error)) from None
        line = self._file.readline()
        if not line:
            raise ConnectionLost("the simulator went away")
        head = json.loads(line)
        stdout = self._file.read(head["stdout"])
        SimulatedConnection.took.append(time.perf_counter() - began)
        return Completed(head["status"], stdout, b"")

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Profile:
    """Where the processor's time of every thread goes; measuring about doubles it."""

    def __init__(self) -> None:
        self._made: list[cProfile.Profile] = []
        self._run = threading.Thread.run

    def __enter__(self) -> Self:
        run, made = self._run, self._made

        def profiled(thread: threading.Thread) -> None:
            profile = cProfile.Profile(time.thread_time)
            made.append(profile)
            profile.runcall(run, thread)

        threading.Thread.run = profiled  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        threading.Thread.run = self._run  # type: ignore[method-assign]
        stats = pstats.Stats(*self._made)
        stats.sort_stats("cumulative").print_stats(r"(fleet|inventory|probes|bench)/|sqlalchemy/orm/session|dbos/_", 45)
        stats.sort_stats("tottime").print_stats(25)


def choices(hosts: int, program: str) -> Iterator[Choice]:
    digests = [f"{n:064x}" for n in range(2000)]
    for n in range(hosts):
        name = f"host-{n:06}"
        kernel = f"{kernel_of(name)['build_id']}/x86_64"
        yield Choice(name, program, kernel, digests[n % 2000], "core", Verdict.FITS, "core fits")


def fill(record: Record, hosts: int, program: str) -> None:
    record.import_hosts([Host(f"host-{n:06}") for n in range(hosts)], "bench")
    record.record_choices(choices(hosts, program))


class Watch:
    """A stretch of time: by the wall's clock, and the processor's."""

    def __enter__(self) -> Self:
        self._began = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self._began[0], time.process_time() - self._began[1]


def peak() -> float:
    """Peak resident memory of this process, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def size(home: Path) -> int:
    return sum(p.stat().st_size for p in home.glob("*.db*"))


def misbehaving(plan: Any) -> dict[str, str]:
    """Who misbehaves, and how; never a canary."""
    chance, found = random.Random(SEED), {}
    for host in (h.host for wave in plan.waves[1:] for h in wave.hosts):
        at = chance.random()
        for way, share in WAYS.items():
            at -= share
            if at < 0:
                found[host] = way
                break
    return found


def of(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] * 1000 if values else 0.0


def bench(hosts: int, home: Path, *, profile: bool, only_plan: bool) -> None:
    print(f"{hosts} simulated hosts, {KERNELS} kernel builds, {PARALLEL} at a time; "
          f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs", flush=True)  # fmt: skip
    program = load_catalogue()["tcp-flow"]
    settings = WaveSettings(
        parallel=PARALLEL, samples=1, breaches=1, canary_bake_s=2.0, bake_s=2.0, failed_cap=hosts, progress_s=3600.0
    )
    artefacts, made = Artefacts(home / "artefacts"), Watch()
    with open_record(home / "fleet.db", create=True) as record:
        fill(record, hosts, program.name)
        filled = size(home)
        with made:
            plan = prepare(record, Archive(home / "btf"), artefacts, program, settings, Wishes())
            text = len(plan.text())
        record.save_plan(plan)
        rollout = record.create_rollout(plan.id, "bench")
        inventory = record.definitions()
        script = misbehaving(plan)
    planned = sum(len(w.hosts) for w in plan.waves)
    print(f"  plan of {planned} hosts in {len(plan.waves)} waves: processor {made.cpu:.2f} s, wall {made.wall:.2f} s, "
          f"{text / planned:.0f} bytes a host, peak {peak():.0f} MiB", flush=True)  # fmt: skip
    del plan
    if only_plan:
        return loaded(home, rollout)
    (home / "script.json").write_text(json.dumps(script))
    place = home / "socket"
    far = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("simulated_hosts.py")), place, home / "script.json"]
    )
    try:
        while not place.exists():
            time.sleep(0.05)
        carried(home, rollout, inventory, artefacts, place, hosts, filled, profile=profile)
    finally:
        far.terminate()
        far.wait()


def loaded(home: Path, rollout: str) -> None:
    """Tell what a controller needs before it touches a host: the plan once, how hosts are reached, a wave's steps."""
    with open_record(home / "fleet.db") as record, Watch() as took:
        plan = read_plan(record.plan_text(record.rollout(rollout).plan_id))
        hosts = record.definitions()
        waiting = record.steps(rollout, wave=len(plan.waves) - 1, states=("pending",))
    print(f"  taken up with {len(hosts)} hosts, {len(waiting)} steps in the last wave: processor {took.cpu:.2f} s, "
          f"peak {peak():.0f} MiB; {size(home) / len(hosts):.0f} bytes a host in the record", flush=True)  # fmt: skip


def carried(
    home: Path,
    rollout: str,
    inventory: Any,
    artefacts: Artefacts,
    place: Path,
    hosts: int,
    filled: int,
    *,
    profile: bool,
) -> None:
    budget = Budget(per_zone=PARALLEL)
    connect = agent_executors(
        inventory, artefacts, connect=lambda host, **_: SimulatedConnection(host, place), kept=budget.kept
    )
    took = Watch()
    with Profile() if profile else threading.Lock(), took:
        state = run_rollout(home, rollout, executor_factory=budget.within(connect, inventory))
    calls = SimulatedConnection.took
    with open_record(home / "fleet.db") as record:
        steps = record.steps(rollout)
        spans = [s.ended_at - s.started_at for s in steps if s.started_at and s.ended_at]
        audit = record.last_event_id()
    ends = Counter(s.state for s in steps)
    grown = size(home) - filled
    print(f"  {state}: {dict(ends)}; {SimulatedConnection.logins} logins, {len(calls)} commands", flush=True)
    print(f"  controller: processor {took.cpu:.1f} s = {1000 * took.cpu / hosts:.1f} ms a host, "
          f"{1000 * took.cpu / max(1, len(calls)):.2f} ms a command;\n"
          f"    wall {took.wall:.1f} s = {hosts / took.wall:.0f} hosts/s, "
          f"{len(calls) / took.wall:.0f} commands/s; peak {peak():.0f} MiB")  # fmt: skip
    print(f"  a command: p50 {of(calls, 0.5):.1f} ms, p99 {of(calls, 0.99):.1f} ms; "
          f"from token to verified: p50 {of(spans, 0.5):.0f} ms, p99 {of(spans, 0.99):.0f} ms")  # fmt: skip
    print(f"  record and journal: {filled / hosts:.0f} bytes a host before, {grown / hosts:.0f} more after; "
          f"{audit / hosts:.1f} audit rows a host; load {os.getloadavg()[0]:.1f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1].isdigit() else 1000
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        bench(count, Path(folder), profile="--profile" in sys.argv, only_plan="--plan" in sys.argv)
