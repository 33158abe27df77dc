"""What rollouts need to survive: one function per thing that is kept."""

from __future__ import annotations

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add each thing."""
