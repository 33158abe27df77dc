"""Reads about hosts, kernels and decisions. Windows for lists of any length; frozen values out, never a row."""

from __future__ import annotations

import json
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Select, case, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from fleet.compatibility.verdict import Choice
from fleet.record.access import Access
from fleet.record.errors import NotInRecord
from fleet.record.tables import AssignmentRow, ChoiceRow, FactsRow, HostRow, KernelRow, PlanRow
from fleet.record.views import AssignmentView, HostFilter, HostView, KernelView, MatrixCell, PlanView
from inventory.facts import Facts, parse_facts
from inventory.host import Host

Statement = Select[*tuple[Any, ...]]
EVERY = HostFilter()
WORST_FIRST = ("refused", "blocked", "unknown", "degraded", "fits")
_CHUNK = 500  # names per statement; SQLite bounds the variables of one

# What a window of hosts may be sorted by: the word users type → the column.
HOST_SORTS: dict[str, InstrumentedAttribute[Any]] = {
    "name": HostRow.name,
    "zone": HostRow.zone,
    "reach": HostRow.reach,
    "release": KernelRow.release,
    "arch": KernelRow.arch,
    "os": KernelRow.os_name,
    "kernel": HostRow.kernel_id,
    "btf": HostRow.btf,
    "scanned": HostRow.scanned_at,
    "seen": HostRow.seen_at,
}


def _like(text: str) -> str:
    return "%" + text.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_") + "%"


def _conditions(wanted: HostFilter) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if wanted.text:
        pattern = _like(wanted.text)
        columns = (HostRow.name, HostRow.zone, KernelRow.release, KernelRow.os_name)
        found.append(or_(*(c.ilike(pattern, escape="\\") for c in columns)))
    exact = ((HostRow.reach, wanted.reach), (HostRow.kernel_id, wanted.kernel_id), (HostRow.zone, wanted.zone))
    found += [column == value for column, value in exact if value is not None]
    if wanted.trouble:
        found.append(HostRow.reach.not_in(("reachable", "unscanned")))
    if wanted.program is not None or wanted.verdict is not None:
        chosen = select(ChoiceRow.host)
        if wanted.program is not None:
            chosen = chosen.where(ChoiceRow.program == wanted.program)
        if wanted.verdict is not None:
            chosen = chosen.where(ChoiceRow.verdict == wanted.verdict)
        found.append(HostRow.name.in_(chosen))
    return found


def _joined(statement: Statement, wanted: HostFilter) -> Statement:
    return statement.outerjoin(KernelRow, KernelRow.id == HostRow.kernel_id).where(*_conditions(wanted))


def _sort_column(word: str) -> ColumnElement[Any]:
    if not word.startswith("program:"):
        return HOST_SORTS[word].expression
    rank = case({v: n for n, v in enumerate(WORST_FIRST)}, value=ChoiceRow.verdict)
    chosen = select(rank).where(ChoiceRow.host == HostRow.name, ChoiceRow.program == word.removeprefix("program:"))
    return chosen.scalar_subquery()


def _ordered(statement: Statement, sort: Sequence[str]) -> Statement:
    """Sort by the words of *sort*, "-" before one for descending; hosts without a value come last, names break ties.

    Besides ``HOST_SORTS`` there is ``program:NAME``: by that program's verdict, worst first.
    """
    for word in sort:
        column = _sort_column(word.removeprefix("-"))
        statement = statement.order_by((column.desc() if word.startswith("-") else column.asc()).nulls_last())
    return statement.order_by(HostRow.name)


