"""The record's tables: the truth about hosts, kernels, decisions and rollouts. Engines only drive.

Times are seconds since the epoch, UTC, as float. Documents are JSON text under a schema id; no secrets.
``audit`` and ``proof`` are append-only: triggers refuse update and delete.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Float, ForeignKey, Index, LargeBinary, String, Text
from sqlalchemy import Integer as Narrow
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Name = String(253)
Digest = String(80)
Integer = BigInteger().with_variant(
    Narrow(), "sqlite"
)  # 64 bits on every database; SQLite numbers rows by INTEGER only


class Base(DeclarativeBase):
    """Registry of all tables; migrations compare against it."""


class HostRow(Base):
    """A machine, how to reach it, and what the last scan said of it."""

    __tablename__ = "host"
    name: Mapped[str] = mapped_column(Name, primary_key=True)
    definition: Mapped[str] = mapped_column(Text)  # JSON of inventory.host.Host
    zone: Mapped[str] = mapped_column(Name, default="default")
    source: Mapped[str] = mapped_column(Text, default="")
    added_at: Mapped[float] = mapped_column(Float)
    reach: Mapped[str] = mapped_column(
        String(16), default="unscanned"
    )  # unscanned|reachable|unreachable|refused|garbage
    reach_code: Mapped[str | None] = mapped_column(String(32))
    reach_detail: Mapped[str | None] = mapped_column(Text)
    scanned_at: Mapped[float | None] = mapped_column(Float)
    seen_at: Mapped[float | None] = mapped_column(Float)
    kernel_id: Mapped[str | None] = mapped_column(ForeignKey("kernel.id"))
    boot_id: Mapped[str | None] = mapped_column(String(64))
    btf: Mapped[str | None] = mapped_column(String(16))  # the answer of the fact btf.vmlinux: yes|no|blocked|unknown
    facts_digest: Mapped[str | None] = mapped_column(ForeignKey("facts.digest"))


Index("host_by_kernel", HostRow.kernel_id, HostRow.name)
Index("host_by_scan", HostRow.scanned_at)  # what live screens ask four times a second: is anything newer
Index("host_by_reach", HostRow.reach, HostRow.name)
Index("host_by_zone", HostRow.zone, HostRow.name)


class KernelRow(Base):
    """One kernel build, shared by many hosts."""

    __tablename__ = "kernel"
    id: Mapped[str] = mapped_column(String(128), primary_key=True)  # build-id/arch
    release: Mapped[str] = mapped_column(Name)
    version: Mapped[str] = mapped_column(Text, default="")
    arch: Mapped[str] = mapped_column(String(32))
    os_name: Mapped[str] = mapped_column(Text, default="")
    btf_sha256: Mapped[str | None] = mapped_column(Digest)  # in the BTF archive
    first_seen: Mapped[float] = mapped_column(Float)


class FactsRow(Base):
    """One facts document, stored once however many scans repeat it (zlib of canonical JSON)."""

    __tablename__ = "facts"
    digest: Mapped[str] = mapped_column(Digest, primary_key=True)
    document: Mapped[bytes] = mapped_column(LargeBinary)
    collected_at: Mapped[float] = mapped_column(Float)


class ChoiceRow(Base):
    """The decision for one host and program, with every variant's assessment."""

    __tablename__ = "choice"
    host: Mapped[str] = mapped_column(ForeignKey("host.name", ondelete="CASCADE"), primary_key=True)
    program: Mapped[str] = mapped_column(Name, primary_key=True)
    kernel_id: Mapped[str] = mapped_column(String(128))
    facts_digest: Mapped[str] = mapped_column(Digest)
    variant: Mapped[str | None] = mapped_column(String(16))
    verdict: Mapped[str] = mapped_column(String(16))
    evidence: Mapped[str] = mapped_column(String(16))
    summary: Mapped[str] = mapped_column(Text)
    document: Mapped[str] = mapped_column(Text)  # JSON of fleet.compatibility.verdict.Choice
    decided_at: Mapped[float] = mapped_column(Float)


Index("choice_by_kernel", ChoiceRow.kernel_id, ChoiceRow.program, ChoiceRow.verdict, ChoiceRow.variant)
Index("choice_by_program", ChoiceRow.program, ChoiceRow.verdict, ChoiceRow.host)


class PlanRow(Base):
    """A frozen plan: hosts, builds, waves and the digest of the facts it was made from."""

    __tablename__ = "plan"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    program: Mapped[str] = mapped_column(Name)
    digest: Mapped[str] = mapped_column(Digest)
    document: Mapped[str] = mapped_column(Text)  # corollout.plan/1
    created_at: Mapped[float] = mapped_column(Float)


