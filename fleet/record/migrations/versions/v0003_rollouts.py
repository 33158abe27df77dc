"""What rollouts need to survive: one function per thing that is kept."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add each thing."""
    _drift()
    _service_samples()
    _way()
    _plans()
    _workers()
    _standing()


def _drift() -> None:
    op.create_table(
        "drift",
        sa.Column("host", sa.String(length=253), nullable=False),
        sa.Column("program", sa.String(length=253), nullable=False),
        sa.Column("kind", sa.String(length=24), nullable=False),
        sa.Column("wanted", sa.Text(), nullable=False),
        sa.Column("seen", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("first_seen", sa.Float(), nullable=False),
        sa.Column("last_seen", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["host"], ["host.name"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("host", "program", "kind"),
    )


def _service_samples() -> None:
    """Add what hosts' services answered, before and after."""
    op.create_table(
        "service_sample",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("rollout_id", sa.String(length=40), nullable=False),
        sa.Column("wave", sa.Integer(), nullable=False),
        sa.Column("host", sa.String(length=253), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("moment", sa.String(length=16), nullable=False),
        sa.Column("round", sa.Float(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("asked", sa.Integer(), nullable=False),
        sa.Column("errors", sa.Integer(), nullable=False),
        sa.Column("median_us", sa.Float(), nullable=True),
        sa.Column("tail_us", sa.Float(), nullable=True),
        sa.Column("document", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["rollout_id"], ["rollout.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("service_sample_by_wave", "service_sample", ["rollout_id", "wave", "round"], unique=False)


def _way() -> None:
    op.create_table(
        "way",
        sa.Column("rollout_id", sa.String(length=40), nullable=False),
        sa.Column("via", sa.String(length=16), nullable=False),
        sa.Column("inventory", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["rollout_id"], ["rollout.id"]),
        sa.PrimaryKeyConstraint("rollout_id"),
    )


def _plans() -> None:
    op.create_table(
        "pin",
        sa.Column("host", sa.String(length=253), nullable=False),
        sa.Column("program", sa.String(length=253), nullable=False),
        sa.Column("variant", sa.String(length=16), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", sa.String(length=253), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["host"], ["host.name"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("host", "program"),
    )
    op.create_table(
        "joined",
        sa.Column("rollout_id", sa.String(length=40), nullable=False),
        sa.Column("host", sa.String(length=253), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["rollout_id"], ["rollout.id"]),
        sa.PrimaryKeyConstraint("rollout_id", "host"),
    )


def _workers() -> None:
    op.add_column("step", sa.Column("zone", sa.String(length=253), nullable=False, server_default=""))
    op.create_table(
        "worker",
        sa.Column("id", sa.String(length=128), nullable=False),
        sa.Column("zones", sa.Text(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=False),
        sa.Column("beat_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "slice",
        sa.Column("id", sa.String(length=128), nullable=False),
        sa.Column("rollout_id", sa.String(length=40), nullable=False),
        sa.Column("wave", sa.Integer(), nullable=False),
        sa.Column("phase", sa.String(length=16), nullable=False),
        sa.Column("zone", sa.String(length=253), nullable=False),
        sa.Column("owner", sa.String(length=128), nullable=True),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["rollout_id"], ["rollout.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("slice_by_owner", "slice", ["owner"], unique=False)
    op.create_index("slice_by_rollout", "slice", ["rollout_id"], unique=False)
    op.create_table(
        "artefact",
        sa.Column("digest", sa.String(length=80), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("digest"),
    )


def _standing() -> None:
    """Who approved a rollout, how fast it goes, what is due beside its waves, which kernel builds halted
    alone; which waves a person says when to begin."""
    op.add_column("rollout", sa.Column("approved_by", sa.String(length=253), nullable=True))
    op.add_column("rollout", sa.Column("pace", sa.String(length=16), nullable=False, server_default=""))
    op.add_column("rollout", sa.Column("duty", sa.String(length=16), nullable=True))
    op.add_column("rollout", sa.Column("held", sa.Text(), nullable=False, server_default="[]"))
    op.add_column("wave", sa.Column("approval", sa.Boolean(), nullable=False, server_default=sa.false()))
