"""Bringing a ledger to the present version (Alembic). One file in `versions/` per change, never edited later."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0002"
VERSION_TABLE = "ledger_version"
HERE = Path(__file__).parent


def upgrade(engine: sa.Engine) -> None:
    """Migrate to HEAD. Several processes may call it at once: the first one does it inside one write transaction."""
    from alembic import command

    config = _config()
    with engine.connect().execution_options(als_write=True) as connection, connection.begin():
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def known() -> set[str]:
    """The versions that this program can migrate from."""
    from alembic.script import ScriptDirectory

    return {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(HERE).replace("%", "%%"))
    return config
