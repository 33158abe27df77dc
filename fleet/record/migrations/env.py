"""Run the migrations on the connection that the record hands over; there is no command-line use."""

from __future__ import annotations

from alembic import context

from fleet.record.rollout_tables import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
