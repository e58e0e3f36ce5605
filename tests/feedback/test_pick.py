"""Which pair comes next: uniform where it is promised, by doubt where asked for, repeated now and then."""

import random
import time
from collections import Counter

from sqlalchemy import select

from pronk.data.records import Message
from pronk.feedback import desk, schema
from pronk.feedback.desk import part_of
from pronk.feedback.pick import RESERVED, new, pick
from pronk.feedback.rule import Rule
from pronk.feedback.state import doubtful
from pronk.feedback.store import append

from .make import PLAIN, Visitor, replace, rows, store


def score(opened, doubt):
    """Ask the reward models: the margins of each pair by its number."""
    with opened.writing() as connection:
        for row in list(desk.unscored(connection)):
            append(connection, "scored", {"item": row.id, "margins": doubt(int(row.first.split()[-1]))})


def reasons(opened):
    return Counter(row.reason for row in rows(opened, schema.showings))


def test_doubt_is_what_an_ensemble_differs_by_or_how_near_one_model_is_to_even():
    assert doubtful([1.0, 1.0, 1.0]) == 0
    assert doubtful([1.0, -1.0]) == 1.0
    assert doubtful([0.1]) > doubtful([-0.2]) > doubtful([3.0])


def test_the_most_doubtful_pair_comes_first(tmp_path):
    rule = replace(PLAIN, choose="doubt")
    opened = store(tmp_path, 12)
    score(opened, lambda number: [float(number), -float(number)])
    ada = Visitor(opened, rule=rule)
    order = []
    for _ in range(12):
        shown = ada.next()
        order.append(int(shown["left"].split()[-1]))
        ada.answer(showing=shown["id"])
    assert order == list(range(12))[::-1]
    assert reasons(opened) == {"doubt": 12}


def test_pairs_that_are_not_scored_yet_come_last(tmp_path):
    opened = store(tmp_path, 5)
    with opened.writing() as connection:
        (one, *_) = list(desk.unscored(connection))
        append(connection, "scored", {"item": one.id, "margins": [-9.0]})
    ada = Visitor(opened, rule=replace(PLAIN, choose="doubt"))
    assert {ada.next()["left"], ada.next()["right"]} == {one.first, one.second}


def test_evaluation_pairs_keep_a_uniform_order_whatever_the_reward_models_say(tmp_path):
    """The same pairs, scored and not scored: the evaluation part comes in the same order."""
    orders = []
    for name, choose in (("one", "doubt"), ("other", "uniform")):
        rule = Rule(choose=choose, evaluation=0.4, repeat=0.0)
        (tmp_path / name).mkdir()
        opened = store(tmp_path / name, 30, rule)
        if choose == "doubt":
            score(opened, lambda number: [float(number), 0.0])
        with opened.reading() as connection:
            part = dict(connection.execute(select(schema.items.c.id, schema.items.c.part)).tuples().all())
        ada = Visitor(opened, rule=rule)
        while ada.next():
            ada.answer()
        orders.append([row.item for row in rows(opened, schema.answers) if part[row.item] == "evaluation"])
        share = sum(kind == "evaluation" for kind in part.values()) / 30
        assert 0.1 < share < 0.7
        assert reasons(opened)["uniform"] == (len(orders[-1]) if choose == "doubt" else 30)
    assert orders[0] == orders[1]


def test_a_prompt_is_in_one_part_with_all_its_pairs():
    parts = Counter()
    for number in range(2000):
        prompt = (Message("user", f"Question {number}?"),)
        assert part_of(prompt, 0.2) == part_of(prompt, 0.2)
        parts[part_of(prompt, 0.2)] += 1
    assert abs(parts["evaluation"] / 2000 - 0.2) < 0.03
    assert part_of(prompt, 0.0) == "train" and part_of(prompt, 1.0) == "evaluation"


def test_training_pairs_go_to_one_person_and_evaluation_pairs_to_everyone(tmp_path):
    rule = replace(PLAIN, evaluation=0.5)
    opened = store(tmp_path, 30, rule)
    people = [Visitor(opened, name, rule) for name in ("ada", "grace", "alan")]
    for _ in range(30):
        for visitor in people:
            _ = visitor.next() and visitor.answer()
    parts = {row.id: row.part for row in rows(opened, schema.items)}
    count = Counter(row.item for row in rows(opened, schema.answers))
    assert {(parts[item], times) for item, times in count.items()} == {("train", 1), ("evaluation", 3)}
    assert len(count) == 30


def test_what_someone_skips_goes_to_another(tmp_path):
    opened = store(tmp_path, 1)
    ada, grace = Visitor(opened, "ada"), Visitor(opened, "grace")
    ada.answer("skip", reason="cannot judge")
    assert ada.next() is None
    assert grace.next() is not None


def test_a_pair_that_somebody_left_open_is_free_again_after_a_while(tmp_path):
    opened = store(tmp_path, 1)
    ada, grace = Visitor(opened, "ada"), Visitor(opened, "grace")
    ada.next()
    assert grace.next() is None
    with opened.reading() as connection:
        assert new(connection, "p-grace", "train", PLAIN, time.time() + RESERVED + 1)


def test_repetitions_come_late_once_and_with_sides_drawn_anew(tmp_path):
    rule = replace(PLAIN, repeat=0.5, gap=4)
    opened = store(tmp_path, 60)
    ada = Visitor(opened, rule=rule)
    for _ in range(60):
        ada.answer()
    answers = rows(opened, schema.answers)
    seen, sides = {}, set()
    for place, row in enumerate(answers):
        if row.repeat:
            assert place - seen[row.item] > rule.gap
            sides.add(row.left == answers[seen[row.item]].left)
        else:
            assert row.item not in seen
            seen[row.item] = place
    assert sides == {True, False}
    assert 0.2 < sum(row.repeat for row in answers) / 60 < 0.7
    assert max(Counter(row.item for row in answers).values()) == 2


def test_nothing_left_is_none(tmp_path):
    opened = store(tmp_path, 0)
    with opened.reading() as connection:
        assert pick(connection, "p-1", Rule(repeat=1.0), random.Random(0), time.time()) is None


def test_the_order_of_pairs_is_the_same_wherever_the_models_lie(tmp_path):
    orders = []
    for folder in ("one", "two"):
        opened = store(tmp_path / folder, 0)
        with opened.writing() as connection:
            for number in range(12):
                texts = [desk.Answer(f"{side} answer {number}", f"{folder}/{side}") for side in ("first", "second")]
                desk.add_item(connection, (Message("user", f"Question {number}?"),), texts, PLAIN.evaluation)
        ada, shown = Visitor(opened), []
        while (found := ada.next()) is not None:
            shown.append({found["left"], found["right"]})
            ada.answer()
        orders.append(shown)
    assert len(orders[0]) == 12 and orders[0] == orders[1]
