"""What is PostgreSQL's alone: a server that goes away, refuses or is shared, and a password that nobody gets to see."""

from __future__ import annotations

import threading
import time
import traceback
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pg_server import Server
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from btf.fault import Fault
from fleet.record import open_record
from fleet.record.errors import (
    NotARecord,
    PlaceMalformed,
    RecordGone,
    RecordLocked,
    RecordMissing,
    RecordUnwritable,
    SchemaNewer,
)
from fleet.record.place import has_password, masked
from inventory.host import Host

SECRET = "hunter2"


def hosts(start: int, count: int) -> list[Host]:
    return [Host(f"h-{n}") for n in range(start, start + count)]


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (f"postgresql://ann:{SECRET}@db.example:5432/fleet", "postgresql://ann:***@db.example:5432/fleet"),
        (f"postgres://ann:{SECRET}@/fleet?host=/run", "postgres://ann:***@/fleet?host=/run"),
        (f"postgresql://db/fleet?user=ann&PassWord={SECRET}", "postgresql://db/fleet?user=ann&PassWord=***"),
        (f"postgresql://db/fleet?sslpassword={SECRET}&x=1", "postgresql://db/fleet?sslpassword=***&x=1"),
        ("postgresql://ann@db/fleet", "postgresql://ann@db/fleet"),
        ("/var/lib/corollout/fleet.db", "/var/lib/corollout/fleet.db"),
    ],
)
def test_an_address_is_shown_without_its_password(address: str, shown: str) -> None:
    assert masked(address) == shown
    assert has_password(address) == (address != shown)


@pytest.mark.parametrize(
    "address",
    [
        f"postgresql://ann:{SECRET}@127.0.0.1:1/fleet",
        f"postgresql://ann:{SECRET}@nowhere.invalid/fleet",
        f"postgresql://ann:x@{SECRET}@127.0.0.1/fleet",  # an @ that should have been %40
        f"postgresql://ann:{SECRET}@127.0.0.1:port/fleet",
        f"postgresql://ann:{SECRET}@127.0.0.1/fleet?no_such_option=1",
        f"postgresql://ann:{SECRET}%zz@127.0.0.1/fleet",
        f"mysql://ann:{SECRET}@127.0.0.1/fleet",
    ],
)
def test_no_refusal_shows_the_password(address: str) -> None:
    with pytest.raises((RecordGone, PlaceMalformed)) as caught:
        open_record(address)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert caught.value.remedy


