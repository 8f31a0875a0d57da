"""Alembic's entry point; called by `upgrade` with an open connection. The version has a table of its own name, so that
the ledger may share a PostgreSQL database with Dagster's storage, which also uses Alembic."""

from alembic import context

from resources.ledger.migrations import VERSION_TABLE
from resources.ledger.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
context.run_migrations()
