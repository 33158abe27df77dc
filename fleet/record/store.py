"""Writes about hosts, kernels and decisions. Each method is one transaction: the change and its audit row together."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Protocol

import msgspec
from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session

from btf.fault import Fault, printable
from fleet.compatibility.verdict import Choice, Evidence
from fleet.record.access import Access, inserting, upsert
from fleet.record.errors import NotInRecord
from fleet.record.tables import AssignmentRow, AuditRow, ChoiceRow, FactsRow, HostRow, KernelRow, PlanRow
from fleet.record.views import Imported
from inventory.facts import Facts
from inventory.host import Host

SOMEBODY = "corollout"  # the actor of what no person asked for by name


class Scanned(Protocol):
    """What one scan of one host gave: facts, or the fault that kept them away."""

    @property
    def host(self) -> Host: ...  # noqa: D102 - a field
    @property
    def facts(self) -> Facts | None: ...  # noqa: D102 - a field
    @property
    def fault(self) -> Fault | None: ...  # noqa: D102 - a field


class Planned(Protocol):
    """A plan as the record keeps it; ``fleet.rollout.planning.plan`` makes them."""

    @property
    def id(self) -> str: ...  # noqa: D102 - a field
    @property
    def program(self) -> str: ...  # noqa: D102 - a field
    @property
    def digest(self) -> str: ...  # noqa: D102 - a field
    @property
    def created_at(self) -> float: ...  # noqa: D102 - a field
    def text(self) -> bytes: ...  # noqa: D102 - corollout.plan/1


# Made once: to make a statement costs several times what it costs to run it, and each host's steps run these.
_AUDIT = insert(AuditRow.__table__)  # type: ignore[arg-type]  # the ORM would look at each row again


@cache
def _assigning(insert_into: Callable[[Any], Any]) -> Any:
    row = insert_into(AssignmentRow.__table__)
    columns = ("variant", "build", "token", "rollout_id", "since")
    return row.on_conflict_do_update(index_elements=["host", "program"], set_={c: row.excluded[c] for c in columns})


def add_audit(session: Session, at: float, actor: str, verb: str, **fields: Any) -> None:
    """Append one audit row in *session*'s transaction; ``fields`` are the columns of ``AuditRow``."""
    add_audits(session, [audit_row(at, actor, verb, **fields)])


def add_audits(session: Session, rows: Sequence[Mapping[str, Any]]) -> None:
    """Append rows that are alike, in their order, in *session*'s transaction."""
    if rows:
        session.execute(_AUDIT, rows)


def audit_row(at: float, actor: str, verb: str, **fields: Any) -> dict[str, Any]:
    """Return one audit row; ``fields`` are the columns of ``AuditRow``."""
    fields["detail"] = printable(str(fields.get("detail") or ""), 1000)
    return {"at": at, "actor": printable(actor, 200), "verb": verb, **fields}


# A fault's code, first match by prefix → the host's reach. By code: this room does not know how hosts are reached.
_REACH = (("COR-SSH-01", "refused"), ("COR-INV-010", "garbage"), ("COR-INV-011", "garbage"))


def reach_of(fault: Fault | None) -> str:
    """Return the host's reach that a scan's *fault* means."""
    if fault is None:
        return "reachable"
    return next((reach for prefix, reach in _REACH if fault.code.startswith(prefix)), "unreachable")


