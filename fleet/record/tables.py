"""The record's tables: the truth about hosts, kernels, decisions and rollouts. Engines only drive.

Times are seconds since the epoch, UTC, as float. Documents are JSON text under a schema id; no secrets.
``audit`` and ``proof`` are append-only: triggers refuse update and delete.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Float, ForeignKey, Index, LargeBinary, String, Text
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


class RolloutRow(Base):
    """One plan being carried out. States are those of fleet.rollout.states.

    ``leg`` counts the stretches between a start and a stop: one durable workflow each. ``epoch`` rises whenever a
    controller claims the rollout.
    """

    __tablename__ = "rollout"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    plan_id: Mapped[str] = mapped_column(ForeignKey("plan.id"))
    program: Mapped[str] = mapped_column(Name)
    state: Mapped[str] = mapped_column(String(32))
    reason: Mapped[str | None] = mapped_column(Text)  # typed: "<code>: detail"
    wave: Mapped[int] = mapped_column(Integer, default=-1)
    epoch: Mapped[int] = mapped_column(Integer, default=0)
    leg: Mapped[int] = mapped_column(Integer, default=0)
    actor: Mapped[str] = mapped_column(Name)
    created_at: Mapped[float] = mapped_column(Float)
    ended_at: Mapped[float | None] = mapped_column(Float)
    approved_by: Mapped[str | None] = mapped_column(Name)
    pace: Mapped[str] = mapped_column(String(16), default="", server_default="")  # all | wave:N: without bakes
    duty: Mapped[str | None] = mapped_column(String(16))  # what is due beside waves, of fleet.rollout.states.DUTIES
    held: Mapped[str] = mapped_column(Text, default="[]", server_default="[]")  # JSON: [kernel id, variant]


class WaveRow(Base):
    """One wave of a rollout and the verdict of its gate."""

    __tablename__ = "wave"
    rollout_id: Mapped[str] = mapped_column(ForeignKey("rollout.id"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))  # pending|running|baking|passed|failed|inconclusive|error|reverted
    phase: Mapped[str | None] = mapped_column(String(16))  # the next piece of work, of fleet.rollout.states.PHASES
    bake_s: Mapped[float] = mapped_column(Float, default=0.0)
    approval: Mapped[bool] = mapped_column(Boolean, default=False)  # a person says when it begins
    baking_since: Mapped[float | None] = mapped_column(Float)
    gate: Mapped[str | None] = mapped_column(Text)  # JSON: answer and checks with the samples they rest on
    started_at: Mapped[float | None] = mapped_column(Float)
    ended_at: Mapped[float | None] = mapped_column(Float)


class StepRow(Base):
    """One host in one wave. Written as intent (with its fencing token) before the host is touched."""

    __tablename__ = "step"
    rollout_id: Mapped[str] = mapped_column(ForeignKey("rollout.id"), primary_key=True)
    host: Mapped[str] = mapped_column(Name, primary_key=True)
    wave: Mapped[int] = mapped_column(Integer)
    variant: Mapped[str] = mapped_column(String(16))
    build: Mapped[str] = mapped_column(Digest)
    state: Mapped[str] = mapped_column(String(16))
    # of fleet.rollout.states.STEP_ROWS
    kernel_id: Mapped[str] = mapped_column(String(128), default="")
    zone: Mapped[str] = mapped_column(Name, default="", server_default="")  # as it was when the rollout was made
    attempts: Mapped[int] = mapped_column(Integer, default=0)  # how often apply was begun
    token: Mapped[int | None] = mapped_column(Integer)  # of apply; kept while its outcome is unknown
    revert_token: Mapped[int | None] = mapped_column(Integer)
    previous: Mapped[str | None] = mapped_column(String(40))  # the rollout whose build this one replaced
    detail: Mapped[str | None] = mapped_column(Text)  # one line, "<code>: …"
    document: Mapped[str | None] = mapped_column(Text)  # the agent's last answer
    started_at: Mapped[float | None] = mapped_column(Float)
    ended_at: Mapped[float | None] = mapped_column(Float)


Index("step_by_wave", StepRow.rollout_id, StepRow.wave, StepRow.state, StepRow.host)
Index("step_by_host", StepRow.host, StepRow.rollout_id)


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


class JoinedRow(Base):
    """A host that came after the plan was made and joined the last wave, with what is planned for it."""

    __tablename__ = "joined"
    rollout_id: Mapped[str] = mapped_column(ForeignKey("rollout.id"), primary_key=True)
    host: Mapped[str] = mapped_column(Name, primary_key=True)
    document: Mapped[str] = mapped_column(Text)  # JSON of a PlannedHost, and its own part of the spec
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


class SampleRow(Base):
    """One look at one program on one host. Cost in percent of one core, times in ns, memory in bytes.

    ``outcome`` says whether there was anything to measure: ``ok``, or why not.
    """

    __tablename__ = "sample"
    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    host: Mapped[str] = mapped_column(Name)
    program: Mapped[str] = mapped_column(Name)
    rollout_id: Mapped[str | None] = mapped_column(String(40))
    wave: Mapped[int | None] = mapped_column(Integer)
    at: Mapped[float] = mapped_column(Float)
    outcome: Mapped[str] = mapped_column(String(16), default="ok")  # ok|idle|absent|rebooted|unreachable|error|control
    window_s: Mapped[float] = mapped_column(Float)
    cpu_percent: Mapped[float | None] = mapped_column(Float)
    ns_per_event: Mapped[float | None] = mapped_column(Float)
    events: Mapped[int | None] = mapped_column(Integer)
    memory_bytes: Mapped[int | None] = mapped_column(Integer)
    lost: Mapped[int | None] = mapped_column(Integer)
    loss_percent: Mapped[float | None] = mapped_column(Float)
    tripped: Mapped[bool] = mapped_column(Boolean, default=False)
    document: Mapped[str] = mapped_column(Text)


Index("sample_by_rollout", SampleRow.rollout_id, SampleRow.wave, SampleRow.host)
Index("sample_by_host", SampleRow.host, SampleRow.program, SampleRow.at)


class ServiceSampleRow(Base):
    """One round of asking a service on one host, times in microseconds. Kept as long as its rollout."""

    __tablename__ = "service_sample"
    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    rollout_id: Mapped[str] = mapped_column(ForeignKey("rollout.id"))
    wave: Mapped[int] = mapped_column(Integer)
    host: Mapped[str] = mapped_column(Name)
    role: Mapped[str] = mapped_column(String(16))  # canary|control
    moment: Mapped[str] = mapped_column(String(16))  # before|after the program came to the wave
    round: Mapped[float] = mapped_column(Float)  # when the round began: the same for all that were asked together
    at: Mapped[float] = mapped_column(Float)
    outcome: Mapped[str] = mapped_column(String(16))  # ok|unreachable|error: was anybody asked
    asked: Mapped[int] = mapped_column(Integer)
    errors: Mapped[int] = mapped_column(Integer)
    median_us: Mapped[float | None] = mapped_column(Float)
    tail_us: Mapped[float | None] = mapped_column(Float)  # nine of ten answers were faster
    document: Mapped[str] = mapped_column(Text)  # JSON: every latency, the first trouble


Index("service_sample_by_wave", ServiceSampleRow.rollout_id, ServiceSampleRow.wave, ServiceSampleRow.round)


class RequestRow(Base):
    """What a person asked of a rollout (pause, promote, halt …); the workflow takes it, nobody else acts."""

    __tablename__ = "request"
    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    rollout_id: Mapped[str] = mapped_column(ForeignKey("rollout.id"))
    verb: Mapped[str] = mapped_column(String(16))
    arguments: Mapped[str] = mapped_column(Text, default="{}")
    actor: Mapped[str] = mapped_column(Name)
    at: Mapped[float] = mapped_column(Float)
    taken_at: Mapped[float | None] = mapped_column(Float)
    outcome: Mapped[str | None] = mapped_column(Text)


Index("request_by_rollout", RequestRow.rollout_id, RequestRow.taken_at, RequestRow.id)


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


class WayRow(Base):
    """How a rollout's hosts are reached, where that is not plain SSH."""

    __tablename__ = "way"
    rollout_id: Mapped[str] = mapped_column(ForeignKey("rollout.id"), primary_key=True)
    via: Mapped[str] = mapped_column(String(16))  # ssh|ansible
    inventory: Mapped[str | None] = mapped_column(Text)  # path of an Ansible inventory of the user's