class AssignmentRow(Base):
    """What a host should be running: desired state, the other half of drift."""

    __tablename__ = "assignment"
    host: Mapped[str] = mapped_column(ForeignKey("host.name", ondelete="CASCADE"), primary_key=True)
    program: Mapped[str] = mapped_column(Name, primary_key=True)
    variant: Mapped[str] = mapped_column(String(16))
    build: Mapped[str] = mapped_column(Digest)
    token: Mapped[int] = mapped_column(Integer)
    rollout_id: Mapped[str] = mapped_column(String(40))
    since: Mapped[float] = mapped_column(Float)


class PinRow(Base):
    """A person holds a host to what it runs, or to one variant of a program."""

    __tablename__ = "pin"
    host: Mapped[str] = mapped_column(ForeignKey("host.name", ondelete="CASCADE"), primary_key=True)
    program: Mapped[str] = mapped_column(Name, primary_key=True)
    variant: Mapped[str | None] = mapped_column(String(16))  # None: it stays as it is
    reason: Mapped[str] = mapped_column(Text)
    actor: Mapped[str] = mapped_column(Name)
    at: Mapped[float] = mapped_column(Float)


class DriftRow(Base):
    """One way in which a host differed from its assignments when it was last looked at; gone when it is mended."""

    __tablename__ = "drift"
    host: Mapped[str] = mapped_column(ForeignKey("host.name", ondelete="CASCADE"), primary_key=True)
    program: Mapped[str] = mapped_column(Name, primary_key=True)  # empty: the whole host
    kind: Mapped[str] = mapped_column(String(24), primary_key=True)  # of fleet.rollout.drift.compare.KINDS
    wanted: Mapped[str] = mapped_column(Text)
    seen: Mapped[str] = mapped_column(Text)
    detail: Mapped[str] = mapped_column(Text)
    first_seen: Mapped[float] = mapped_column(Float)
    last_seen: Mapped[float] = mapped_column(Float)


class AuditRow(Base):
    """Append-only: who did what to which host, with the fencing token, in the transaction of the change."""

    __tablename__ = "audit"
    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    at: Mapped[float] = mapped_column(Float)
    actor: Mapped[str] = mapped_column(Name)
    verb: Mapped[str] = mapped_column(String(32))
    rollout_id: Mapped[str | None] = mapped_column(String(40))
    host: Mapped[str | None] = mapped_column(Name)
    program: Mapped[str | None] = mapped_column(Name)
    before: Mapped[str | None] = mapped_column(String(64))
    after: Mapped[str | None] = mapped_column(String(64))
    token: Mapped[int | None] = mapped_column(Integer)
    detail: Mapped[str] = mapped_column(Text, default="")


Index("audit_by_rollout", AuditRow.rollout_id, AuditRow.id)
Index("audit_by_host", AuditRow.host, AuditRow.id)


class ProofRow(Base):
    """Append-only: one build tried on one kernel build under one boot policy, predicted and real."""

    __tablename__ = "proof"
    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    at: Mapped[float] = mapped_column(Float)
    program: Mapped[str] = mapped_column(Name)
    variant: Mapped[str] = mapped_column(String(16))
    build: Mapped[str] = mapped_column(Digest)
    runner: Mapped[str] = mapped_column(Digest)  # SHA-256 of the runner that loaded it
    kernel_id: Mapped[str] = mapped_column(String(128))  # not a reference: no host of the fleet need run it
    release: Mapped[str] = mapped_column(Name)
    policy: Mapped[str] = mapped_column(Text)  # fleet.compatibility.outcome.boot_policy
    evidence: Mapped[str] = mapped_column(String(16))
    predicted: Mapped[str] = mapped_column(String(16))
    real: Mapped[str] = mapped_column(String(16))
    agreement: Mapped[str] = mapped_column(String(16))
    detail: Mapped[str] = mapped_column(Text)
    document: Mapped[str] = mapped_column(Text)  # JSON of fleet.compatibility.outcome.Outcome


Index("proof_by_kernel", ProofRow.kernel_id, ProofRow.build, ProofRow.id)


class ArtefactRow(Base):
    """A file made for hosts, shared by controllers on several machines (zlib)."""

    __tablename__ = "artefact"
    digest: Mapped[str] = mapped_column(Digest, primary_key=True)  # SHA-256, hex
    data: Mapped[bytes] = mapped_column(LargeBinary)
