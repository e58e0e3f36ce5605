"""What the page may ask over HTTP, and what comes of it."""

import json

import pytest
from sqlalchemy import select

from pronk.feedback import desk, schema

from .make import PLAIN, Status, Visitor, replace, rows, store


def votes(opened):
    return [(row.kind, row.choice, row.strength, row.note, row.edit) for row in rows(opened, schema.answers)]


def test_a_vote_is_stored_as_it_was_meant_whichever_side_it_stood_on(tmp_path):
    opened = store(tmp_path, 40)
    ada = Visitor(opened)
    lefts = set()
    for number in range(40):
        shown = ada.next()
        side = "left" if shown["left"].startswith("new") else "right"
        lefts.add(side)
        said = ada.answer(showing=shown["id"], choice=side, strength=1 + number % 4, seconds=1.5)
        assert said.status_code == 200
    assert lefts == {"left", "right"}
    assert {row.choice for row in rows(opened, schema.answers)} == {"second"}  # "new" was made second
    assert {row.left for row in rows(opened, schema.answers)} == {"first", "second"}
    assert ada.next() is None


def test_the_same_key_is_the_same_vote(tmp_path):
    opened = store(tmp_path)
    ada = Visitor(opened)
    shown = ada.next()["id"]
    first = ada.answer(showing=shown, key="the-same-key", choice="left", strength=2)
    again = ada.answer(showing=shown, key="the-same-key", choice="left", strength=2)
    assert first.json() == again.json() and again.status_code == 200
    assert len(votes(opened)) == 1
    assert ada.answer(showing=shown, key="another-key", choice="right", strength=2).status_code == 409
    assert ada.answer("undo", key="the-same-key").status_code == 409
    assert len(votes(opened)) == 1


def test_what_was_not_shown_to_me_is_not_mine_to_judge(tmp_path):
    opened = store(tmp_path)
    ada, eve = Visitor(opened, "ada"), Visitor(opened, "eve")
    assert eve.answer(showing=ada.next()["id"]).status_code == 404
    assert eve.answer(showing="0" * 16).status_code == 404
    ada.answer()
    assert eve.answer("undo").status_code == 409  # ada's vote is not hers to take back
    assert len(votes(opened)) == 1


def test_a_page_loaded_again_shows_the_same_pair_on_the_same_sides(tmp_path):
    ada = Visitor(store(tmp_path))
    assert ada.next() == ada.next() != None  # noqa: E711


def test_undo_is_a_new_event_and_brings_the_pair_back(tmp_path):
    opened = store(tmp_path)
    ada = Visitor(opened)
    first = ada.next()
    ada.answer(showing=first["id"], choice="left", strength=4, note="oops")
    ada.next()
    count = len(rows(opened, schema.events))
    assert ada.answer("undo").status_code == 200
    assert len(rows(opened, schema.events)) == count + 1
    assert votes(opened) == []
    assert ada.next() == first
    ada.answer(showing=first["id"], choice="tie", strength=0)
    assert [vote[1:3] for vote in votes(opened)] == [("tie", 0)]


def test_undo_goes_back_one_answer_at_a_time(tmp_path):
    opened = store(tmp_path)
    ada = Visitor(opened)
    for kind, body in (("vote", {}), ("skip", {"reason": "the same"}), ("flag", {"reason": "harmful"})):
        ada.answer(kind, **body)
    kinds = []
    for _ in range(3):
        kinds.append([vote[0] for vote in votes(opened)])
        ada.answer("undo")
    assert kinds == [["vote", "skip", "flag"], ["vote", "skip"], ["vote"]] and votes(opened) == []
    assert ada.answer("undo").status_code == 409


def test_a_flagged_pair_is_shown_to_nobody(tmp_path):
    opened = store(tmp_path, 1, rule=replace(PLAIN, evaluation=1.0))
    ada, eve = Visitor(opened, "ada"), Visitor(opened, "eve")
    assert eve.next() is not None
    ada.answer("flag", reason="personal", note="a neighbour")
    assert ada.next() is None and eve.next() is None
    ada.answer("undo")
    assert ada.next() is not None and eve.next() is not None


@pytest.mark.parametrize(
    "body",
    [
        {"choice": "left"},
        {"choice": "left", "strength": 5},
        {"choice": "left", "strength": True},
        {"choice": "left", "strength": "2"},
        {"choice": "tie", "strength": 1},
        {"choice": "bad", "strength": 0, "edit": "x"},
        {"choice": "first", "strength": 1},
        {"choice": "left", "strength": 1, "note": "x" * 4001},
        {"choice": "left", "strength": 1, "seconds": -1},
        {"choice": "left", "strength": 1, "more": 1},
        {"choice": "left", "strength": 1, "key": "x"},
        {"choice": "left", "strength": 1, "key": "a key with spaces"},
    ],
)
def test_votes_that_make_no_sense_are_refused(tmp_path, body):
    opened = store(tmp_path)
    assert Visitor(opened).answer(**body).status_code == 422
    assert votes(opened) == []


