"""From hosts to decisions in the record: what the survey reads and keeps, on this machine as a host."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from console_fleet import make_lab, make_rollout

from btf.archive.archive import Archive, read_btf_file
from fleet.compatibility.verdict import Choice, Verdict
from fleet.record import Record, open_record
from fleet.survey import BtfDiffers, decide, harvest, scan
from inventory.connect import Completed, Connection, open_connection
from inventory.connect.local import LocalConnection
from inventory.host import Host
from probes.catalogue import Program, load_catalogue

HERE = Host(name="here", connection="local", labels={"role": "web"})


def connect(host: Host) -> Connection:
    return open_connection(host, hosts={}, timeout_s=5)


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    with open_record(tmp_path / "fleet.db", create=True) as opened:
        opened.import_hosts([HERE], "test")
        yield opened


@pytest.fixture
def tcp_flow() -> Program:
    return load_catalogue()["tcp-flow"]


def survey(record: Record, archive: Archive, program: Program) -> Choice:
    outcomes = scan(record, [HERE], connect=connect, parallel=1, deadline_s=60)
    assert [h.fault for h in harvest(record, archive, outcomes, connect=connect) if h.fault] == []
    (choice,) = decide(record, archive, [program])
    return choice


@pytest.mark.kernel
def test_this_machine_is_scanned_its_btf_kept_once_and_a_choice_made(
    record: Record, tmp_path: Path, tcp_flow: Program
) -> None:
    archive = Archive(tmp_path / "btf")
    choice = survey(record, archive, tcp_flow)
    (kernel,) = record.kernels()
    assert archive.for_kernel(kernel.id) == kernel.btf_sha256
    assert archive.get(str(kernel.btf_sha256)) == Path("/sys/kernel/btf/vmlinux").read_bytes()
    assert record.choices("tcp-flow", host="here") == [choice]
    # tracefs is not mounted in every place that runs this test: either it fits, or the mount is what is missing
    core = choice.assessments[0]
    assert core.verdict is Verdict.FITS or {r.unlock.code for r in core.reasons if r.unlock} == {"mount-tracefs"}
    again = scan(record, [HERE], connect=connect, parallel=1, deadline_s=60)
    assert list(harvest(record, archive, again, connect=connect)) == [], "one build, one transfer"


@pytest.mark.kernel
def test_what_was_vouched_for_gives_way_to_what_a_host_shows(record: Record, tmp_path: Path) -> None:
    archive = Archive(tmp_path / "btf")
    outcomes = scan(record, [HERE], connect=connect, parallel=1, deadline_s=60)
    (kernel,) = record.kernels()
    own = Path("/sys/kernel/btf/vmlinux").read_bytes()
    other = read_btf_file(next((Path(__file__).parents[3] / "shared/data/btf").rglob("*ky10*.btf.tar.xz")))
    for given, fetched in ((own, []), (other, [None])):
        archive.put(given, kernel_id=kernel.id, source="file x")
        assert [h.fault for h in harvest(record, archive, outcomes, connect=connect)] == fetched
        assert archive.get(str(archive.for_kernel(kernel.id))) == own
        assert record.kernels()[0].btf_sha256 == archive.for_kernel(kernel.id)
    entry = archive.entry(kernel.id)
    assert entry is not None and entry.how == "host" and entry.name.release == kernel.release


@pytest.mark.kernel
def test_btf_that_is_not_what_the_facts_name_is_not_kept(record: Record, tmp_path: Path) -> None:
    class Swapped(LocalConnection):
        def run(self, *_arguments: Any, **_options: Any) -> Completed:
            return Completed(0, Path("/sys/kernel/btf/vmlinux").read_bytes()[:-1] + b"x", b"")

    archive = Archive(tmp_path / "btf")
    outcomes = scan(record, [HERE], connect=connect, parallel=1, deadline_s=60)
    (result,) = harvest(record, archive, outcomes, connect=lambda _host: Swapped())
    assert isinstance(result.fault, BtfDiffers)
    assert archive.list() == []


REJECTED = {"code": "COR-AGT-007", "stage": "load", "errno": "EACCES", "log": "R1 invalid mem access 'scalar'"}


@pytest.mark.parametrize(
    ("document", "quarantined"),
    [
        (REJECTED, True),
        ({**REJECTED, "log": "", "errno": "EPERM"}, False),  # a denial has no verifier's words
        ({**REJECTED, "code": "COR-AGT-008"}, False),
        (None, False),
    ],
)
def test_only_a_verifiers_rejection_is_quarantined(
    tmp_path: Path, document: dict[str, str] | None, *, quarantined: bool
) -> None:
    with make_lab(tmp_path / "lab.db") as lab:
        rollout = make_rollout(lab)
        step = lab.steps(rollout, wave=0)[0]
        lab.begin_step(rollout, step.host)
        lab.finish_step(rollout, step.host, "failed", document=document)
        expected = {(step.build, step.kernel_id)} if quarantined else set()
        assert lab.quarantined() == expected


@pytest.mark.kernel
def test_a_quarantined_build_is_refused_and_not_fallen_back_from(
    record: Record, tmp_path: Path, tcp_flow: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = Archive(tmp_path / "btf")
    survey(record, archive, tcp_flow)
    (kernel,) = record.kernels()
    bad = {(tcp_flow.build("core").digest, kernel.id)}
    monkeypatch.setattr(Record, "quarantined", lambda _record: frozenset(bad))
    (choice,) = decide(record, archive, [tcp_flow])
    assert (choice.variant, choice.verdict) == (None, Verdict.REFUSED)
    assert [a.variant for a in choice.assessments] == ["core"]
    assert choice.assessments[0].reasons[0].code == "build-rejected"
