"""A made-up fleet of any size in a record, for tests and benchmarks of lists and screens. Deterministic; never real."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

from sqlalchemy import insert

from fleet.record.database import Record
from fleet.record.tables import ChoiceRow, FactsRow, HostRow, KernelRow

# release, distribution: each becomes a few builds
RELEASES = (
    ("3.10.0-1160.el7.x86_64", "CentOS Linux 7"),
    ("4.18.0-553.el8_10.x86_64", "Rocky Linux 8.10"),
    ("5.4.0-200-generic", "Ubuntu 20.04.6 LTS"),
    ("5.10.0-32-cloud-amd64", "Debian GNU/Linux 11"),
    ("5.15.0-130-generic", "Ubuntu 22.04.5 LTS"),
    ("6.1.0-28-amd64", "Debian GNU/Linux 12"),
    ("6.8.0-51-generic", "Ubuntu 24.04.1 LTS"),
    ("6.12.9-amd64", "Debian GNU/Linux 13"),
)
PROGRAMS = ("tcp-flow", "net-policy")
_BATCH = 5000
_REACH = ("reachable",) * 17 + ("unreachable", "refused", "garbage")
_LADDER = (("core", "fits"), ("core-btf", "degraded"), ("bcc", "degraded"), ("fallback", "degraded"), (None, "blocked"))
_EMPTY_FACTS = b'{"schema":"corollout.facts/1","collected_at":0,"took_ms":0,"facts":{}}'


def fill(record: Record, hosts: int, *, kernels: int = 60, at: float = 1_700_000_000.0) -> None:
    """Add *hosts* hosts on *kernels* kernel builds, with decisions for two programs, straight into the tables."""
    with record.writing() as session:
        session.execute(
            insert(FactsRow), [{"digest": "made-up", "document": zlib.compress(_EMPTY_FACTS), "collected_at": at}]
        )
        session.execute(insert(KernelRow), [_kernel(i, at) for i in range(kernels)])
    for start in range(0, hosts, _BATCH):
        numbers = range(start, min(start + _BATCH, hosts))
        with record.writing() as session:
            session.execute(insert(HostRow), [_host(i, kernels, at) for i in numbers])
            session.execute(insert(ChoiceRow), [row for i in numbers for row in _choices(i, kernels, at)])


def _kernel(i: int, at: float) -> dict[str, Any]:
    release, os_name = RELEASES[i % len(RELEASES)]
    arch = "aarch64" if i % 7 == 3 else "x86_64"
    return {
        "id": f"{i:040x}/{arch}", "release": release, "version": f"#{i} SMP", "arch": arch, "os_name": os_name,
        "btf_sha256": None if i % 5 == 0 else f"{i:064x}", "first_seen": at,
    }  # fmt: skip


def _host(i: int, kernels: int, at: float) -> dict[str, Any]:
    # A stride that shares no factor with the number of kernels spreads them over names and zones.
    kernel = _kernel(i * 7 % kernels, at)
    reach = _REACH[i * 11 % len(_REACH)]
    name, zone = f"host-{i:06d}.example", f"zone-{i % 12}"
    return {
        "name": name, "zone": zone, "source": "made up", "added_at": at, "reach": reach,
        "definition": f'{{"name":"{name}","zone":"{zone}"}}',
        "reach_code": None if reach == "reachable" else "COR-SSH-001", "scanned_at": at - i % 3600,
        "seen_at": at - i % 3600, "kernel_id": kernel["id"], "boot_id": f"{i:032x}",
        "btf": "yes" if kernel["btf_sha256"] else "no", "facts_digest": "made-up",
    }  # fmt: skip


def _choices(i: int, kernels: int, at: float) -> Iterator[dict[str, Any]]:
    kernel = _kernel(i * 7 % kernels, at)
    for offset, program in enumerate(PROGRAMS):
        variant, verdict = _LADDER[(i * 7 + offset) % kernels % len(_LADDER)]
        yield {
            "host": f"host-{i:06d}.example", "program": program, "kernel_id": kernel["id"], "facts_digest": "made-up",
            "variant": variant, "verdict": verdict, "evidence": "derived",
            "summary": f"{variant or 'nothing'} on {kernel['release']}",
            "document": (
                f'{{"host":"host-{i:06d}.example","program":"{program}","kernel_id":"{kernel["id"]}",'
                f'"facts_digest":"made-up","variant":{"null" if variant is None else chr(34) + variant + chr(34)},'
                f'"verdict":"{verdict}","summary":"made up"}}'
            ),
            "decided_at": at,
        }  # fmt: skip
