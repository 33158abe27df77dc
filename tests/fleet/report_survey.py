"""A small fleet for the report: the lab's eight hosts on one kernel and some others, decided by the real decision."""

from __future__ import annotations

import json
from typing import Any

from decide_cases import CASES, decide, facts

from fleet.compatibility.verdict import Choice
from fleet.record.views import HostView, KernelView
from fleet.report.model import ProgramInfo, Survey
from inventory.host import Host

NOW = 1_795_370_400.0
LAB = ("lab-plain", "lab-plain-second", "lab-no-btf", "lab-seccomp-eperm", "lab-seccomp-enosys", "no-python-no-bpf")
OTHERS = ("poisoned", "bcc-host", "quarantined", "optional-hook", "controls-failed-no-btf", "old-kernel-no-bpf")

RELEASES = (
    "4.18.0-147.5.1.el8_1.x86_64", "4.15.0-213-generic", "5.4.0-91-generic", "5.10.0-32-cloud-amd64",
    "6.1.0-18-amd64", "3.2.0-6-amd64",
)  # fmt: skip


def host_view(name: str, kernel_id: str | None, release: str, **changes: Any) -> HostView:
    values: dict[str, Any] = {
        "reach": "reachable", "reach_code": None, "reach_detail": None, "os_name": "Debian GNU/Linux 12 (bookworm)",
        **changes,
    }  # fmt: skip
    return HostView(
        name=name, zone="default", source="fleet.toml", scanned_at=NOW, seen_at=NOW, kernel_id=kernel_id,
        release=release, arch="x86_64", boot_id=None, btf="yes", facts_digest=None, host=Host(name), **values,
    )  # fmt: skip


def survey() -> Survey:
    """Return six lab hosts on one kernel, six on kernels of their own, and two that did not answer."""
    hosts, kernels, choices, seen = [], [], [], {}
    for names, prefix in ((LAB, ""), (OTHERS, "k-")):
        for number, name in enumerate(names):
            case = json.loads((CASES / "choose" / f"{name}.json").read_text())
            kernel = "aaaa1111/x86_64" if not prefix else f"{number:040x}/x86_64"
            release = "6.18.44-lab" if not prefix else RELEASES[number]
            host = name.removeprefix("lab-") if not prefix else f"web-{number + 1}"
            made = decide(case, host)
            choices.append(Choice(**{f: getattr(made, f) for f in made.__dataclass_fields__} | {"kernel_id": kernel}))
            seen[host] = facts(case.get("changes"), case.get("facts_only"))
            hosts.append(host_view(host, kernel, release))
            if prefix or not number:
                count = 1 if prefix else len(LAB)
                archived = "ff00" if number % 2 == 0 else None
                kernels.append(
                    KernelView(
                        kernel, release, "#1 SMP", "x86_64", "Debian GNU/Linux 12 (bookworm)", archived, NOW, count
                    )
                )
    hosts.append(
        host_view("new-key", None, "", reach="refused", reach_code="COR-SSH-002", reach_detail="its host key changed")
    )
    hosts.append(
        host_view("silent", None, "", reach="unreachable", reach_code="COR-SSH-004", reach_detail="no answer in 10 s")
    )
    programs = [
        ProgramInfo("net-policy", "networking", "allow and deny by address, protocol, port and direction"),
        ProgramInfo("tcp-flow", "tracing", "one record for every TCP connection that ends"),
    ]
    return Survey(NOW, hosts, kernels, programs, choices, seen)
