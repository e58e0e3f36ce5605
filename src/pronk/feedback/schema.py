"""The tables: events and people are the truth, the others follow from the events; migrations/ makes them."""

from sqlalchemy import Boolean, Column, Float, Index, Integer, MetaData, Table, Text

METADATA = MetaData()
REVISION = "events_and_state"  # the newest of migrations/versions/, which makes these tables


def text(name: str, index: bool = False) -> Column[str]:
    return Column(name, Text, nullable=False, index=index)


# ── the truth

events = Table(
    "events",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),  # seconds since 1970
    text("person"),  # a pseudonym; "" where nobody acted
    text("kind"),  # a row of state.FOLD
    Column("key", Text, unique=True),  # the sender's own: the same one again is the same event
    text("body"),  # JSON
    sqlite_autoincrement=True,
)
people = Table(
    "people", METADATA, Column("id", Text, primary_key=True), Column("name", Text, nullable=False, unique=True)
)
sessions = Table("sessions", METADATA, Column("token", Text, primary_key=True), text("person", index=True))

# ── what follows from it (state.py)

state = Table("state", METADATA, Column("name", Text, primary_key=True), Column("value", Integer))
items = Table(
    "items",
    METADATA,
    Column("id", Text, primary_key=True),
    text("prompt"),  # JSON: a list of role and content
    text("first"),  # two answers to it, in the order in which they were made, and who made them
    text("second"),
    text("first_model"),
    text("second_model"),
    text("part"),  # "train" or "evaluation"
    Column("asked", Boolean, nullable=False),  # people are asked; False = came with its verdict
    Column("lot", Float, nullable=False),  # a uniform order that no model knows
    Column("doubt", Float),  # how little the reward models agree about it; NULL = they were not asked
    Column("flags", Integer, nullable=False),
    Index("items_by_doubt", "part", "doubt", "lot"),
    Index("items_by_lot", "part", "lot"),
)
showings = Table(
    "showings",
    METADATA,
    Column("id", Text, primary_key=True),
    text("item", index=True),
    text("person", index=True),
    text("left"),  # which answer stood at the left: "first" or "second"
    text("reason"),  # why it was picked: uniform, doubt, repeat
    Column("open", Boolean, nullable=False),  # still awaits an answer
    Column("touched", Integer, nullable=False),  # the event that opened it
    Column("at", Float, nullable=False),
)
answers = Table(
    "answers",
    METADATA,
    Column("event", Integer, primary_key=True),
    text("kind"),  # vote, skip, flag
    text("item"),
    text("person", index=True),
    text("showing"),  # "" where it was imported
    text("left"),
    Column("repeat", Boolean, nullable=False),
    text("choice"),  # of a vote: first, second, tie, bad
    Column("strength", Integer, nullable=False),  # 1 to 4; 0 = tie or both bad
    text("reason"),  # of a skip or flag
    text("note"),
    text("edit"),  # the better answer as it should have been
    Column("guidelines", Integer, nullable=False),  # the version that the person had read
    Column("seconds", Float, nullable=False),  # from sight to answer
    Column("at", Float, nullable=False),
    Index("answers_by_item", "item", "person"),  # SQLite would take that of the person alone, and read all of theirs
)
guidelines = Table("guidelines", METADATA, Column("version", Integer, primary_key=True), text("text"))
readings = Table(
    "readings", METADATA, Column("person", Text, primary_key=True), Column("version", Integer, nullable=False)
)

DERIVED = (items, showings, answers, guidelines, readings)
