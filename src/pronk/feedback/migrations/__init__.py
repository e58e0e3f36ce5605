"""How the database came to its shape, step by step; Alembic runs these when a database is opened."""
