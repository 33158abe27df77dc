"""How long it takes to plan 100,000 hosts × 12 programs, and how much memory; in memory, and from the record.

Each way runs in a process of its own, so that its peak of memory is its own. What is timed is planning alone: reading
(from the record), deciding who comes in which wave, the plan and its digest; keeping the plans is told apart. Hosts run
one of 60 kernel builds; 1 in 20 can run nothing; three variants are used. Numbers depend on the machine.
"""

from __future__ import annotations

import gc
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

HOSTS, PROGRAMS, KERNELS = 100_000, 12, 60
VARIANTS = ("core", "core", "core", "bcc", "fallback")
GOAL_S, GOAL_MB = 10.0, 1024


def choices_of(name: str) -> Iterator[object]:
    from fleet.compatibility.verdict import Choice, Verdict

    digests = [f"{n:064x}" for n in range(2000)]  # hosts of one image share their facts
    kernels = [f"{n:040x}/x86_64" for n in range(KERNELS)]
    for n in range(HOSTS):
        host, kernel, digest = f"host-{n:06}", kernels[n % KERNELS], digests[n % 2000]
        if n % 20 == 7:
            yield Choice(host, name, kernel, digest, None, Verdict.REFUSED, "the kernel has no bpf() at all")
        else:
            variant = VARIANTS[n % KERNELS % len(VARIANTS)]
            yield Choice(host, name, kernel, digest, variant, Verdict.FITS, f"{variant} fits")


def programs() -> list[object]:
    """Twelve programs that differ in name only: the catalogue's tcp-flow."""
    import msgspec

    from probes.catalogue import Program, load_catalogue

    ours = load_catalogue()["tcp-flow"]
    manifests = [msgspec.structs.replace(ours.manifest, name=f"program-{n:02}") for n in range(PROGRAMS)]
    return [Program(ours.folder, manifest) for manifest in manifests]


class Watch:
    """Adds up what is timed: by the wall's clock, and the processor's, which a busy machine blurs less."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self.wall += time.perf_counter() - self._began[0]
        self.cpu += time.process_time() - self._began[1]

    def __str__(self) -> str:
        return f"{self.wall:6.2f} s (processor {self.cpu:5.2f} s)"


def told(way: str, took: Watch, extra: str = "") -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{way:<40} {took}  peak {peak:5.0f} MB  {extra}", flush=True)


def in_memory() -> None:
    from fleet.rollout.planning.freeze import make_plan
    from fleet.rollout.planning.settings import WaveSettings
    from inventory.host import Host

    hosts = [Host(f"host-{n:06}") for n in range(HOSTS)]
    took = Watch()
    for program in programs():
        choices = list(choices_of(program.name))
        builds = {v: program.build(v) for v in set(VARIANTS)}
        with took:
            plan = make_plan(program, choices, hosts, WaveSettings(), builds, config={}, now=0.0, id="plan")
            assert plan.digest
    told("pure, from choices in memory", took, f"{took.cpu / HOSTS / PROGRAMS * 1e6:.1f} us per host and program")


def fill(home: Path) -> None:
    from fleet.record import open_record
    from inventory.host import Host

    with open_record(home / "fleet.db", create=True) as record:
        record.import_hosts([Host(f"host-{n:06}") for n in range(HOSTS)], "bench")
        for program in programs():
            record.record_choices(choices_of(program.name))


def from_record(home: Path, *, running: bool) -> None:
    from btf.archive.archive import Archive
    from fleet.prepare import Wishes, prepare
    from fleet.record import open_record
    from fleet.rollout.execute.artefacts import Artefacts
    from fleet.rollout.planning.settings import WaveSettings

    settings = WaveSettings()
    took, kept = Watch(), Watch()
    size = planned = 0
    with open_record(home / "fleet.db") as record:
        if running:
            run_everything(home)
        for program in programs():
            with took:
                plan = prepare(record, Archive(home / "btf"), Artefacts(home / "made"), program, settings, Wishes())
                assert plan.digest
            with kept:
                record.save_plan(plan)
            size = len(plan.text())
            planned = len(plan.hosts)
    extra = f"{planned} hosts each; keeping them {kept}, {size / HOSTS:.0f} bytes per host"
    told("from the record" + (", all running it already" if running else ""), took, extra)


def run_everything(home: Path) -> None:
    """Let every host run the first plan of its program: what a plan compares with."""
    import sqlite3

    with sqlite3.connect(home / "fleet.db") as connection:
        connection.execute("INSERT INTO rollout (id, plan_id, program, state, wave, epoch, leg, actor, created_at) "
                           "SELECT id, id, program, 'COMPLETED', 3, 1, 1, 'bench', 0 FROM plan")  # fmt: skip
        connection.execute(
            "INSERT INTO assignment (host, program, variant, build, token, rollout_id, since) "
            "SELECT json_extract(h.value, '$.host'), plan.program, json_extract(h.value, '$.variant'), "
            "json_extract(h.value, '$.build'), 1, plan.id, 0 FROM plan, json_each(plan.document, '$.waves') w, "
            "json_each(w.value, '$.hosts') h"
        )


WAYS = {
    "memory": lambda _home: in_memory(),
    "fill": fill,
    "record": lambda home: from_record(home, running=False),
    "running": lambda home: from_record(home, running=True),
}


def main() -> None:
    print(f"{HOSTS} hosts x {PROGRAMS} programs; goal: {GOAL_S:g} s and {GOAL_MB} MB", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for way in WAYS:
            subprocess.run([sys.executable, __file__, way, folder], check=True)


if __name__ == "__main__":
    gc.collect()
    if len(sys.argv) > 1:
        WAYS[sys.argv[1]](Path(sys.argv[2]))
    else:
        main()
