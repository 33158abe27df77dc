"""What really happened is in the report: the kernel's own words, ours beside them, contradictions, evidence levels."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from decide_cases import CASES, decide, facts
from report_survey import survey
from test_proofs import RAN, PlanOfOne, Scan
from test_report import HOSTILE, read

from fleet.compatibility.outcome import Agreement, Real, boot_policy
from fleet.compatibility.unlock import Change, Gain, cheapest
from fleet.compatibility.verdict import Evidence, Unlock, Verdict
from fleet.record import Record, open_record
from fleet.record.rollout_views import Rejection
from fleet.report.build import write_report
from fleet.report.gather import gather
from fleet.report.model import make_report
from inventory.host import Host
from probes.catalogue import load_catalogue

LOG = """; return *seen; @ prog.bpf.c:12
7: (79) r1 = *(u64 *)(r0 +0)
R0 invalid mem access 'map_value_or_null'
processed 8 insns (limit 1000000) max_states_per_insn 0
"""
SAID = {"stage": "load", "errno": "EACCES", "log": LOG}
REFUSED = replace(
    RAN, program="tcp-flow", real=Real.REFUSED, agreement=Agreement.FALSE_FITS, detail="refused", document=SAID
)
CAUSE = "R0 may be null here: test what the look-up returned before it is used"


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """A real record: a host decided, a proof that contradicts, one that agrees, and a rollout that was rejected."""
    with open_record(tmp_path / "fleet.db", create=True) as opened:
        host, seen = Host("web-1"), facts()
        opened.import_hosts([host], "test")
        opened.record_scan(Scan(host, seen))
        opened.record_proofs(
            [
                replace(REFUSED, kernel_id=seen.kernel_id, policy=boot_policy(seen)),
                replace(REFUSED, kernel_id=seen.kernel_id, policy="lockdown=integrity"),
                replace(RAN, program="tcp-flow", variant="fallback", build="sha256:old", kernel_id=seen.kernel_id),
                replace(RAN, program="dir/other.bpf.o", kernel_id=seen.kernel_id, build="sha256:other"),
                replace(REFUSED, release="4.9-nowhere", build="sha256:far", kernel_id="of-no-host/x86_64"),
            ]
        )
        case = json.loads((CASES / "choose" / "lab-plain.json").read_text())
        proven = [["sha256:core", seen.kernel_id, "proven"]]
        opened.record_choice(decide({**case, "learned": proven}, "web-1"), 2.0)
        opened.save_plan(PlanOfOne(seen.kernel_id))
        rollout = opened.create_rollout("plan-1", "ann")
        opened.begin_step(rollout, "web-1")
        opened.finish_step(rollout, "web-1", "failed", document={"code": "COR-AGT-007", **SAID})
        yield opened


def test_json_has_evidence_the_kernels_words_and_what_contradicts(record: Record, tmp_path: Path) -> None:
    body = json.loads(write_report(gather(record, load_catalogue()), tmp_path / "out")[-1].read_text())
    (kernel,) = body["kernels"]
    tcp = next(p for p in kernel["programs"] if p["program"] == "tcp-flow")
    (level,) = tcp["levels"]
    assert (level["variant"], level["tried"], level["hosts"]) == ("core", "proven", 1)
    first, rejected, ran = tcp["trials"]
    assert len(first["places"]) == 2, "one row for what happened alike under two boot policies"
    assert (first["predicted"], first["real"], first["contradicts"]) == ("fits", "refused", True)
    assert first["complaint"] == "R0 invalid mem access 'map_value_or_null'"
    assert first["said"] == [" ".join(line.split()) for line in LOG.splitlines()]
    assert first["explained"]["cause"] == CAUSE
    assert (rejected["evidence"], rejected["predicted"], rejected["contradicts"]) == ("observed", None, False)
    assert rejected["places"][0].startswith("web-1, rollout ") and rejected["explained"]["cause"] == CAUSE
    assert (ran["real"], ran["earlier"]) == ("ran", False)
    assert [t["program"] for t in kernel["trials"]] == ["dir/other.bpf.o"]
    assert body["agreements"] == {"equal": 2, "false-fits": 3}
    assert {t["kernel_id"] for t in body["contradictions"]} == {kernel["id"], "of-no-host/x86_64"}


def test_pages_show_both_words_side_by_side(record: Record, tmp_path: Path) -> None:
    index, page, _ = write_report(gather(record, load_catalogue()), tmp_path / "out")
    on_page, on_index = " ".join(read(page).text), " ".join(read(index).text)
    own = "R0 invalid mem access 'map_value_or_null'"
    for words in (CAUSE, own, "prog.bpf.c:12", "≠ false-fits", "web-1, rollout"):
        assert words in on_page, words
    for words in ("2 equal, 3 false-fits.", "4.9-nowhere", CAUSE, "≠ false-fits"):
        assert words in on_index, words
    assert ", a part <b>proven</b>" in index.read_text()
    assert ", a part <b>proven</b>" in page.read_text()


def test_a_build_that_no_longer_decides_is_called_earlier() -> None:
    said = survey()
    kernel = said.kernels[0].id
    proofs = [replace(RAN, program="tcp-flow", kernel_id=kernel, build=b) for b in ("sha256:core", "sha256:old")]
    section = next(s for s in make_report(replace(said, proofs=proofs)).kernels[0].sections if s.trials)
    assert [(t.build, t.earlier) for t in section.trials] == [("sha256:core", False), ("sha256:old", True)]


def test_levels_count_every_assessment_and_tell_how_it_is_known() -> None:
    section = next(s for s in make_report(survey()).kernels[0].sections if s.program.name == "tcp-flow")
    assert sum(row.hosts for row in section.levels if row.variant == "core") == section.total
    assert {row.evidence for row in section.levels} <= set(Evidence)
    assert all(row.tried is None for row in section.levels), "nothing was tried there"


def test_what_a_guest_or_host_said_stays_text(tmp_path: Path) -> None:
    said = survey()
    kernel = said.kernels[0].id
    log = f"; {HOSTILE} @ a.c:1\n{HOSTILE}\x1b[31m"
    document = {"stage": HOSTILE, "errno": HOSTILE, "message": HOSTILE, "log": log}
    proof = replace(REFUSED, kernel_id=kernel, variant="core", policy=HOSTILE, build=HOSTILE, document=document)
    other = replace(proof, program=HOSTILE, document={"stage": ["no"], "log": None, "message": {"a": HOSTILE}})
    rejection = Rejection("tcp-flow", "core", "b", kernel, HOSTILE, HOSTILE, document)
    pages = write_report(replace(said, proofs=[proof, other], rejections=[rejection]), tmp_path)
    for page in pages[:2]:
        tags = read(page)
        assert not tags.tags & {"script", "img"}
        assert not [a for a in tags.attributes if a.startswith("on")]
        assert HOSTILE in "".join(tags.text)
        assert "\x1b" not in page.read_text()


def test_the_cheapest_change_comes_first_with_the_hosts_it_moves() -> None:
    found = cheapest(survey().choices)
    order = [(len(change.unlocks), -len(change.hosts)) for change in found]
    assert order == sorted(order)
    change = Change(
        (Unlock("import-btf", "import BTF for this kernel build"),),
        (Gain("net-policy", "core-btf", 2), Gain("tcp-flow", "core-btf", 3)),
        ("a", "b", "c"),
        ("k",),
    )
    assert change.words == "import BTF for this kernel build: +3 hosts to core-btf"
    assert replace(change, hosts=("a",)).words.endswith("+1 host to core-btf")


def test_two_unlocks_come_after_one_however_many_hosts() -> None:
    choices = [c for c in survey().choices if c.unlocks]
    one = next(c for c in choices if len(cheapest([c])[0].unlocks) == 1)
    stop = next(a for a in one.assessments if a.verdict is Verdict.BLOCKED)
    reason = next(r for r in stop.reasons if r.unlock)
    extra = replace(reason, unlock=Unlock("more", "do more"))
    harder = replace(
        one,
        assessments=tuple(
            replace(a, reasons=(*a.reasons, extra)) if a.verdict is Verdict.BLOCKED else a for a in one.assessments
        ),
    )
    many = [replace(harder, host=f"h{n}") for n in range(3)]
    assert [len(c.hosts) for c in cheapest([*many, one])] == [1, 3]
