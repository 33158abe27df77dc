"""The first schema: hosts, kernels, decisions, plans, rollouts, samples, requests, audit."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from fleet.record.migrations.append_only import append_only

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make every table of this schema."""
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("actor", sa.String(length=253), nullable=False),
        sa.Column("verb", sa.String(length=32), nullable=False),
        sa.Column("rollout_id", sa.String(length=40), nullable=True),
        sa.Column("host", sa.String(length=253), nullable=True),
        sa.Column("program", sa.String(length=253), nullable=True),
        sa.Column("before", sa.String(length=64), nullable=True),
        sa.Column("after", sa.String(length=64), nullable=True),
        sa.Column("token", sa.Integer(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("audit_by_host", "audit", ["host", "id"], unique=False)
    op.create_index("audit_by_rollout", "audit", ["rollout_id", "id"], unique=False)
    op.create_table(
        "counter",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("value", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "facts",
        sa.Column("digest", sa.String(length=80), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.Column("collected_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("digest"),
    )
    op.create_table(
        "kernel",
        sa.Column("id", sa.String(length=128), nullable=False),
        sa.Column("release", sa.String(length=253), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("arch", sa.String(length=32), nullable=False),
        sa.Column("os_name", sa.Text(), nullable=False),
        sa.Column("btf_sha256", sa.String(length=80), nullable=True),
        sa.Column("first_seen", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "plan",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("program", sa.String(length=253), nullable=False),
        sa.Column("digest", sa.String(length=80), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "sample",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("host", sa.String(length=253), nullable=False),
        sa.Column("program", sa.String(length=253), nullable=False),
        sa.Column("rollout_id", sa.String(length=40), nullable=True),
        sa.Column("wave", sa.Integer(), nullable=True),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("window_s", sa.Float(), nullable=False),
        sa.Column("cpu_percent", sa.Float(), nullable=True),
        sa.Column("ns_per_event", sa.Float(), nullable=True),
        sa.Column("events", sa.Integer(), nullable=True),
        sa.Column("memory_bytes", sa.Integer(), nullable=True),
        sa.Column("lost", sa.Integer(), nullable=True),
        sa.Column("loss_percent", sa.Float(), nullable=True),
        sa.Column("tripped", sa.Boolean(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("sample_by_host", "sample", ["host", "program", "at"], unique=False)
    op.create_index("sample_by_rollout", "sample", ["rollout_id", "wave", "host"], unique=False)
    op.create_table(
        "host",
        sa.Column("name", sa.String(length=253), nullable=False),
        sa.Column("definition", sa.Text(), nullable=False),
        sa.Column("zone", sa.String(length=253), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("added_at", sa.Float(), nullable=False),
        sa.Column("reach", sa.String(length=16), nullable=False),
        sa.Column("reach_code", sa.String(length=32), nullable=True),
        sa.Column("reach_detail", sa.Text(), nullable=True),
        sa.Column("scanned_at", sa.Float(), nullable=True),
        sa.Column("seen_at", sa.Float(), nullable=True),
        sa.Column("kernel_id", sa.String(length=128), nullable=True),
        sa.Column("boot_id", sa.String(length=64), nullable=True),
        sa.Column("btf", sa.String(length=16), nullable=True),
        sa.Column("facts_digest", sa.String(length=80), nullable=True),
        sa.ForeignKeyConstraint(
            ["facts_digest"],
            ["facts.digest"],
        ),
        sa.ForeignKeyConstraint(
            ["kernel_id"],
            ["kernel.id"],
        ),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_index("host_by_kernel", "host", ["kernel_id", "name"], unique=False)
    op.create_index("host_by_scan", "host", ["scanned_at"], unique=False)
    op.create_index("host_by_reach", "host", ["reach", "name"], unique=False)
    op.create_index("host_by_zone", "host", ["zone", "name"], unique=False)
    op.create_table(
        "rollout",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("plan_id", sa.String(length=40), nullable=False),
        sa.Column("program", sa.String(length=253), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("wave", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("leg", sa.Integer(), nullable=False),
        sa.Column("actor", sa.String(length=253), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(
            ["plan_id"],
            ["plan.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "assignment",
        sa.Column("host", sa.String(length=253), nullable=False),
        sa.Column("program", sa.String(length=253), nullable=False),
        sa.Column("variant", sa.String(length=16), nullable=False),
        sa.Column("build", sa.String(length=80), nullable=False),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column("rollout_id", sa.String(length=40), nullable=False),
        sa.Column("since", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["host"], ["host.name"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("host", "program"),
    )
    op.create_table(
        "choice",
        sa.Column("host", sa.String(length=253), nullable=False),
        sa.Column("program", sa.String(length=253), nullable=False),
        sa.Column("kernel_id", sa.String(length=128), nullable=False),
        sa.Column("facts_digest", sa.String(length=80), nullable=False),
        sa.Column("variant", sa.String(length=16), nullable=True),
        sa.Column("verdict", sa.String(length=16), nullable=False),
        sa.Column("evidence", sa.String(length=16), nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("decided_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["host"], ["host.name"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("host", "program"),
    )
    op.create_index("choice_by_kernel", "choice", ["kernel_id", "program", "verdict", "variant"], unique=False)
    op.create_index("choice_by_program", "choice", ["program", "verdict", "host"], unique=False)
    op.create_table(
        "controller",
        sa.Column("id", sa.String(length=128), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=False),
        sa.Column("beat_at", sa.Float(), nullable=False),
        sa.Column("rollout_id", sa.String(length=40), nullable=False),
        sa.ForeignKeyConstraint(
            ["rollout_id"],
            ["rollout.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("rollout_id"),
    )
    op.create_table(
        "request",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("rollout_id", sa.String(length=40), nullable=False),
        sa.Column("verb", sa.String(length=16), nullable=False),
        sa.Column("arguments", sa.Text(), nullable=False),
        sa.Column("actor", sa.String(length=253), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("taken_at", sa.Float(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["rollout_id"],
            ["rollout.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("request_by_rollout", "request", ["rollout_id", "taken_at", "id"], unique=False)
    op.create_table(
        "step",
        sa.Column("rollout_id", sa.String(length=40), nullable=False),
        sa.Column("host", sa.String(length=253), nullable=False),
        sa.Column("wave", sa.Integer(), nullable=False),
        sa.Column("variant", sa.String(length=16), nullable=False),
        sa.Column("build", sa.String(length=80), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("kernel_id", sa.String(length=128), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("token", sa.Integer(), nullable=True),
        sa.Column("revert_token", sa.Integer(), nullable=True),
        sa.Column("previous", sa.String(length=40), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("document", sa.Text(), nullable=True),
        sa.Column("started_at", sa.Float(), nullable=True),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(
            ["rollout_id"],
            ["rollout.id"],
        ),
        sa.PrimaryKeyConstraint("rollout_id", "host"),
    )
    op.create_index("step_by_host", "step", ["host", "rollout_id"], unique=False)
    op.create_index("step_by_wave", "step", ["rollout_id", "wave", "state", "host"], unique=False)
    op.create_table(
        "wave",
        sa.Column("rollout_id", sa.String(length=40), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("phase", sa.String(length=16), nullable=True),
        sa.Column("bake_s", sa.Float(), nullable=False),
        sa.Column("baking_since", sa.Float(), nullable=True),
        sa.Column("gate", sa.Text(), nullable=True),
        sa.Column("started_at", sa.Float(), nullable=True),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(
            ["rollout_id"],
            ["rollout.id"],
        ),
        sa.PrimaryKeyConstraint("rollout_id", "number"),
    )
    append_only("audit")
