"""What rollouts need to survive: one function per thing that is kept."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add each thing."""
    _drift()


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
