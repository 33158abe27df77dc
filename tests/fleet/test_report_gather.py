"""From a real record to pages: what was scanned and decided is what the report shows."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from decide_cases import CASES, decide, facts

from btf.fault import Fault
from fleet.record import open_record
from fleet.report.build import write_report
from fleet.report.gather import gather
from inventory.facts import Facts
from inventory.host import Host
from probes.catalogue import load_catalogue


@dataclass(frozen=True)
class Scanned:
    host: Host
    facts: Facts | None = None
    fault: Fault | None = None


def test_a_record_becomes_a_report(tmp_path: Path) -> None:
    record = open_record(tmp_path / "fleet.db", create=True)
    cases = {n: json.loads((CASES / "choose" / f"lab-{n}.json").read_text()) for n in ("plain", "seccomp-eperm")}
    hosts = {name: Host(name) for name in (*cases, "silent")}
    record.import_hosts(hosts.values(), "test")
    for name, case in cases.items():
        record.record_scan(Scanned(hosts[name], facts(case.get("changes"))), 1.0)
        record.record_choice(decide(case, name), 2.0)
    record.record_scan(Scanned(hosts["silent"], fault=Fault("no answer")), 1.0)

    survey = gather(record, load_catalogue(), now=3.0)
    assert set(survey.facts) == set(cases)
    body = json.loads(write_report(survey, tmp_path / "out")[-1].read_text())
    assert body["generated_at"] == 3.0
    assert body["hosts"]["total"] == 3
    assert [h["host"] for h in body["silent"]] == ["silent"]
    (kernel,) = body["kernels"]
    tcp = next(p for p in kernel["programs"] if p["program"] == "tcp-flow")
    assert {tuple(g["hosts"]): (g["variant"], g["verdict"]) for g in tcp["groups"]} == {
        ("plain",): ("core", "fits"),
        ("seccomp-eperm",): ("fallback", "degraded"),
    }
    assert "seccomp.mode" in {d["fact"] for d in tcp["differences"]}
