"""What Alembic runs: the steps, on the connection that the store lends it."""

from alembic import context

from pronk.feedback.schema import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
context.run_migrations()
