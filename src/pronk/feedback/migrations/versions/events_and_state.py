"""The first shape: events that nothing may change or remove, people, and the state that follows from the events."""

import sqlalchemy as sa
from alembic import op

revision = "events_and_state"
down_revision = None


def upgrade() -> None:
    truth()
    derived()
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER events_no_{verb.lower()} BEFORE {verb} ON events "
            "BEGIN SELECT RAISE(ABORT, 'events are only ever added'); END"
        )


def truth() -> None:
    op.create_table(
        "events",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("person", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("key", sa.Text, unique=True),
        sa.Column("body", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "people",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
    )
    op.create_table(
        "sessions",
        sa.Column("token", sa.Text, primary_key=True),
        sa.Column("person", sa.Text, nullable=False, index=True),
    )


def derived() -> None:
    op.create_table("state", sa.Column("name", sa.Text, primary_key=True), sa.Column("value", sa.Integer))
    op.create_table(
        "items",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("prompt", sa.Text, nullable=False),
        sa.Column("first", sa.Text, nullable=False),
        sa.Column("second", sa.Text, nullable=False),
        sa.Column("first_model", sa.Text, nullable=False),
        sa.Column("second_model", sa.Text, nullable=False),
        sa.Column("part", sa.Text, nullable=False),
        sa.Column("asked", sa.Boolean, nullable=False),
        sa.Column("lot", sa.Float, nullable=False),
        sa.Column("doubt", sa.Float),
        sa.Column("flags", sa.Integer, nullable=False),
    )
    op.create_index("items_by_doubt", "items", ["part", "doubt", "lot"])
    op.create_index("items_by_lot", "items", ["part", "lot"])
    op.create_table(
        "showings",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("item", sa.Text, nullable=False, index=True),
        sa.Column("person", sa.Text, nullable=False, index=True),
        sa.Column("left", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("open", sa.Boolean, nullable=False),
        sa.Column("touched", sa.Integer, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
    op.create_table(
        "answers",
        sa.Column("event", sa.Integer, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("item", sa.Text, nullable=False),
        sa.Column("person", sa.Text, nullable=False, index=True),
        sa.Column("showing", sa.Text, nullable=False),
        sa.Column("left", sa.Text, nullable=False),
        sa.Column("repeat", sa.Boolean, nullable=False),
        sa.Column("choice", sa.Text, nullable=False),
        sa.Column("strength", sa.Integer, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("edit", sa.Text, nullable=False),
        sa.Column("guidelines", sa.Integer, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
    op.create_index("answers_by_item", "answers", ["item", "person"])
    op.create_table(
        "guidelines",
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("text", sa.Text, nullable=False),
    )
    op.create_table(
        "readings",
        sa.Column("person", sa.Text, primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
    )
