"""A rollout of a fleet of real SSH servers on this machine, and its rollback; nothing is simulated.

Every host is an sshd of its own, with a host key and an address of its own in 127.77.0.0/16, and without Python: the
static runner, sent to each, loads, holds and watches a BPF program in the running kernel. What a host does is not
counted as the controller's. As root. Usage: ``bench_endpoints.py [HOSTS]``
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "fleet"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "inventory"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from own_sshd import SSHD, keygen
from proof_objects import compile_proof

from bench.bare_plan import bare_plan
from fleet.record import open_record
from fleet.rollout.driving.engine import run_rollout
from fleet.rollout.execute.artefacts import Artefacts
from fleet.rollout.execute.budget import Budget
from fleet.rollout.execute.ssh import agent_executors
from fleet.rollout.planning.plan import Plan
from fleet.rollout.planning.settings import WaveSettings
from inventory.host import Host

AT_ONCE = 32
PROGRAM = "bench-quiet"
PORT = 2222
TOOLS = ("sh", "cat", "mkdir", "mv", "rm", "chmod", "sha256sum", "gzip", "ls", "echo")  # all that such a host needs


def address(number: int) -> str:
    return f"127.77.{number // 250}.{1 + number % 250}"


@contextmanager
def servers(folder: Path, count: int) -> Iterator[dict[str, Host]]:
    """Start *count* SSH servers and yield the hosts they are."""
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    (folder / "bin").mkdir()
    for tool in TOOLS:
        (folder / "bin" / tool).symlink_to(shutil.which(tool) or f"/bin/{tool}")
    client = keygen(folder / "client")
    started: list[subprocess.Popen[bytes]] = []

    def start(number: int) -> Host:
        assert SSHD, "openssh-server is not installed (make setup does it)"
        name, here = f"h{number:04}", folder / "hosts" / f"h{number:04}"
        here.mkdir(parents=True)
        key = keygen(here / "host_key")
        (here / "config").write_text(
            f"Port {PORT}\nListenAddress {address(number)}\nHostKey {key}\nAuthorizedKeysFile {client}.pub\n"
            "AuthenticationMethods publickey\nPermitRootLogin prohibit-password\nStrictModes no\nUsePAM no\n"
            f"PidFile none\nPrintMotd no\nLogLevel ERROR\nSetEnv PATH={folder}/bin\n"
        )
        public = " ".join(key.with_suffix(".pub").read_text().split()[:2])
        (here / "known_hosts").write_text(f"[{address(number)}]:{PORT} {public}\n")
        command = [SSHD, "-D", "-e", "-f", str(here / "config")]
        with (here / "log").open("wb") as log:
            started.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        return Host(
            name, address=address(number), port=PORT, key_file=str(client), known_hosts=str(here / "known_hosts"),
            state_dir=str(here / "state"),
        )  # fmt: skip

    try:
        with ThreadPoolExecutor(8) as pool:
            hosts = {host.name: host for host in pool.map(start, range(count))}
        yield hosts
    finally:
        for process in started:
            process.kill()
            process.wait()
        subprocess.run(["pkill", "-f", f"^{folder}/hosts/"], check=False)  # runners that a bench cut short left


def planned(hosts: dict[str, Host], digest: str) -> Plan:
    """Waves of 1, 5 %, 25 % and the rest."""
    settings = WaveSettings(samples=1, breaches=1, canary_bake_s=2.0, bake_s=2.0, parallel=AT_ONCE, progress_s=3600.0)
    names = list(hosts)
    ends = [0, 1, *(max(1, round(share * len(names))) for share in (0.05, 0.25, 1.0))]
    waves = [names[begin:end] for begin, end in pairwise(ends) if begin < end]
    return bare_plan(PROGRAM, "core", {"object": digest}, waves, settings)


def held() -> int:
    """How many of the bench's programs the kernel holds."""
    shown = subprocess.run(["bpftool", "-j", "prog", "show"], capture_output=True, check=True).stdout
    return sum(p.get("name") == "p" and p.get("type") == "raw_tracepoint" for p in json.loads(shown))


def available_mib() -> int:
    line = next(row for row in Path("/proc/meminfo").read_text().splitlines() if row.startswith("MemAvailable"))
    return int(line.split()[1]) // 1024


def driven(home: Path, rollout: str, factory: Any, hosts: int) -> None:
    began, used = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
    state = run_rollout(home, rollout, executor_factory=factory)
    wall, now = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF)
    cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    with open_record(home / "fleet.db") as record:
        steps = record.steps(rollout)
        audit = record.last_event_id()
    spans = sorted(s.ended_at - s.started_at for s in steps if s.started_at and s.ended_at)
    size = sum(p.stat().st_size for p in home.glob("*.db*"))
    p50, p99 = (spans[int(len(spans) * share)] if spans else 0.0 for share in (0.5, 0.99))
    print(f"  {state}: {dict(Counter(s.state for s in steps))}; {held()} programs in the kernel")
    print(f"    controller {cpu:.1f} s = {1000 * cpu / hosts:.1f} ms a host, peak {now.ru_maxrss / 1024:.0f} MiB; "
          f"wall {wall:.0f} s = {hosts / wall:.1f} hosts/s")  # fmt: skip
    if state == "COMPLETED":
        print(f"    a host from its token to verified: p50 {p50:.1f} s, p99 {p99:.1f} s")
    print(f"    record and journal {size / hosts:.0f} bytes a host, {audit / hosts:.1f} audit rows a host; "
          f"load {os.getloadavg()[0]:.1f}", flush=True)  # fmt: skip


def main(count: int) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        before, free = held(), available_mib()
        began = time.monotonic()
        with servers(folder, count) as hosts:
            took = time.monotonic() - began
            print(f"{count} SSH servers in {took:.0f} s, {free - available_mib()} MiB; {before} programs there before; "
                  f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs", flush=True)  # fmt: skip
            artefacts = Artefacts(folder / "artefacts")
            plan = planned(hosts, artefacts.put(compile_proof("raw_tp", folder).read_bytes()))
            with open_record(folder / "fleet.db", create=True) as record:
                record.import_hosts(hosts.values(), "bench")
                record.save_plan(plan)
                rollout = record.create_rollout(plan.id, "bench")
            budget = Budget(per_zone=AT_ONCE)
            factory = budget.within(agent_executors(hosts, artefacts, kept=budget.kept), hosts)
            driven(folder, rollout, factory, count)
            print(f"    the hosts with their runners take {free - available_mib()} MiB", flush=True)
            with open_record(folder / "fleet.db") as record:
                record.request(rollout, "rollback", "bench")
            driven(folder, rollout, factory, count)
            print(f"  after the rollback {held() - before} of our programs are left")


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 1000)
