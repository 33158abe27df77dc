"""Proofs in the record: kept for ever, keyed by what they hold for, and used by decisions."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from decide_cases import BASE, facts, materials, program, types
from proof_objects import compile_proof
from sqlalchemy.exc import IntegrityError

from fleet.cli.main import cli
from fleet.compatibility.choose import Kernels, choose
from fleet.compatibility.decide import Learned, assess
from fleet.compatibility.outcome import Agreement, Outcome, Proof, Real, boot_policy
from fleet.compatibility.sources import Known
from fleet.compatibility.verdict import Evidence, Requirement, Verdict
from fleet.lab.bundle import keep
from fleet.lab.kernel_store import Kernel
from fleet.lab.profiles import PROFILES
from fleet.lab.proof import Cell, predict, proof_of
from fleet.lab.subject import subject_of_object
from fleet.record import Record, database, open_record
from inventory.facts import Answer, Facts
from inventory.host import Host

RAN = Proof(
    "one",
    "core",
    "sha256:core",
    "r1",
    "aaaa1111/x86_64",
    "6.1.0",
    "lockdown=none",
    Verdict.FITS,
    Real.RAN,
    Agreement.EQUAL,
    detail="ran in the lab",
)


@pytest.fixture
def record(tmp_path: Path) -> Record:
    with open_record(tmp_path / "fleet.db", create=True) as opened:
        yield opened


def test_the_newest_of_one_key_counts_and_nothing_is_overwritten(record: Record) -> None:
    refused = replace(RAN, real=Real.REFUSED, agreement=Agreement.FALSE_FITS, detail="no")
    record.record_proofs([RAN])
    record.record_proofs([refused])
    assert [p.real for p in record.proofs()] == [Real.REFUSED]
    assert [(e.refused, e.evidence) for e in record.learned()] == [(True, Evidence.PROVEN)]
    with record.reading() as session:
        assert session.connection().exec_driver_sql("SELECT count(*) FROM proof").scalar() == 2


@pytest.mark.parametrize("field", ["build", "runner", "kernel_id", "policy"])
def test_what_differs_in_its_key_stands_beside(record: Record, field: str) -> None:
    record.record_proofs([RAN, replace(RAN, **{field: "other"})])
    assert len(record.proofs()) == 2


def test_a_record_of_the_first_schema_gains_proofs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(database, "REVISIONS", ("0001",))
        with open_record(tmp_path / "old.db", create=True) as record:
            record.audit("ann", "look")
    with open_record(tmp_path / "old.db") as record:
        record.record_proofs([RAN])
        assert record.proofs() == [RAN]
        assert [e.actor for e in record.events()] == ["ann"]


def test_a_proof_comes_back_whole(record: Record) -> None:
    proof = replace(RAN, document=Outcome(Real.RAN, runs={"p": 3}).document())
    record.record_proofs([proof])
    assert record.proofs(kernel_id=proof.kernel_id, build=proof.build) == [proof]
    assert record.proofs(kernel_id="another") == []


def test_silence_proves_nothing(record: Record) -> None:
    assert record.record_proofs([replace(RAN, real=Real.SILENT), replace(RAN, kernel_id="")]) == 0
    assert record.proofs() == []


def test_a_contradiction_is_an_event(record: Record) -> None:
    wrong = replace(RAN, real=Real.REFUSED, agreement=Agreement.FALSE_FITS, detail="load: EACCES")
    assert record.record_proofs([RAN, wrong], actor="anna@desk") == 1
    with record.reading() as session:
        rows = session.connection().exec_driver_sql("SELECT verb, actor, detail FROM audit").all()
    assert [(verb, actor) for verb, actor, _ in rows] == [("contradiction", "anna@desk")]
    assert "predicted fits, refused: load: EACCES" in rows[0][2]


@pytest.mark.parametrize("statement", ["UPDATE proof SET real = 'ran'", "DELETE FROM proof"])
def test_proofs_refuse_change_and_deletion(record: Record, statement: str) -> None:
    record.record_proofs([RAN])
    with pytest.raises(IntegrityError, match="append-only"), record.engine.begin() as connection:
        connection.exec_driver_sql(statement)
    assert len(record.proofs()) == 1


def decided(learned: list[Learned]) -> tuple[str | None, Verdict, Evidence]:
    case = {"changes": {"bpf.prog.tracepoint": {"answer": "unknown"}}, "btf": {}, "outcomes": []}
    choice = choose(
        "web-1",
        program(),
        facts(case["changes"]),
        materials(case),
        Kernels(lambda _id: types({})),
        learned=learned,
    )
    first = next(a for a in choice.assessments if a.variant == "core")
    return choice.variant, first.verdict, first.evidence


def test_a_proof_speaks_for_hosts_of_its_boot_policy_only() -> None:
    here = boot_policy(facts({"bpf.prog.tracepoint": {"answer": "unknown"}}))
    kernel_id = facts().kernel_id
    learned = Learned("sha256:core", kernel_id, Evidence.PROVEN, policy=here)
    assert decided([learned])[:2] == ("core", Verdict.FITS)
    assert decided([replace(learned, policy="lockdown=integrity")])[1] is Verdict.UNKNOWN
    assert decided([])[1] is Verdict.UNKNOWN


def test_what_a_kernel_refused_in_the_lab_is_refused_on_hosts() -> None:
    refused = Learned("sha256:core", facts().kernel_id, Evidence.PROVEN, "load: EACCES: R0 !read_ok", refused=True)
    variant, verdict, evidence = decided([refused])
    assert (verdict, evidence) == (Verdict.REFUSED, Evidence.PROVEN)
    assert variant != "core"


def test_a_bundle_has_both_sides_and_is_never_overwritten(tmp_path: Path) -> None:
    subject = subject_of_object("stray.bpf.o", compile_proof("stray", tmp_path).read_bytes(), "core")
    host = facts(only=BASE["facts"])
    kernel = Kernel("debian:6.1", tmp_path / "vmlinuz", "6.1.0", "x86_64", package="linux-image", sha256="ab")
    outcome = Outcome(Real.REFUSED, "load", "EACCES", "p", "failed", "R0 invalid mem access 'map_value_or_null'")
    cell = Cell(subject, kernel, PROFILES["plain"], Agreement.REJECTED, outcome, predict(subject, host, None), host)
    first, second = keep(cell, tmp_path / "kept"), keep(cell, tmp_path / "kept")
    assert first != second
    assert (first / "object.bpf.o").read_bytes() == subject.data
    told = json.loads((first / "contradiction.json").read_text())
    assert (told["agreement"], told["real"]["errno"], told["kernel"]["sha256"]) == ("rejected", "EACCES", "ab")
    assert "corollout prove object.bpf.o --kernel debian:6.1 --profile plain" in told["again"]
    assert json.loads((first / "facts.json").read_text())["schema"] == "corollout.facts/1"
    assert proof_of(cell).detail == "load: EACCES: R0 invalid mem access 'map_value_or_null'"


def test_what_was_kept_is_shown(tmp_path: Path, record: Record) -> None:
    record.record_proofs([RAN, replace(RAN, program="other", build="sha256:other")])
    done = CliRunner().invoke(cli, ["--home", str(tmp_path), "prove", "--kept", "one", "-o", "json"])
    rows = json.loads(done.stdout)["rows"]
    assert [(r["program"], r["real"], r["evidence"]) for r in rows] == [("one", "ran", "proven")]
    assert CliRunner().invoke(cli, ["--home", str(tmp_path), "prove"]).exit_code == 2


@dataclass(frozen=True)
class PlanOfOne:
    kernel_id: str
    id: str = "plan-1"
    program: str = "tcp-flow"
    digest: str = "d"
    created_at: float = 1.0

    def text(self) -> bytes:
        return json.dumps(self.document()).encode()

    def document(self) -> dict:
        host = {"host": "web-1", "kernel_id": self.kernel_id, "variant": "core", "build": "sha256:core"}
        return {"waves": [{"number": 0, "name": "canary", "bake_s": 1.0, "hosts": [{**host, "facts_digest": "f"}]}]}


@dataclass(frozen=True)
class Scan:
    host: Host
    facts: Facts | None
    fault: None = None


def test_what_is_healthy_on_a_host_is_observed_and_outweighs_the_lab(record: Record) -> None:
    host, seen = Host("web-1"), facts()
    record.import_hosts([host], "test")
    record.record_scan(Scan(host, seen))
    record.save_plan(PlanOfOne(seen.kernel_id))
    rollout = record.create_rollout("plan-1", "ann")
    record.begin_step(rollout, "web-1")
    for state in ("attached", "verified"):
        record.finish_step(rollout, "web-1", state)
        assert record.observed() == []
    record.move_steps(rollout, ("verified",), "healthy", wave=0)
    record.record_proofs([replace(RAN, kernel_id=seen.kernel_id, policy=boot_policy(seen), real=Real.REFUSED)])
    strongest, weaker = record.learned()
    assert (strongest.evidence, strongest.refused, strongest.policy) == (Evidence.OBSERVED, False, boot_policy(seen))
    assert (weaker.evidence, weaker.refused) == (Evidence.PROVEN, True)
    assert strongest.speaks_for("sha256:core", seen)
    record.record_scan(Scan(host, facts({"kernel.build_id": {"answer": "yes", "value": "bbbb2222"}})))
    assert record.observed() == [], "the host has another kernel by now"


def test_that_a_build_ran_says_nothing_of_what_it_can_do_without() -> None:
    ran = Learned("b", facts().kernel_id, Evidence.PROVEN)
    needs = {
        "must": Requirement("helper", "find_vma", program="a", context="kprobe"),
        "may": Requirement("helper", "find_vma", program="b", context="kprobe", optional=True),
        "ring": Requirement("helper", "find_vma", program="c", context="kprobe"),
        "perf": Requirement("helper", "find_vma", program="c_perf", context="kprobe"),
    }
    found = assess(program(), "core", tuple(needs.values()), Known(facts()), build="b", learned=[ran])
    answers = {r.requirement.program: r.answer for r in found.reasons if r.requirement.kind == "helper"}
    assert answers["a"] is Answer.YES
    assert answers["b"] is Answer.UNKNOWN
    assert Answer.YES not in {answers.get("c"), answers.get("c_perf")}
