"""Tables that only grow: triggers refuse to change or delete a row, in the words of each database."""

from __future__ import annotations

from alembic import op

_SQLITE = """
CREATE TRIGGER {table}_refuses_{verb} BEFORE {verb} ON {table}
BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END
"""
_FUNCTION = """
CREATE FUNCTION {table}_refuses() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION '{table} is append-only' USING ERRCODE = 'integrity_constraint_violation'; END $$
"""
_POSTGRES = "CREATE TRIGGER {table}_refuses_{verb} BEFORE {verb} ON {table} EXECUTE FUNCTION {table}_refuses()"


def append_only(table: str) -> None:
    """Refuse every update and deletion in *table* from now on; where there is TRUNCATE, that too."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(_FUNCTION.format(table=table))
        for verb in ("update", "delete", "truncate"):
            op.execute(_POSTGRES.format(table=table, verb=verb))
        return
    for verb in ("update", "delete"):
        op.execute(_SQLITE.format(table=table, verb=verb))