class HostStore(Access):
    """Writes about hosts, kernels, decisions and plans."""

    def audit(self, actor: str, verb: str, **fields: Any) -> None:
        """Append an audit row of its own; ``fields``: rollout_id host program before after token detail."""
        with self.writing() as session:
            add_audit(session, self.now(), actor, verb, **fields)

    def import_hosts(self, hosts: Iterable[Host], source: str, *, actor: str = SOMEBODY) -> Imported:
        """Add *hosts* or update how they are reached; what was scanned of them stays. Nothing is removed."""
        at = self.now()
        added: list[str] = []
        changed: list[str] = []
        unchanged: list[str] = []
        with self.writing() as session:
            known: dict[str, str] = dict(session.execute(select(HostRow.name, HostRow.definition)).all())
            fresh = []
            for host in hosts:
                definition = msgspec.json.encode(host).decode()
                before = known.get(host.name)
                if before == definition:
                    unchanged.append(host.name)
                    continue
                known[host.name] = definition
                (added if before is None else changed).append(host.name)
                fresh.append(
                    {"name": host.name, "definition": definition, "zone": host.zone, "source": source, "added_at": at}
                )
            if fresh:
                statement = upsert(session, HostRow)
                renewed = {k: statement.excluded[k] for k in ("definition", "zone", "source")}
                session.execute(
                    statement.values(reach="unscanned").on_conflict_do_update(index_elements=["name"], set_=renewed),
                    fresh,
                )
            if added or changed:
                detail = f"{source}: {len(added)} added, {len(changed)} changed"
                add_audit(session, at, actor, "import-hosts", detail=detail)
        return Imported(tuple(sorted(added)), tuple(sorted(changed)), tuple(sorted(unchanged)))

    def remove_host(self, name: str, *, actor: str = SOMEBODY) -> None:
        """Forget a host and what was decided for it; its audit stays. Raises NotInRecord."""
        with self.writing() as session:
            # The result of a DELETE has a row count; its static type does not say so.
            gone = session.execute(delete(HostRow).where(HostRow.name == name).returning(HostRow.name)).first()
            if gone is None:
                raise NotInRecord(f"no host is called {name!r}")
            add_audit(session, self.now(), actor, "remove-host", host=name)

    def record_scan(self, outcome: Scanned, now: float | None = None) -> None:
        """Keep what a scan said of a host. A failed scan keeps the facts of the last good one."""
        at = self.now() if now is None else now
        fault, facts = outcome.fault, outcome.facts
        values: dict[str, Any] = {
            "reach": reach_of(fault),
            "reach_code": fault.code if fault else None,
            "reach_detail": fault.message if fault else None,
            "scanned_at": at,
        }
        with self.writing() as session:
            if facts is not None:
                _keep_kernel(session, facts, at)
                _keep_facts(session, facts)
                values |= {
                    "seen_at": at,
                    "kernel_id": facts.kernel_id,
                    "boot_id": facts.boot_id,
                    "btf": facts.answer("btf.vmlinux").value,
                    "facts_digest": facts.digest,
                }
            name = outcome.host.name
            found = session.execute(
                update(HostRow).where(HostRow.name == name).values(**values).returning(HostRow.name)
            ).first()
            if found is None:
                raise NotInRecord(f"no host is called {name!r}")

    def record_kernel_btf(self, kernel_id: str, sha256: str) -> None:
        """Note which BTF of the archive belongs to a kernel build."""
        with self.writing() as session:
            session.execute(update(KernelRow).where(KernelRow.id == kernel_id).values(btf_sha256=sha256))

    def record_choice(self, choice: Choice, now: float | None = None) -> None:
        """Keep the decision for one host and program, in place of the one before."""
        self.record_choices([choice], now)

    def record_choices(self, choices: Iterable[Choice], now: float | None = None) -> None:
        """Keep many decisions in one transaction."""
        at = self.now() if now is None else now
        rows = [
            {
                "host": c.host,
                "program": c.program,
                "kernel_id": c.kernel_id,
                "facts_digest": c.facts_digest,
                "variant": c.variant,
                "verdict": c.verdict.value,
                "evidence": _evidence(c).value,
                "summary": printable(c.summary, 1000),
                "document": msgspec.json.encode(c).decode(),
                "decided_at": at,
            }
            for c in choices
        ]
        if not rows:
            return
        with self.writing() as session:
            statement = upsert(session, ChoiceRow)
            renewed = {k: statement.excluded[k] for k in rows[0] if k not in ("host", "program")}
            session.execute(statement.on_conflict_do_update(index_elements=["host", "program"], set_=renewed), rows)

    def save_plan(self, plan: Planned, *, actor: str = SOMEBODY) -> None:
        """Keep a frozen plan; saving the same one again changes nothing."""
        with self.writing() as session:
            row = {
                "id": plan.id,
                "program": plan.program,
                "digest": plan.digest,
                "document": plan.text().decode(),
                "created_at": plan.created_at,
            }
            fresh = session.execute(
                upsert(session, PlanRow).values(**row).on_conflict_do_nothing().returning(PlanRow.id)
            ).first()
            if fresh is not None:
                add_audit(session, self.now(), actor, "plan", program=plan.program, detail=f"{plan.id} {plan.digest}")

    def assign(self, session: Session, host: str, program: str, **values: Any) -> None:
        """Set what *host* should run, inside the transaction of the step that made it so."""
        session.execute(_assigning(inserting(session)), {"host": host, "program": program, **values})

    def unassign(self, session: Session, host: str, program: str) -> None:
        """The host should no longer run *program*; inside the transaction of the step that made it so."""
        session.execute(delete(AssignmentRow).where(AssignmentRow.host == host, AssignmentRow.program == program))


def _evidence(choice: Choice) -> Evidence:
    """The evidence behind the chosen variant, or behind the best refusal."""
    chosen = [a.evidence for a in choice.assessments if a.variant == choice.variant]
    return (
        chosen[0] if chosen else max((a.evidence for a in choice.assessments), key=_strength, default=Evidence.CLAIMED)
    )


def _strength(evidence: Evidence) -> int:
    return evidence.strength


def _keep_kernel(session: Session, facts: Facts, at: float) -> None:
    values = {
        "release": str(facts.value("kernel.release", "unknown"))[:253],
        "version": str(facts.value("kernel.version", "")),
        "arch": str(facts.value("kernel.arch", "unknown"))[:32],
        "os_name": str(facts.value("os.pretty_name", "")),
    }
    row = upsert(session, KernelRow).values(id=facts.kernel_id, first_seen=at, **values)
    # One build is one kernel: only the name of the distribution around it can be learned later.
    session.execute(row.on_conflict_do_update(index_elements=["id"], set_={"os_name": row.excluded.os_name}))


def _keep_facts(session: Session, facts: Facts) -> None:
    document = json.dumps(facts.document(), sort_keys=True, separators=(",", ":")).encode()
    row = upsert(session, FactsRow).values(
        digest=facts.digest, document=zlib.compress(document), collected_at=facts.collected_at
    )
    session.execute(row.on_conflict_do_nothing())
