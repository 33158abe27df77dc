"""What really came of builds on kernels: append-only, like the audit."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from fleet.record.migrations.append_only import append_only

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the table of proofs."""
    op.create_table(
        "proof",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("program", sa.String(length=253), nullable=False),
        sa.Column("variant", sa.String(length=16), nullable=False),
        sa.Column("build", sa.String(length=80), nullable=False),
        sa.Column("runner", sa.String(length=80), nullable=False),
        sa.Column("kernel_id", sa.String(length=128), nullable=False),
        sa.Column("release", sa.String(length=253), nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("evidence", sa.String(length=16), nullable=False),
        sa.Column("predicted", sa.String(length=16), nullable=False),
        sa.Column("real", sa.String(length=16), nullable=False),
        sa.Column("agreement", sa.String(length=16), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("proof_by_kernel", "proof", ["kernel_id", "build", "id"], unique=False)
    append_only("proof")