class CounterRow(Base):
    """Named rising counters; ``token`` hands out fencing tokens, never one twice."""

    __tablename__ = "counter"
    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    value: Mapped[int] = mapped_column(Integer)


class ControllerRow(Base):
    """A live controller: heartbeat every few seconds; a stale one may be taken over. One rollout has at most one."""

    __tablename__ = "controller"
    id: Mapped[str] = mapped_column(String(128), primary_key=True)
    started_at: Mapped[float] = mapped_column(Float)
    beat_at: Mapped[float] = mapped_column(Float)
    rollout_id: Mapped[str] = mapped_column(ForeignKey("rollout.id"), unique=True)


class WorkerRow(Base):
    """A live process that carries slices: heartbeat every few seconds; a silent one is taken over."""

    __tablename__ = "worker"
    id: Mapped[str] = mapped_column(String(128), primary_key=True)  # fleet.rollout.driving.controller.new_id
    zones: Mapped[str] = mapped_column(Text)  # JSON list: whose queues it listens to
    started_at: Mapped[float] = mapped_column(Float)
    beat_at: Mapped[float] = mapped_column(Float)


class SliceRow(Base):
    """One phase of one wave in one zone: what one worker carries at a time.

    ``epoch`` rises whenever the slice gets or loses its owner; writes about its hosts are refused under an older one.
    """

    __tablename__ = "slice"
    id: Mapped[str] = mapped_column(String(128), primary_key=True)  # the engine's
    rollout_id: Mapped[str] = mapped_column(ForeignKey("rollout.id"))
    wave: Mapped[int] = mapped_column(Integer)
    phase: Mapped[str] = mapped_column(String(16))
    zone: Mapped[str] = mapped_column(Name)
    owner: Mapped[str | None] = mapped_column(String(128))
    epoch: Mapped[int] = mapped_column(Integer)


Index("slice_by_owner", SliceRow.owner)
Index("slice_by_rollout", SliceRow.rollout_id)


class ArtefactRow(Base):
    """A file made for hosts, shared by controllers on several machines (zlib)."""

    __tablename__ = "artefact"
    digest: Mapped[str] = mapped_column(Digest, primary_key=True)  # SHA-256, hex
    data: Mapped[bytes] = mapped_column(LargeBinary)
