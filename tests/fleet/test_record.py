"""The record: opening and its refusals, append-only audit, tokens, windows, and what a write keeps."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import IntegrityError

from btf.fault import Fault
from fleet.compatibility.verdict import Assessment, Choice, Evidence, Verdict
from fleet.record import Record, open_record
from fleet.record.errors import (
    ClaimRefused,
    DiskFull,
    NotARecord,
    NotInRecord,
    RecordLocked,
    RecordMissing,
    RecordUnwritable,
    SchemaNewer,
)
from fleet.record.filler import fill
from fleet.record.queries import HOST_SORTS
from fleet.record.rollout_tables import METADATA
from fleet.record.rollout_views import SampleView
from fleet.record.views import HostFilter
from fleet.rollout.execute.artefacts import ArtefactLost, Artefacts
from inventory.connect.errors import HostKeyChanged, Unreachable
from inventory.facts import Answer, Fact, Facts, FactsMalformed
from inventory.host import Host


@dataclass
class Outcome:
    host: Host
    facts: Facts | None = None
    fault: Fault | None = None


@dataclass
class SavedPlan:
    """What the record needs to know of a plan."""

    waves: list[list[str]]
    id: str = "plan-1"
    program: str = "tcp-flow"
    digest: str = "sha256:1"
    created_at: float = 5.0

    def text(self) -> bytes:
        return json.dumps(self.document()).encode()

    def document(self) -> dict:
        host = {"kernel_id": "k/x86_64", "variant": "core", "build": "sha256:b", "facts_digest": "f"}
        return {
            "waves": [
                {"number": i, "name": f"wave {i}", "bake_s": 1.0, "hosts": [{"host": h, **host} for h in names]}
                for i, names in enumerate(self.waves)
            ]
        }


@pytest.fixture
def record(place: Path | str):
    with open_record(place, create=True, now=iter(range(1000, 10_000)).__next__) as opened:
        yield opened


def a_host(name: str = "web-1", **fields) -> Host:
    return Host(name, **fields)


def some_facts(release: str = "6.1.0-28-amd64", build_id: str = "ab" * 20) -> Facts:
    values = {"kernel.release": release, "kernel.arch": "x86_64", "kernel.build_id": build_id, "kernel.boot_id": "b-1"}
    return Facts({n: Fact(n, Answer.YES, v) for n, v in values.items()}, collected_at=7.0)


def a_rollout(record: Record, *waves: list[str]) -> str:
    record.import_hosts([a_host(n) for wave in waves for n in wave], "test")
    record.save_plan(SavedPlan(list(waves)))
    return record.create_rollout("plan-1", "ann")


# Opening


def test_migrations_make_exactly_the_tables(record: Record) -> None:
    with record.engine.connect() as connection:
        # On a server every text is unbounded and every number 64 bits, whatever the migration said: `postgres.settle`.
        typed = record.engine.dialect.name == "sqlite"
        context = MigrationContext.configure(connection, opts={"compare_type": typed})
        assert compare_metadata(context, METADATA) == []


def test_readers_never_wait_for_a_writer(record: Record) -> None:
    record.import_hosts([a_host()], "before")
    with record.writing():
        assert [h.name for h in record.hosts()] == ["web-1"]


def test_a_missing_record_is_not_made_by_accident(place: Path | str, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(RecordMissing):
            open_record(place)
    assert list(tmp_path.iterdir()) == []


def test_opening_again_keeps_everything(place: Path | str) -> None:
    with open_record(place, create=True) as record:
        record.import_hosts([a_host(labels={"env": "prod"})], "file")
    with open_record(place, create=True) as record:
        assert record.host("web-1").host.labels == {"env": "prod"}


@pytest.mark.parametrize("content", [b"not a database at all, only text" * 40, b"SQLite format 3\0" + b"\xff" * 4000])
def test_another_file_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "fleet.db"
    path.write_bytes(content)
    with pytest.raises(NotARecord):
        open_record(path, create=True)
    assert path.read_bytes() == content


def test_a_foreign_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "fleet.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE host (name TEXT)")
    other.close()
    with pytest.raises(NotARecord, match="something else"):
        open_record(path, create=True)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotARecord):
        open_record(tmp_path)


def test_a_newer_schema_is_refused_and_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "fleet.db"
    open_record(path, create=True).close()
    with sqlite3.connect(path) as other:
        other.execute("UPDATE alembic_version SET version_num = '9999'")
    other.close()
    with pytest.raises(SchemaNewer, match="9999") as caught:
        open_record(path)
    assert caught.value.remedy


def test_a_locked_record_says_so(place: Path | str) -> None:
    with open_record(place, create=True) as holder, open_record(place, busy_s=0.05) as record:
        with holder.writing() as session:
            session.connection()
            with pytest.raises(RecordLocked) as caught:
                record.import_hosts([a_host()], "test")
        assert caught.value.transient
        record.import_hosts([a_host()], "test")
        assert record.host_count() == 1


def test_read_only_writes_nothing(place: Path | str) -> None:
    open_record(place, create=True).close()
    with open_record(place, read_only=True) as record:
        with pytest.raises(RecordUnwritable):
            record.import_hosts([a_host()], "test")
        assert record.host_count() == 0


@pytest.mark.lab
def test_a_full_disk_loses_only_the_last_change(tmp_path: Path) -> None:
    """On a real, tiny file system, in a mount namespace of its own."""
    script = tmp_path / "fill.py"
    script.write_text(
        textwrap.dedent("""
        import sys
        from fleet.record import open_record
        from fleet.record.errors import DiskFull
        from inventory.host import Host
        path = sys.argv[1] + "/fleet.db"
        kept = 0
        with open_record(path, create=True) as record:
            try:
                while True:
                    record.import_hosts([Host(f"h-{kept}-{i}", labels={"x": "y" * 200}) for i in range(50)], "test")
                    kept += 1
            except DiskFull as fault:
                print(fault.code, "|", fault.advice)
        with open_record(path, read_only=True) as record:
            assert record.host_count() == kept * 50 > 0, (record.host_count(), kept)
            assert record.last_event_id() == kept
        """)
    )
    disk = tmp_path / "disk"
    disk.mkdir()
    shell = f"mount -t tmpfs -o size=1500k none {disk} && {sys.executable} {script} {disk}"
    done = subprocess.run(["unshare", "-m", "sh", "-c", shell], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(DiskFull.code)


# Writing


def test_the_audit_refuses_change_and_deletion(record: Record) -> None:
    record.audit("ann", "look", detail="x")
    for statement in ("UPDATE audit SET actor = 'bob'", "DELETE FROM audit"):
        with pytest.raises(IntegrityError, match="append-only"), record.engine.begin() as connection:
            connection.exec_driver_sql(statement)
    assert [e.actor for e in record.events()] == ["ann"]


def test_a_change_and_its_audit_row_stand_or_fall_together(record: Record) -> None:
    rollout = a_rollout(record, ["a"])
    events = record.last_event_id()
    with pytest.raises(ZeroDivisionError), record.writing() as session:
        record.joined(session).set_rollout_state(rollout, "RUNNING")
        raise ZeroDivisionError
    assert record.rollout(rollout).state == "PLANNED"
    assert record.last_event_id() == events


def test_import_says_what_changed(record: Record) -> None:
    record.import_hosts([a_host("a"), a_host("b")], "first")
    done = record.import_hosts([a_host("a", port=2222), a_host("b"), a_host("c")], "second")
    assert (done.added, done.changed, done.unchanged) == (("c",), ("a",), ("b",))
    assert record.definitions()["a"].port == 2222


def test_a_failed_scan_keeps_the_last_good_facts(record: Record) -> None:
    record.import_hosts([a_host()], "test")
    record.record_scan(Outcome(a_host(), some_facts()))
    record.record_scan(Outcome(a_host(), fault=Unreachable("no answer")), now=99.0)
    seen = record.host("web-1")
    assert (seen.reach, seen.reach_code, seen.scanned_at) == ("unreachable", "COR-SSH-001", 99.0)
    assert seen.kernel_id == some_facts().kernel_id
    assert record.facts("web-1") == some_facts()


@pytest.mark.parametrize(
    ("fault", "reach"),
    [(HostKeyChanged("x"), "refused"), (FactsMalformed("x"), "garbage"), (Unreachable("x"), "unreachable")],
)
def test_why_a_host_was_not_scanned(record: Record, fault: Fault, reach: str) -> None:
    record.import_hosts([a_host()], "test")
    record.record_scan(Outcome(a_host(), fault=fault))
    assert record.reach_counts() == {reach: 1}


def test_a_scan_of_a_stranger_is_refused(record: Record) -> None:
    with pytest.raises(NotInRecord):
        record.record_scan(Outcome(a_host("nobody"), some_facts()))
    assert record.kernels() == []


def test_decisions_come_back_whole_and_fill_the_matrix(record: Record) -> None:
    facts = some_facts()
    for name, verdict, variant in (("a", Verdict.FITS, "core"), ("b", Verdict.DEGRADED, "fallback")):
        record.import_hosts([a_host(name)], "test")
        record.record_scan(Outcome(a_host(name), facts))
        sure = Assessment("tcp-flow", variant, "sha256:b", verdict, Evidence.PROVEN)
        record.record_choice(
            Choice(name, "tcp-flow", facts.kernel_id, facts.digest, variant, verdict, "because", (sure,))
        )
    assert record.choices("tcp-flow", host="a")[0].assessments[0].evidence is Evidence.PROVEN
    (cell,) = record.matrix()
    assert cell.verdicts == {"fits": 1, "degraded": 1}
    assert cell.variants == {"core": 1, "fallback": 1}
    record.remove_host("a")
    assert [c.host for c in record.choices()] == ["b"]


# Rollouts


def test_tokens_rise_and_an_unknown_outcome_keeps_its_token(record: Record) -> None:
    rollout = a_rollout(record, ["a", "b"])
    first = record.begin_step(rollout, "a")
    assert record.begin_step(rollout, "a") == first
    second = record.begin_step(rollout, "b")
    assert second > first
    record.finish_step(rollout, "a", "failed", detail="X: no", forget_token=True)
    assert record.begin_step(rollout, "a") > second
    assert [e.verb for e in record.events(rollout_id=rollout) if e.host == "a" and e.token] == [
        "apply", "apply-again", "step", "apply",
    ]  # fmt: skip


def test_a_new_record_hands_out_tokens_above_an_old_one(tmp_path: Path) -> None:
    with open_record(tmp_path / "a.db", create=True, now=lambda: 50_000.0) as old:
        token = old.begin_step(a_rollout(old, ["a"]), "a")
    with open_record(tmp_path / "b.db", create=True, now=lambda: 50_001.0) as fresh:
        assert fresh.begin_step(a_rollout(fresh, ["a"]), "a") > token


def test_an_attached_step_is_desired_state_and_a_revert_restores_the_one_before(record: Record) -> None:
    first = a_rollout(record, ["a"])
    record.begin_step(first, "a")
    record.finish_step(first, "a", "attached")
    written = record.last_event_id()
    record.finish_step(first, "a", "attached")  # said twice, written once
    assert record.last_event_id() == written
    second = record.create_rollout("plan-1", "ann")
    record.begin_step(second, "a")
    record.finish_step(second, "a", "attached")
    assert record.step(second, "a").previous == first
    assert record.assignments()[0].rollout_id == second
    record.begin_step(second, "a", revert=True)
    record.finish_step(second, "a", "reverted")
    assert record.assignments()[0].rollout_id == first
    record.begin_step(first, "a", revert=True)
    record.finish_step(first, "a", "reverted")
    assert record.assignments() == []


def test_one_live_controller_per_rollout(record: Record) -> None:
    rollout = a_rollout(record, ["a"])
    assert record.claim_rollout(rollout, "one", alive=lambda *_: True) == 1
    with pytest.raises(ClaimRefused, match="one"):
        record.claim_rollout(rollout, "two", alive=lambda *_: True)
    assert record.claim_rollout(rollout, "two", alive=lambda *_: False) == 2
    assert not record.beat(rollout, "one")
    with pytest.raises(ClaimRefused):
        record.begin_step(rollout, "a", controller="one")  # the one taken over touches no host any more
    assert record.begin_step(rollout, "a", controller="two")
    record.release_rollout(rollout, "two")
    assert record.rollout(rollout).controller is None


def test_requests_wait_until_taken(record: Record) -> None:
    rollout = a_rollout(record, ["a"])
    asked = record.request(rollout, "pause", "ann", why="lunch")
    assert [(r.verb, r.actor, dict(r.arguments)) for r in record.requests(rollout, waiting=True)] == [
        ("pause", "ann", {"why": "lunch"})
    ]
    record.answer_request(asked, "done")
    record.answer_request(asked, "again")  # the first answer stands
    assert record.requests(rollout)[0].outcome == "done"
    assert record.requests(rollout, waiting=True) == []
    with pytest.raises(NotInRecord):
        record.request("nothing", "pause", "ann")


def test_samples_come_newest_last_and_bounded(record: Record) -> None:
    record.record_samples(
        SampleView("a", "tcp-flow", "r", 0, float(i), cpu_percent=i / 10, document={"n": i}) for i in range(10)
    )
    assert [s.document["n"] for s in record.samples("r", limit=3)] == [7, 8, 9]
    assert record.samples("r", since=9.0)[0].cpu_percent == 0.9


def test_an_artefact_of_another_machine_comes_from_the_record(record: Record, tmp_path: Path) -> None:
    here = Artefacts(tmp_path / "here", fetch=record.artefact)
    digest = Artefacts(tmp_path / "there").put(b"object")
    with pytest.raises(ArtefactLost):
        here.get(digest)
    for _ in range(2):
        record.share_artefact(digest, b"object")
    assert here.get(digest) == b"object"
    assert (tmp_path / "here" / digest).read_bytes() == b"object"
    record.share_artefact("0" * 64, b"not what its name says")
    with pytest.raises(ArtefactLost):
        here.get("0" * 64)


# Windows


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    place = tmp_path_factory.mktemp("fleet") / "fleet.db"
    if request.param == "postgresql":
        place = request.getfixturevalue("postgres").database()
    with open_record(place, create=True) as record:
        fill(record, 700, kernels=12)
        yield record


def _key(view, word: str):
    field = {"os": "os_name", "kernel": "kernel_id", "scanned": "scanned_at", "seen": "seen_at"}.get(word, word)
    return getattr(view, field)


@settings(max_examples=40, deadline=None)
@given(
    word=st.sampled_from(sorted(HOST_SORTS)), descending=st.booleans(), offset=st.integers(0, 720),
    limit=st.integers(1, 80), text=st.sampled_from(["", "00003", "debian", "ZONE-1", "%", "_", "\\", "5.10"]),
    reach=st.sampled_from([None, "reachable", "refused", "nothing"]),
    verdict=st.sampled_from([None, "fits", "blocked"]),
)  # fmt: skip
def test_a_window_is_a_slice_of_the_whole_in_order(
    fleet, word, descending, offset, limit, text, reach, verdict
) -> None:
    wanted = HostFilter(text=text, reach=reach, program="tcp-flow" if verdict else None, verdict=verdict)
    everything = [
        h
        for h in fleet.hosts(limit=1000)
        if any(text.lower() in getattr(h, f).lower() for f in ("name", "zone", "release", "os_name"))
        and reach in (None, h.reach)
        and verdict in (None, h.verdicts["tcp-flow"])
    ]
    everything.sort(key=lambda h: h.name)
    everything.sort(key=lambda h: _key(h, word), reverse=descending)
    names = [h.name for h in everything]
    sort = ("-" * descending + word,)
    assert fleet.host_names(wanted, sort) == names
    assert fleet.hosts(wanted, sort, offset, limit) == everything[offset : offset + limit]
    assert fleet.host_count(wanted) == len(names)


def test_pages_by_name_keep_the_order_asked_for(fleet: Record) -> None:
    names = fleet.host_names(sort=("-release",))[:650]
    assert [h.name for h in fleet.hosts_named([*names, "gone"])] == names


def test_counts_agree_with_the_fleet(fleet: Record) -> None:
    assert sum(k.hosts for k in fleet.kernels()) == 700 == sum(fleet.reach_counts().values())
    assert sum(sum(cell.verdicts.values()) for cell in fleet.matrix() if cell.program == "tcp-flow") == 700