def test_half_a_character_is_refused_and_any_other_text_is_kept(tmp_path):
    opened = store(tmp_path)
    ada = Visitor(opened)
    shown = ada.next()["id"]
    raw = json.dumps({"key": "12345678", "showing": shown, "choice": "left", "strength": 1, "note": "half \ud83d"})
    headers = {"content-type": "application/json"}
    assert ada.client.post("/api/vote", content=raw, headers=headers).status_code == 422
    odd = "שלום <script>alert(1)</script> \u0000 🦙 \r\n' OR 1=1 --"
    assert ada.answer(showing=shown, choice="left", strength=1, note=odd, edit=odd).status_code == 200
    assert votes(opened) == [("vote", rows(opened, schema.answers)[0].choice, 1, odd, odd)]


def test_guidelines_come_first_and_their_version_stays_with_the_vote(tmp_path):
    opened = store(tmp_path)
    assert desk.publish(opened, "# One") == 1 == desk.publish(opened, "# One")
    ada = Visitor(opened)
    assert ada.answer().status_code == 409
    assert ada.post("/api/read", version=2).status_code == 409
    ada.post("/api/read", version=1)
    ada.answer()
    assert desk.publish(opened, "# Two") == 2
    assert ada.answer().status_code == 409
    ada.post("/api/read", version=2)
    ada.answer()
    assert [row.guidelines for row in rows(opened, schema.answers)] == [1, 2]
    me = ada.client.get("/api/me").json()
    assert (me["guidelines"], me["read"], me["name"]) == (2, 2, "ada")


def test_guidelines_are_markdown_whose_html_stays_text(tmp_path):
    opened = store(tmp_path)
    desk.publish(opened, "# Rules\n\n<script>alert(1)</script> **be kind** [x](javascript:alert(1))")
    page = Visitor(opened).client.get("/guidelines").text
    assert "<h1>Rules</h1>" in page and "<strong>be kind</strong>" in page
    assert "<script>alert" not in page and 'href="javascript' not in page


def test_progress_and_the_goal(tmp_path):
    opened, ended = store(tmp_path, 5), []
    ada = Visitor(opened, status=Status(goal=2, finished=lambda: ended.append(True)))
    assert ada.post("/api/finish").status_code == 409
    ada.answer()
    ada.answer("skip", reason="rather not")
    ada.answer()
    told = ada.post("/api/next").json()
    assert told["done"] and told["showing"] is None
    assert told["progress"] == {"mine": 3, "votes": 2, "pairs": 5}
    ada.answer("undo")
    assert not ada.post("/api/next").json()["done"]
    ada.answer()
    assert ada.post("/api/finish").status_code == 200 and ended == [True]


def test_plots_are_drawn_once_for_each_state(tmp_path):
    from .make import client

    opened, drawn = store(tmp_path), []
    from starlette.testclient import TestClient

    import pronk.feedback.app as app_module

    def draw(facts, name, dark):
        drawn.append((name, dark))
        return b"png"

    visitor = TestClient(app_module.create_app(opened, PLAIN, draw), base_url="http://localhost")
    for _ in range(2):
        assert visitor.get("/plots/standing.png?dark=true").content == b"png"
    assert drawn == [("standing", True)]
    Visitor(opened).answer()
    visitor.get("/plots/standing.png?dark=true")
    assert len(drawn) == 2
    assert visitor.get("/plots/other.png").status_code == 422
    assert client(opened).get("/static/../app.py").status_code == 404


def test_nobody_reads_files_beside_the_page(tmp_path):
    ada = Visitor(store(tmp_path))
    for name in ("__init__.py", "..%2Fstore.py", "%2e%2e/store.py", "collect.html"):
        assert ada.client.get(f"/static/{name}").status_code == 404


def test_facts_count_what_was_said(tmp_path):
    opened = store(tmp_path, 6)
    ada = Visitor(opened)
    for body in ({"choice": "left", "strength": 1, "edit": "better"}, {"choice": "tie"}, {"choice": "bad"}):
        ada.answer(**body)
    ada.answer("skip", reason="the same")
    ada.answer("flag", reason="broken")
    told = ada.client.get("/api/facts").json()
    assert told["counts"] == {
        "pairs": 6, "people": 1, "votes": 3, "repeats": 0, "ties": 1, "both bad": 1, "edits": 1, "skips": 1,
        "flags": 1, "imported": 0,
    }  # fmt: skip
    assert told["left"]["votes"] == 1 and told["left"]["rate"] == 1.0
    assert sum(hour["votes"] for hour in told["pace"]["hours"]) == 3
    assert {row["model"] for row in told["standings"]} == {"old", "new"}


def test_exactly_one_row_for_each_answer_event(tmp_path):
    opened = store(tmp_path, 8)
    ada = Visitor(opened)
    for _ in range(8):
        ada.answer()
    with opened.reading() as connection:
        kinds = connection.scalars(select(schema.events.c.kind)).all()
    assert kinds.count("vote") == len(votes(opened)) == 8 and kinds.count("shown") == 8
