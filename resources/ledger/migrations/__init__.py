"""Bringing a ledger to the present version (Alembic). One file in `versions/` per change, never edited later."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

HEAD = "0001"


def upgrade(engine: sa.Engine) -> None:
    """Migrate to HEAD. Several processes may call it at once: the first one does it inside one write transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["quiet"] = True
    with engine.connect().execution_options(als_write=True) as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            connection.execute(sa.text("select pg_advisory_xact_lock(7011)"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
