"""Alembic's entry point; called by `upgrade` with an open connection."""

from alembic import context

from resources.ledger.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
context.run_migrations()
