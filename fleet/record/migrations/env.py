"""Run the migrations on the connection that the record hands over; there is no command-line use."""

from __future__ import annotations

from alembic import context

from fleet.record.tables import Base

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
