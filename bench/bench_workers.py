"""Hosts per second, CPU and bytes per host of a rollout: one process on SQLite, one and three workers on PostgreSQL.

Hosts are scripted (every call takes PAUSE_S and touches a file), so this is what engine, record and workers cost
without SSH. Usage: ``bench_workers.py [HOSTS]``.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "fleet"))

from pg_server import Server
from scripted_hosts import ScriptedHosts, plan_of

from fleet.record import open_record
from fleet.rollout.driving.engine import run_rollout
from inventory.host import Host

TESTS = Path(__file__).resolve().parents[1] / "tests" / "fleet"
HOSTS = int(sys.argv[1]) if len(sys.argv) > 1 else 300
PAUSE_S = 0.02
ZONES = ("a", "b", "c")
PARALLEL = 16


def prepared(place: Path | str) -> int:
    """Put hosts, plan and rollout into the record; returns its size before the rollout."""
    names = [f"{ZONES[n % 3]}{n}" for n in range(HOSTS)]
    plan = plan_of(names[:3], names[3:], bake_s=0.5, canary_bake_s=0.5, parallel=PARALLEL)
    with open_record(place, create=True) as record:
        record.import_hosts([Host(n, connection="local", labels={"zone": n[0]}) for n in names], "bench")
        record.save_plan(plan)
        record.create_rollout(plan.id, "bench")
    return 0


def cpu(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def on_sqlite(home: Path) -> tuple[float, float, float]:
    place = home / "fleet.db"
    prepared(place)
    files = lambda: sum(p.stat().st_size for p in home.glob("*.db*"))  # noqa: E731
    before, begun, used = files(), time.monotonic(), cpu(resource.RUSAGE_SELF)
    hosts = ScriptedHosts(home / "hosts")
    hosts.before = lambda *_: time.sleep(PAUSE_S)
    state = run_rollout(home, "tcp-flow-1", executor_factory=hosts.connect)
    assert state == "COMPLETED", state
    return time.monotonic() - begun, cpu(resource.RUSAGE_SELF) - used, files() - before


def on_server(home: Path, server: Server, workers: int) -> tuple[float, float, float]:
    place = server.database()
    prepared(place)
    size = f"SELECT pg_database_size('{place.split('/')[3].split('?')[0]}')"
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parents[1]}:{TESTS}"}
    zones = [[zone] for zone in ZONES] if workers == 3 else [list(ZONES)]
    used = cpu(resource.RUSAGE_CHILDREN)
    command = [sys.executable, str(TESTS / "worker_process.py"), str(home), place, "60", str(PAUSE_S)]
    processes = [subprocess.Popen([*command, *served], env=environment, stderr=subprocess.DEVNULL) for served in zones]
    with open_record(place) as record:
        while len(record.workers()) < len(zones):
            time.sleep(0.1)
        before, begun = server.sql(size)[0][0], time.monotonic()
        record.request("tcp-flow-1", "start", "bench")
        while record.rollout("tcp-flow-1").state != "COMPLETED":
            time.sleep(0.1)
        took = time.monotonic() - begun
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        process.wait()
    return took, cpu(resource.RUSAGE_CHILDREN) - used, server.sql(size)[0][0] - before


def told(name: str, took: float, used: float, grew: float) -> None:
    print(
        f"{name:28} {took:7.1f} s {HOSTS / took:7.1f} hosts/s {used / HOSTS * 1000:7.1f} ms CPU/host"
        f" {grew / HOSTS / 1024:6.1f} KiB/host"
    )


def main() -> None:
    print(
        f"{HOSTS} scripted hosts in {len(ZONES)} zones, {PARALLEL} at a time in each, {PAUSE_S * 1000:.0f} ms a call;"
    )
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs; the start of workers is counted as CPU")
    with tempfile.TemporaryDirectory() as folder:
        told("SQLite, one process", *on_sqlite(Path(folder)))
    root = Path(tempfile.mkdtemp(prefix="pg-"))
    try:
        server = Server(root, safe=True)
        try:
            for workers in (1, 3):
                with tempfile.TemporaryDirectory() as folder:
                    told(f"PostgreSQL, {workers} worker{'s'[: workers > 1]}", *on_server(Path(folder), server, workers))
        finally:
            server.stop()
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
