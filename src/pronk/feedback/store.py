"""The database: appends events durably with their state, knows who is who, forgets; what may be asked is desk.py's."""

import hashlib
import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, Engine, delete, event, insert, select, update
from sqlalchemy.exc import DatabaseError

from pronk.errors import UserError
from pronk.feedback import migrations
from pronk.feedback.schema import REVISION, events, people, sessions
from pronk.feedback.state import Event, fold, rebuild, stale

PRAGMAS = {"journal_mode": "WAL", "synchronous": "FULL", "busy_timeout": 10_000, "secure_delete": "ON"}
FROZEN = "events_no_update"  # the trigger that refuses a change of events


class Store:
    """One database file. Many threads may use it; writers take turns.

    A transaction ends only when SQLite has synced it to disk (synchronous=FULL): whoever is told of success keeps it
    through a crash of the process, and of the machine as far as its disk tells the truth.
    """

    def __init__(self, path: Path | str, create: bool = True) -> None:
        self.path = Path(path)
        if not create and not self.path.is_file():
            raise UserError(f"{path}: no such database; `pronk feedback --db {path}` begins one")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._turn = threading.Lock()  # SQLite's own waiting polls; a lock hands over at once
        self._engine = connect(self.path)
        try:
            self._open()
        except DatabaseError as error:
            raise UserError(f"{path}: cannot be used as a database ({error.orig}); name another with --db") from None

    def _open(self) -> None:
        with self.writing() as connection:
            migrate(connection)
            if stale(connection):
                rebuild(connection)

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One consistent view."""
        with self._engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that alone may write: all of it is durable when the block ends, or none of it happened."""
        with self._turn, self._engine.connect() as connection:
            writer = connection.execution_options(writes=True)
            with writer.begin():
                yield writer

    def append(self, kind: str, body: Mapping[str, Any], person: str = "", key: str | None = None) -> int:
        """Append one event in a transaction of its own."""
        with self.writing() as connection:
            return append(connection, kind, body, person, key)

    def rebuild(self) -> int:
        """Make the state anew from the events; returns their number."""
        with self.writing() as connection:
            return rebuild(connection)

    def join(self, name: str, again: bool) -> tuple[str, str]:
        """Let someone in: their pseudonym and a session's token. again: a name that is known may come back."""
        token = secrets.token_urlsafe(32)
        with self.writing() as connection:
            person = connection.scalar(select(people.c.id).where(people.c.name == name))
            if person and not again:
                raise UserError("this name is taken; choose another")
            if not person:
                person = "p-" + secrets.token_hex(5)
                connection.execute(insert(people).values(id=person, name=name))
                append(connection, "joined", {}, person)
            connection.execute(insert(sessions).values(token=digest(token), person=person))
        return person, token

    def who(self, token: str) -> tuple[str, str] | None:
        """Pseudonym and name of a session's person."""
        found = select(people.c.id, people.c.name).join(sessions, sessions.c.person == people.c.id)
        with self.reading() as connection:
            row = connection.execute(found.where(sessions.c.token == digest(token))).one_or_none()
        return (row.id, row.name) if row else None

    def forget(self, name: str) -> str:
        """Remove who someone was: name, sessions and notes. Their votes stay, under a pseudonym that leads nowhere."""
        with self.writing() as connection:
            person = connection.scalar(select(people.c.id).where((people.c.name == name) | (people.c.id == name)))
            if not person:
                known = connection.scalars(select(people.c.name).order_by(people.c.name)).all()
                raise UserError(f"{self.path}: nobody here is called {name!r} (people: {', '.join(known) or 'none'})")
            connection.execute(delete(people).where(people.c.id == person))
            connection.execute(delete(sessions).where(sessions.c.person == person))
            unnote(connection, person)
            append(connection, "forgot", {}, person)
            rebuild(connection)
        with self._turn, self._engine.connect() as plain:  # what was overwritten leaves the log beside the file too
            plain.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        return str(person)


def append(connection: Connection, kind: str, body: Mapping[str, Any], person: str = "", key: str | None = None) -> int:
    """Add an event and fold it; returns its id."""
    at = time.time()
    row = insert(events).values(
        at=at, person=person, kind=kind, key=key, body=json.dumps(dict(body), ensure_ascii=False)
    )
    id = connection.execute(row).inserted_primary_key
    assert id
    fold(connection, Event(id[0], at, person, kind, body))
    return int(id[0])


def unnote(connection: Connection, person: str) -> None:
    """Empty someone's notes: the one change that events ever see."""
    frozen = connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE name = ?", (FROZEN,)).scalar_one()
    connection.exec_driver_sql(f"DROP TRIGGER {FROZEN}")
    for id, text in connection.execute(select(events.c.id, events.c.body).where(events.c.person == person)).all():
        body = json.loads(text)
        if body.get("note"):
            emptied = json.dumps(body | {"note": ""}, ensure_ascii=False)
            connection.execute(update(events).where(events.c.id == id).values(body=emptied))
    connection.exec_driver_sql(frozen)


def connect(path: Path) -> Engine:
    """An engine whose transactions SQLAlchemy begins itself, writers at once as such."""
    engine = sqlalchemy.create_engine(f"sqlite:///{path}", pool_size=16, max_overflow=48)

    @event.listens_for(engine, "connect")
    def prepare(raw: sqlite3.Connection, record: Any) -> None:
        raw.isolation_level = None  # Python's own way begins transactions late, and not before schema changes
        for name, value in PRAGMAS.items():
            raw.execute(f"PRAGMA {name}={value}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def migrate(connection: Connection) -> None:
    """Bring the tables to their newest shape."""
    there = connection.exec_driver_sql("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").scalar()
    if there and connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() == REVISION:
        return  # without Alembic, whose import takes a while
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def digest(token: str) -> str:
    """What is stored of a token: who reads the database cannot use it."""
    return hashlib.sha256(token.encode()).hexdigest()
