"""What goes out comes back: every format, JSON lines and Parquet; what it cannot carry is left out and counted."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pronk.data import shapes
from pronk.data.files import Skipped
from pronk.data.read import comparisons, conversations
from pronk.data.records import Message
from pronk.errors import UserError
from pronk.feedback import export, schema, take
from pronk.feedback.desk import Answer, add_item
from pronk.feedback.export import FORMATS, Judged, judged, rows
from pronk.feedback.store import Store

from .make import Visitor, pair, store
from .make import rows as table

COMPARED = [name for name in FORMATS if name not in ("votes", "demonstrations")]
ODD = [
    "A plain question?",
    "שלום, מה שלומך?",
    "<b>bold</b> & \\ \" ' \t tab",
    "two\n\nparagraphs 🦙",
    "\n\nHuman: a prompt that looks like a transcript",
]


def lived(folder):
    """Votes of every kind on odd texts, a conversation among them."""
    opened = Store(folder / "feedback.db")
    talk = (Message("user", "Hello."), Message("assistant", "Yes?"), Message("user", "A riddle, please."))
    told = (Message("system", "Be brief."), Message("user", "Why?"))
    with opened.writing() as connection:
        for number, text in enumerate(ODD):
            answers = [Answer(f"one {text}", "old"), Answer(f"another {number}", "new")]
            add_item(connection, (Message("user", text),), answers, 0.0)
        add_item(connection, talk, [Answer(" a riddle ", "old"), Answer("no", "new")], 0.0)
        add_item(connection, told, [Answer("because", "old"), Answer("just so", "new")], 0.0)
        for number in range(4):
            add_item(connection, *pair(number), 0.0)
    ada = Visitor(opened, "olga")
    special = {
        "Question 0?": {"choice": "tie"},
        "Question 1?": {"choice": "bad"},
        "Question 2?": {"choice": "right", "strength": 2, "edit": "My own words."},
        "Question 3?": {"kind": "skip", "reason": "the same"},
    }
    for number in range(len(ODD) + 6):
        shown = ada.next()
        body = special.get(shown["prompt"][0]["content"], {"choice": "left", "strength": 1 + number % 4})
        ada.answer(**{"kind": "vote", "showing": shown["id"], "note": "a note", "seconds": 2.5} | body)
    return opened


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return lived(tmp_path_factory.mktemp("lived"))


def found(opened, shape, ties=False, part="all"):
    skipped = Skipped()
    with opened.reading() as connection:
        return list(rows(judged(connection, part), shape, ties, skipped)), skipped


def meant(opened, ties=False):
    with opened.reading() as connection:
        return [one.comparison for one in judged(connection) if one.comparison and (ties or one.said["strength"])]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("shape", COMPARED)
def test_comparisons_come_back_as_they_went(opened, tmp_path, shape, ending):
    out, skipped = found(opened, shape, ties=True)
    export.write(tmp_path / f"out.{ending}", out)
    back = list(comparisons([tmp_path / f"out.{ending}"], strict=True))
    assert len(back) == len(out) >= 6
    assert len(out) + skipped.total == 11
    allowed = meant(opened, ties=True)
    for one in back:
        texts = {(c.chosen.strip(), c.rejected.strip()): c for c in allowed}
        original = texts.get((one.chosen.strip(), one.rejected.strip()))
        assert original or shape == "trl-implicit"
        if original and "strength" in out[0]:
            assert one.strength == original.strength


@pytest.mark.parametrize("shape", ["trl-chat", "trl-implicit-chat", "openai"])
def test_chat_formats_carry_every_text_exactly(opened, tmp_path, shape):
    out, _ = found(opened, shape)
    back = [shapes.comparison(row) for row in out]
    exact = meant(opened)
    if shape == "openai":
        exact = [replace(c, strength=1, first="") for c in exact]
    assert back == exact and len(back) == 8


def test_what_a_format_cannot_carry_is_counted_with_its_reason(opened, tmp_path):
    _, skipped = found(opened, "hh")
    assert skipped.counts == {"the format hh cannot carry this text": 2, "tie": 1, "both bad": 1, "skipped": 1}
    _, skipped = found(opened, "trl-chat", ties=True)
    assert skipped.counts == {"both bad": 1, "skipped": 1}


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_votes_come_back_whole_into_another_database(opened, tmp_path, ending):
    out, skipped = found(opened, "votes")
    assert len(out) == 11 and not skipped.total
    export.write(tmp_path / f"votes.{ending}", out)
    other = Store(tmp_path / "other.db")
    assert take.take(other, [tmp_path / f"votes.{ending}"], 0.0, Skipped(strict=True)) == 11
    assert found(other, "votes")[0] == out
    for shape in FORMATS:
        assert found(other, shape)[0] == found(opened, shape)[0]
    assert take.take(other, [tmp_path / f"votes.{ending}"], 0.0, Skipped(strict=True)) == 0
    assert take.take(opened, [tmp_path / f"votes.{ending}"], 0.0, Skipped(strict=True)) == 0


@pytest.mark.parametrize("shape", COMPARED)
def test_comparisons_of_every_format_can_be_imported_once(opened, tmp_path, shape):
    out, _ = found(opened, shape)
    export.write(tmp_path / "out.jsonl", [*out, out[0]])
    other = Store(tmp_path / "other.db")
    assert take.take(other, [tmp_path / "out.jsonl"], 0.0, Skipped(strict=True)) == len(out) + 1
    assert take.take(other, [tmp_path / "out.jsonl"], 0.0, Skipped(strict=True)) == 0
    assert [shapes.comparison(row) for row in found(other, shape)[0]][: len(out)] == [shapes.comparison(r) for r in out]
    assert Visitor(other).next() is None  # they came with their verdict
    assert found(other, shape)[0][0].get("annotator") == out[0].get("annotator")


def test_demonstrations_are_conversations_that_end_in_the_edit(opened, tmp_path):
    out, _ = found(opened, "demonstrations")
    export.write(tmp_path / "sft.jsonl", out)
    (one,) = conversations([tmp_path / "sft.jsonl"], strict=True)
    assert one.messages[-1] == Message("assistant", "My own words.") and one.messages[0].role == "user"


def test_exports_carry_pseudonyms_and_the_parts_stay_apart(opened, tmp_path):
    (person,) = [row.id for row in table(opened, schema.people)]
    for shape in FORMATS:
        text = json.dumps(found(opened, shape)[0])
        assert "olga" not in text  # no name that a hexadecimal pseudonym could hold
        assert (person in text) == (shape in ("votes", "trl", "trl-chat", "trl-implicit", "trl-implicit-chat"))
    assert found(opened, "trl", part="evaluation")[0] == []
    assert found(opened, "trl", part="train")[0] == found(opened, "trl")[0]


def test_flagged_pairs_and_repetitions_are_not_exported(tmp_path):
    opened = store(tmp_path, 2)
    ada, grace = Visitor(opened, "ada"), Visitor(opened, "grace")
    ada.next(), grace.next()
    ada.answer()
    grace.answer("flag", reason="harmful")
    assert len(found(opened, "trl")[0]) == 1
    assert found(opened, "trl")[1].counts == {"flagged": 1}
    assert len(found(opened, "votes")[0]) == 2


def test_bad_rows_of_votes_are_counted_not_believed(opened, tmp_path):
    good = found(opened, "votes")[0][0]
    bad = [{"choice": "left"}, {"strength": 9}, {"left": "up"}, {"answers": []}, {"kind": "undo"}, {"seconds": "x"}]
    bad += [{"note": 5}, {"seconds": float("nan")}, {"answers": [{"text": 1, "model": "a"}] * 2}]
    export.write(tmp_path / "bad.jsonl", [good | change for change in bad])
    skipped = Skipped()
    assert take.take(Store(tmp_path / "other.db"), [tmp_path / "bad.jsonl"], 0.0, skipped) == 0
    assert skipped.total == len(bad)


def test_files_of_unknown_ending_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"\.jsonl or \.parquet"):
        export.write(tmp_path / "out.csv", [])


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(str.strip)
turns = st.lists(texts, min_size=1, max_size=3).map(
    lambda said: tuple(Message("user" if (len(said) - i) % 2 else "assistant", t) for i, t in enumerate(said))
)


@settings(max_examples=150, deadline=None)
@given(turns, texts, texts, st.sampled_from(["first", "second"]), st.integers(1, 4), st.sampled_from(COMPARED))
def test_any_text_comes_back_or_is_left_out(prompt, one, other, choice, strength, shape):
    """What a format lets through reads back as the same words in the same order."""
    said = {"left": "second", "choice": choice, "strength": strength, "edit": "", "repeat": False}
    vote = Judged("vote", prompt, (one, other), ("a", "b"), "train", False, "p-1", said)
    out = list(rows(iter([vote]), shape, False, Skipped()))
    if not out:
        assert ("chat" not in shape and shape != "openai") or one == other
        return
    back, meant = shapes.comparison(json.loads(json.dumps(out[0]))), vote.comparison
    for answer, original in ((back.chosen, meant.chosen), (back.rejected, meant.rejected)):
        words = [*back.prompt[-1].content.split(), *answer.split()]
        assert words == [*prompt[-1].content.split(), *original.split()]