def test_libpq_s_own_settings_are_honoured(postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = postgres.database()
    monkeypatch.setenv("PGHOST", str(postgres.root))
    monkeypatch.setenv("PGUSER", "fleet")
    service = tmp_path / "services"
    service.write_text(f"[mine]\ndbname={urlsplit(url).path[1:]}\n")
    monkeypatch.setenv("PGSERVICEFILE", str(service))
    with open_record("postgresql:///?service=mine", create=True) as record:
        record.audit("ann", "look")
    with open_record(url) as record:
        assert [e.actor for e in record.events()] == ["ann"]


def test_a_password_from_a_file_is_used_and_never_kept(
    postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.database().replace("fleet@", "keeper@")
    postgres.sql(f"CREATE ROLE keeper LOGIN SUPERUSER PASSWORD '{SECRET}'")
    rules = postgres.data / "pg_hba.conf"
    before = rules.read_text()
    try:
        rules.write_text("local all keeper scram-sha-256\n" + before)
        postgres.sql("SELECT pg_reload_conf()")
        with pytest.raises(RecordUnwritable, match="password") as caught:
            open_record(url, create=True)
        assert caught.value.remedy
        passwords = tmp_path / "pgpass"
        passwords.write_text(f"*:*:*:keeper:{SECRET}\n")
        passwords.chmod(0o600)
        monkeypatch.setenv("PGPASSFILE", str(passwords))
        with open_record(url, create=True) as record:
            record.audit("ann", "look")
            assert SECRET not in f"{record.engine!r}{record.place}{record.engine.url}"
        with open_record(url.replace("keeper@", f"keeper:{SECRET}@")) as record:
            assert SECRET not in f"{record.engine!r}{record.place}{record.engine.url}"
    finally:
        rules.write_text(before)
        postgres.sql("SELECT pg_reload_conf()")


def test_what_the_server_refuses_is_told_at_once(postgres: Server) -> None:
    begun = time.monotonic()
    with pytest.raises(RecordMissing):
        open_record(postgres.url("no_such_database"), create=True)
    with pytest.raises(RecordUnwritable, match="role"):
        open_record(postgres.url("postgres", user="nobody_known"), create=True)
    assert time.monotonic() - begun < 30  # not the patience that an open record has


def test_a_schema_of_something_else_is_left_alone(postgres: Server) -> None:
    url = postgres.database()
    postgres.sql("CREATE SCHEMA corollout; CREATE TABLE corollout.theirs (x int)", url)
    with pytest.raises(NotARecord):
        open_record(url, create=True)
    assert postgres.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'corollout'", url) == [(1,)]


def test_other_tables_of_the_database_are_none_of_our_business(postgres: Server) -> None:
    url = postgres.database()
    postgres.sql("CREATE TABLE host (x int)", url)
    with open_record(url, create=True) as record:
        record.import_hosts(hosts(0, 1), "test")
    assert postgres.sql("SELECT count(*) FROM public.host", url) == [(0,)]


def test_a_newer_schema_is_refused(postgres: Server) -> None:
    url = postgres.database()
    open_record(url, create=True).close()
    postgres.sql("UPDATE corollout.alembic_version SET version_num = '9999'", url)
    with pytest.raises(SchemaNewer, match="9999"):
        open_record(url)


def test_two_that_make_the_record_at_once_make_one(postgres: Server) -> None:
    url = postgres.database()
    failures: list[BaseException] = []

    def make() -> None:
        try:
            with open_record(url, create=True) as record:
                record.audit("ann", "look")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(open_record(url).events()) == 4


def test_the_audit_refuses_truncation_too(postgres: Server) -> None:
    with open_record(postgres.database(), create=True) as record:
        record.audit("ann", "look")
        with pytest.raises(IntegrityError, match="append-only"), record.engine.begin() as connection:
            connection.execute(text("TRUNCATE audit"))
        assert len(record.events()) == 1


def test_numbers_and_texts_are_not_bounded_by_the_server(postgres: Server) -> None:
    with open_record(postgres.database(), create=True, now=lambda: 5e12) as record:
        record.audit("ann", "look", token=2**40, after="x" * 500)
        assert record.events()[0].token == 2**40


def test_names_sort_as_in_a_file(postgres: Server, tmp_path: Path) -> None:
    names = ["b", "B", "a-1", "a_1", "a1", "Z", "z.x", "a"]
    sorted_by = []
    for place in (tmp_path / "fleet.db", postgres.database()):
        with open_record(place, create=True) as record:
            record.import_hosts([Host(n) for n in names], "test")
            sorted_by.append(record.host_names())
    assert sorted_by[0] == sorted_by[1] == sorted(names)


def test_a_follower_misses_no_event_of_many_writers(postgres: Server) -> None:
    """Ids are handed out before the commit: a reader that saw 11 must not find 10 later."""
    url = postgres.database()
    with open_record(url, create=True) as reader:
        records = [open_record(url) for _ in range(4)]
        threads = [threading.Thread(target=lambda r=r: [r.audit("ann", "look") for _ in range(50)]) for r in records]
        for thread in threads:
            thread.start()
        seen: list[int] = []
        writing = True
        while writing:
            writing = any(t.is_alive() for t in threads)  # looked at before the read, which is then the last
            seen += [e.id for e in reader.events(seen[-1] if seen else 0)]
        assert seen == list(range(1, 201))
        for record in records:
            record.close()


def test_an_open_record_outlives_a_restart_of_the_server(postgres: Server) -> None:
    with open_record(postgres.database(), create=True) as record:
        record.import_hosts(hosts(0, 3), "test")
        postgres.restart()
        assert record.host_count() == 3
        record.import_hosts(hosts(3, 3), "test")
        postgres.stop()
        back = threading.Timer(1.0, postgres.start)
        back.start()
        record.import_hosts(hosts(6, 3), "test")  # waits for it
        back.join()
        assert record.host_count() == 9


def test_a_restart_within_a_change_undoes_all_of_it_and_says_so(postgres: Server) -> None:
    with open_record(postgres.database(), create=True) as record:
        with pytest.raises(RecordGone) as caught, record.writing() as session:
            record.joined(session).import_hosts(hosts(0, 3), "test")
            postgres.restart()
            record.joined(session).audit("ann", "look")
        assert caught.value.transient
        assert (record.host_count(), record.events()) == (0, [])


def test_a_writer_that_was_stopped_does_not_hold_the_others(postgres: Server) -> None:
    url = postgres.database()
    with open_record(url, create=True, busy_s=1.0) as frozen, open_record(url, busy_s=5.0) as other:
        with pytest.raises(RecordLocked), frozen.writing() as session:
            frozen.joined(session).audit("ann", "look")
            other.audit("bob", "look")  # gets its turn when the server has lost patience with the first
            frozen.joined(session).audit("ann", "look")
        assert [e.actor for e in frozen.events()] == ["bob"]


def test_a_reader_of_a_role_without_rights_is_told(postgres: Server) -> None:
    url = postgres.database()
    open_record(url, create=True).close()
    postgres.sql("CREATE ROLE looker LOGIN", url)
    postgres.sql(
        "GRANT USAGE ON SCHEMA corollout TO looker; GRANT SELECT ON ALL TABLES IN SCHEMA corollout TO looker", url
    )
    with open_record(url.replace("fleet@", "looker@")) as record:
        assert record.host_count() == 0
        with pytest.raises(Fault) as caught:
            record.import_hosts(hosts(0, 1), "test")
        assert isinstance(caught.value, RecordUnwritable)