class HostQueries(Access):
    """Reads about hosts, kernels, decisions and plans."""

    def hosts(
        self, wanted: HostFilter = EVERY, sort: Sequence[str] = ("name",), offset: int = 0, limit: int = 200
    ) -> list[HostView]:
        """Return one window of hosts; *sort* holds words of ``HOST_SORTS``."""
        with self.reading() as session:
            statement = _ordered(_joined(select(HostRow, KernelRow), wanted), sort).offset(offset).limit(limit)
            return self._views(session, session.execute(statement).all())

    def host_names(self, wanted: HostFilter = EVERY, sort: Sequence[str] = ("name",)) -> list[str]:
        """Return every matching host's name in order: what a table keeps to fetch its pages by."""
        with self.reading() as session:
            return list(session.execute(_ordered(_joined(select(HostRow.name), wanted), sort)).scalars())

    def hosts_named(self, names: Iterable[str]) -> list[HostView]:
        """Return these hosts, in the order of *names*; a name that is gone is left out."""
        order = list(names)
        found: dict[str, HostView] = {}
        with self.reading() as session:
            for start in range(0, len(order), _CHUNK):
                statement = _joined(select(HostRow, KernelRow), EVERY).where(
                    HostRow.name.in_(order[start : start + _CHUNK])
                )
                found |= {v.name: v for v in self._views(session, session.execute(statement).all())}
        return [found[name] for name in order if name in found]

    def host_count(self, wanted: HostFilter = EVERY) -> int:
        """Return how many hosts match."""
        with self.reading() as session:
            count: int = session.execute(_joined(select(func.count(HostRow.name)), wanted)).scalar_one()
            return count

    def reach_counts(self, wanted: HostFilter = EVERY) -> dict[str, int]:
        """Return how many hosts there are by reach, most first."""
        with self.reading() as session:
            statement = _joined(select(HostRow.reach, func.count()), wanted).group_by(HostRow.reach)
            rows = session.execute(statement).all()
            return dict(sorted(rows, key=lambda row: (-row[1], row[0])))

    def host(self, name: str) -> HostView:
        """Return one host, or raise NotInRecord."""
        found = self.hosts_named([name])
        if not found:
            raise NotInRecord(f"no host is called {name!r}")
        return found[0]

    def definitions(self) -> dict[str, Host]:
        """Return how to reach every host, by name: what connections and policies are made from."""
        with self.reading() as session:
            rows = session.execute(select(HostRow.name, HostRow.definition).order_by(HostRow.name))
            return {name: msgspec.json.decode(text, type=Host) for name, text in rows}

    def facts(self, name: str) -> Facts | None:
        """Return the facts of a host's last good scan, or None when there was none. Raises NotInRecord."""
        with self.reading() as session:
            row = session.execute(select(HostRow.facts_digest).where(HostRow.name == name)).one_or_none()
            if row is None:
                raise NotInRecord(f"no host is called {name!r}")
            return None if row[0] is None else _facts(session, row[0])

    def facts_of(self, digest: str) -> Facts | None:
        """Return a facts document by digest: many hosts may share one."""
        with self.reading() as session:
            return _facts(session, digest)

    def kernels(self) -> list[KernelView]:
        """Return every kernel build, most hosts first, then by release."""
        hosts = func.count(HostRow.name).label("hosts")
        with self.reading() as session:
            rows = session.execute(
                select(KernelRow, hosts)
                .outerjoin(HostRow, HostRow.kernel_id == KernelRow.id)
                .group_by(KernelRow.id)
                .order_by(hosts.desc(), KernelRow.release, KernelRow.id)
            ).all()
            return [
                KernelView(k.id, k.release, k.version, k.arch, k.os_name, k.btf_sha256, k.first_seen, n)
                for k, n in rows
            ]

    def choices(self, program: str | None = None, *, host: str | None = None) -> list[Choice]:
        """Return decisions by host and program; narrow them for a large fleet."""
        statement = select(ChoiceRow.document).order_by(ChoiceRow.host, ChoiceRow.program)
        if program is not None:
            statement = statement.where(ChoiceRow.program == program)
        if host is not None:
            statement = statement.where(ChoiceRow.host == host)
        with self.reading() as session:
            return [msgspec.json.decode(text, type=Choice) for text in session.execute(statement).scalars()]

    def matrix(self) -> list[MatrixCell]:
        """Return kernel × program with counts, by release, kernel and program."""
        statement = (
            select(KernelRow, ChoiceRow.program, ChoiceRow.verdict, ChoiceRow.variant, func.count())
            .join(ChoiceRow, ChoiceRow.kernel_id == KernelRow.id)  # decided for this kernel, even if it left since
            .group_by(KernelRow.id, ChoiceRow.program, ChoiceRow.verdict, ChoiceRow.variant)
            .order_by(KernelRow.release, KernelRow.id, ChoiceRow.program, ChoiceRow.verdict, ChoiceRow.variant)
        )
        verdicts: dict[tuple[str, str], dict[str, int]] = defaultdict(lambda: defaultdict(int))
        variants: dict[tuple[str, str], dict[str, int]] = defaultdict(lambda: defaultdict(int))
        heads: dict[tuple[str, str], tuple[str, str, str]] = {}
        with self.reading() as session:
            for kernel, program, verdict, variant, count in session.execute(statement).all():
                key = (kernel.id, program)
                heads[key] = (kernel.release, kernel.arch, kernel.os_name)
                verdicts[key][verdict] += count
                if variant is not None:
                    variants[key][variant] += count
        return [
            MatrixCell(key[0], *head, key[1], dict(verdicts[key]), dict(variants[key])) for key, head in heads.items()
        ]

    def plans(self) -> list[PlanView]:
        """Return every saved plan, newest first."""
        with self.reading() as session:
            rows = session.execute(select(PlanRow).order_by(PlanRow.created_at.desc(), PlanRow.id)).scalars()
            return [_plan(row) for row in rows]

    def plan(self, plan_id: str) -> PlanView:
        """Return one plan, or raise NotInRecord."""
        with self.reading() as session:
            row = session.get(PlanRow, plan_id)
            if row is None:
                raise NotInRecord(f"no plan is called {plan_id!r}")
            return _plan(row)

    def assignments(self, *, host: str | None = None, program: str | None = None) -> list[AssignmentView]:
        """Return what hosts should be running, by host and program."""
        statement = select(AssignmentRow).order_by(AssignmentRow.host, AssignmentRow.program)
        if host is not None:
            statement = statement.where(AssignmentRow.host == host)
        if program is not None:
            statement = statement.where(AssignmentRow.program == program)
        with self.reading() as session:
            return [
                AssignmentView(a.host, a.program, a.variant, a.build, a.token, a.rollout_id, a.since)
                for a in session.execute(statement).scalars()
            ]

    def _views(self, session: Session, rows: Sequence[Any]) -> list[HostView]:
        names = [row.name for row, _ in rows]
        verdicts: dict[str, dict[str, str]] = defaultdict(dict)
        variants: dict[str, dict[str, str]] = defaultdict(dict)
        for start in range(0, len(names), _CHUNK):
            chosen = select(ChoiceRow.host, ChoiceRow.program, ChoiceRow.verdict, ChoiceRow.variant).where(
                ChoiceRow.host.in_(names[start : start + _CHUNK])
            )
            for host, program, verdict, variant in session.execute(chosen):
                verdicts[host][program] = verdict
                if variant is not None:
                    variants[host][program] = variant
        return [_host_view(row, kernel, verdicts[row.name], variants[row.name]) for row, kernel in rows]


def _host_view(row: HostRow, kernel: KernelRow | None, verdicts: dict[str, str], variants: dict[str, str]) -> HostView:
    return HostView(
        name=row.name, zone=row.zone, source=row.source, reach=row.reach, reach_code=row.reach_code,
        reach_detail=row.reach_detail, scanned_at=row.scanned_at, seen_at=row.seen_at, kernel_id=row.kernel_id,
        release=kernel.release if kernel else "", arch=kernel.arch if kernel else "",
        os_name=kernel.os_name if kernel else "", boot_id=row.boot_id, btf=row.btf, facts_digest=row.facts_digest,
        host=msgspec.json.decode(row.definition, type=Host), verdicts=verdicts, variants=variants,
    )  # fmt: skip


def _facts(session: Session, digest: str) -> Facts | None:
    row = session.get(FactsRow, digest)
    return None if row is None else parse_facts(zlib.decompress(row.document))


def _plan(row: PlanRow) -> PlanView:
    return PlanView(row.id, row.program, row.digest, row.created_at, json.loads(row.document))
