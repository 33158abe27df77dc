"""The record's tables of rollouts and of those who drive them; `tables` has the rest and says what they share."""

from __future__ import annotations

from sqlalchemy import Boolean, Float, ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from fleet.record.tables import Base, Digest, Integer, Name

METADATA = Base.metadata  # of all tables: those of `tables` are known before these


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


class JoinedRow(Base):
    """A host that came after the plan was made and joined the last wave, with what is planned for it."""

    __tablename__ = "joined"
    rollout_id: Mapped[str] = mapped_column(ForeignKey("rollout.id"), primary_key=True)
    host: Mapped[str] = mapped_column(Name, primary_key=True)
    document: Mapped[str] = mapped_column(Text)  # JSON of a PlannedHost, and its own part of the spec
    at: Mapped[float] = mapped_column(Float)


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
