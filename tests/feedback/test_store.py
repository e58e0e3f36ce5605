"""Events are the truth: only added, durable, folded into a state that can be made anew, and forgotten on request."""

import sqlite3

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from pronk.errors import UserError
from pronk.feedback import desk, schema, state
from pronk.feedback.store import Store, append

from .make import PLAIN, Visitor, replace, rows, store


def busy(folder):
    """A database in which everything has happened."""
    rule = replace(PLAIN, evaluation=0.3, repeat=0.4, gap=1)
    opened = store(folder, 30, rule)
    desk.publish(opened, "# Be kind")
    people = [Visitor(opened, name, rule) for name in ("olga", "grace")]
    for visitor in people:
        visitor.post("/api/read", version=1)
        for choice, strength in (("left", 1), ("right", 4), ("tie", 0), ("bad", 0), ("left", 3)):
            visitor.answer(choice=choice, strength=strength, note="mine " + choice)
        visitor.answer("skip", reason="cannot judge", note="too hard")
        visitor.answer("undo")
        visitor.answer(choice="right", strength=2, edit="as it should be")
        visitor.answer("flag", reason="broken")
        visitor.answer("undo")
        visitor.answer("flag", reason="harmful")
        for _ in range(3):
            visitor.answer()
    with opened.writing() as connection:
        for row in list(desk.unscored(connection))[:10]:
            append(connection, "scored", {"item": row.id, "margins": [0.1, -0.4, float(len(row.first))]})
    return opened


def test_the_state_made_anew_is_the_state(tmp_path):
    opened = busy(tmp_path)
    with opened.reading() as connection:
        live = state.snapshot(connection)
    assert len(live["items"]) == 30 and len(live["answers"]) == 20
    assert opened.rebuild() == len(rows(opened, schema.events))
    with opened.reading() as connection:
        assert state.snapshot(connection) == live


def test_a_state_that_lags_or_is_of_another_version_is_made_anew_on_opening(tmp_path):
    opened = busy(tmp_path)
    with opened.reading() as connection:
        live = state.snapshot(connection)
    for damage in ("DELETE FROM answers; DELETE FROM state", "DELETE FROM items; UPDATE state SET value = value - 1"):
        with opened.writing() as connection:
            for statement in damage.split(";"):
                connection.execute(text(statement))
        opened.close()
        opened = Store(tmp_path / "feedback.db")
        with opened.reading() as connection:
            assert state.snapshot(connection) == live


@pytest.mark.parametrize(
    "change", ["UPDATE events SET body = '{}'", "DELETE FROM events", "DELETE FROM events WHERE id=1"]
)
def test_events_cannot_be_changed_or_removed(tmp_path, change):
    opened = busy(tmp_path)
    before = rows(opened, schema.events)
    with pytest.raises(IntegrityError, match="only ever added"), opened.writing() as connection:
        connection.execute(text(change))
    assert rows(opened, schema.events) == before


def test_a_vote_is_synced_to_disk_before_it_is_acknowledged(tmp_path):
    opened = store(tmp_path)
    with opened.writing() as connection:
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2  # FULL
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"


def test_the_tables_are_what_the_migrations_make(tmp_path):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with Store(tmp_path / "new.db").writing() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, schema.METADATA) == []
        assert context.get_current_revision() == schema.REVISION


def test_forgetting_removes_name_and_notes_to_the_last_byte_and_keeps_votes(tmp_path):
    opened = busy(tmp_path)
    votes = [(r.item, r.choice, r.strength) for r in rows(opened, schema.answers)]
    person = opened.forget("olga")
    assert [(r.item, r.choice, r.strength) for r in rows(opened, schema.answers)] == votes
    assert [r.name for r in rows(opened, schema.people)] == ["grace"]
    mine = {r.note for r in rows(opened, schema.answers) if r.person == person}
    others = {r.note for r in rows(opened, schema.answers) if r.person != person}
    assert mine == {""} and "mine left" in others
    with opened.reading() as connection:
        live = state.snapshot(connection)
    opened.rebuild()
    with opened.reading() as connection:
        assert state.snapshot(connection) == live
    opened.forget("grace")
    opened.close()
    for path in tmp_path.iterdir():
        data = path.read_bytes()
        # no name of hexadecimal letters alone: ids of people are such words
        assert not any(word in data for word in (b"olga", b"grace", b"mine left", b"too hard"))
    with pytest.raises(UserError, match="nobody here is called 'olga'"):
        Store(tmp_path / "feedback.db").forget("olga")
    with (
        pytest.raises(IntegrityError, match="only ever added"),
        Store(tmp_path / "feedback.db").writing() as connection,
    ):
        connection.execute(text("UPDATE events SET person = ''"))


def test_who_was_forgotten_is_logged_out(tmp_path):
    opened = store(tmp_path)
    ada = Visitor(opened, "ada")
    opened.forget("ada")
    assert ada.post("/api/next").status_code == 401


def test_the_same_events_again_are_the_same_pair(tmp_path):
    opened = store(tmp_path, 5)
    opened.close()
    assert len(rows(store(tmp_path, 7), schema.items)) == 7


def test_a_file_that_is_no_database_is_said_plainly(tmp_path):
    (tmp_path / "x.db").write_text("not a database, but long enough to be one " * 30)
    with pytest.raises(UserError, match=r"x\.db: cannot be used as a database"):
        Store(tmp_path / "x.db")
    with pytest.raises(UserError, match="no such database"):
        Store(tmp_path / "none.db", create=False)


def test_sessions_are_stored_as_digests(tmp_path):
    opened = store(tmp_path)
    ada = Visitor(opened, "ada")
    token = ada.client.cookies["pronk_session"]
    raw = sqlite3.connect(tmp_path / "feedback.db").execute("SELECT token FROM sessions").fetchall()
    assert raw and all(token not in row for row in raw)
    assert opened.who(token) == (rows(opened, schema.people)[0].id, "ada")
