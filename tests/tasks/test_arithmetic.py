"""Arithmetic: right answers, worked in lines that are each true, levels of their own, sides that share nothing."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pronk.data.records import Sample
from pronk.errors import UserError
from pronk.tasks.arithmetic import LEVELS, Arithmetic, canonical, columns, read, steps, write

TASK = Arithmetic()


def asked(prompt):
    return prompt.messages[-1].content.removesuffix("=?")


def answered(prompt, text):
    return Sample(prompt, text, [], [], [], "stop")


@pytest.mark.parametrize("split", ["train", "test"])
def test_worked_answers_are_right_and_graded_so(split):
    prompts = TASK.prompts(split, 400, seed=3)
    assert len(prompts) == 400
    for prompt in prompts:
        text = TASK.worked(prompt).messages[-1].content
        assert TASK.grade(answered(prompt, text)) == 1.0
        assert TASK.grade(answered(prompt, text + "1")) == 0.0
        value = eval(asked(prompt))
        assert prompt.meta["answer"] == str(value) and value >= 0
        assert text.endswith(f"#### {value}")


def test_every_line_of_a_worked_answer_is_true():
    for prompt in TASK.prompts("train", 500):
        *lines, _ = TASK.worked(prompt).messages[-1].content.split("\n")
        assert lines
        for line in lines:
            left, right = line.split("=")
            assert eval(left) == int(right), line


def test_worked_by_hand():
    assert columns("+", 37, 48) == (["7+8=15", "3+4+1=8", "37+48=85"], 85)
    assert columns("-", 83, 27) == (["13-7=6", "8-2-1=5", "83-27=56"], 56)
    assert columns("-", 105, 7) == (["15-7=8", "10-0-1=9", "1-0-1=0", "105-7=98"], 98)
    assert columns("*", 6, 38) == (["8*6=48", "3*6+4=22", "6*38=228"], 228)
    assert steps(("*", ("+", 3, 4), 5)) == (["3+4=7", "7*5=35"], 35)


@given(st.integers(0, 9999), st.integers(0, 9999), st.sampled_from("+-"))
def test_columns_hold_for_any_numbers(a, b, sign):
    lines, value = columns(sign, max(a, b), min(a, b))
    assert value == (a + b if sign == "+" else abs(a - b))
    assert all(eval("==".join(line.split("="))) for line in lines)


def test_no_problem_is_on_both_sides():
    sides = [{canonical(read(asked(p))) for s in range(3) for p in TASK.prompts(side, 600, s)} for side in SIDES]
    assert not sides[0] & sides[1]
    assert all(len(side) > 600 for side in sides)


SIDES = ("train", "test")


def test_the_order_of_what_is_added_makes_no_other_problem():
    assert canonical(read("3+4")) == canonical(read("4+3")) != canonical(read("4-3"))
    assert canonical(read("(3+4)*5")) == canonical(read("5*(4+3)"))
    assert canonical(read("9-(3+4)")) == canonical(read("9-(4+3)")) != canonical(read("(4+3)-9"))


def test_the_same_seed_asks_the_same_and_others_ask_others():
    assert TASK.prompts("test", 60, 1) == TASK.prompts("test", 60, 1)
    assert TASK.prompts("test", 60, 1) != TASK.prompts("test", 60, 2)
    assert TASK.prompts("test", 60, 1) == TASK.prompts("test", 90, 1)[:60]


def test_levels_are_asked_equally_until_they_end():
    prompts = TASK.prompts("train", 5 * 20)
    assert [sum(p.meta["level"] == level for p in prompts) for level in LEVELS] == [20] * 5
    easy = TASK.prompts("train", 1000, levels=("one-digit",))
    assert 60 < len(easy) < 120 and {p.meta["level"] for p in easy} == {"one-digit"}
    assert len({asked(p) for p in easy}) == len(easy)
    many = TASK.prompts("train", 1000, levels=("one-digit", "three-digit"))
    assert len(many) == 1000


def test_an_unknown_level_is_named():
    with pytest.raises(UserError, match="no level 'ten-digit'; there are one-digit, two-digit"):
        TASK.prompts("train", 10, levels=("ten-digit",))


def test_what_is_written_is_read_again():
    rng = random.Random(0)
    for level in LEVELS.values():
        for _ in range(100):
            problem = level(rng)
            assert read(write(problem)) == problem


def test_slips_make_columns_wrong_by_one_and_the_rest_follows():
    """The last line says what the columns came to; only slips that cancel each other leave the answer right."""
    slips = lucky = 0
    for prompt in TASK.prompts("train", 500, seed=4):
        text, right = (made.messages[-1].content for made in (TASK.slipped(prompt, 0.3), TASK.worked(prompt)))
        graded = TASK.grade(answered(prompt, text))
        assert graded == 1.0 or text != right
        lucky += graded == 1.0 and text != right
        *lines, last = text.split("\n")
        assert last == f"#### {lines[-1].split('=')[1]}"
        off = [abs(eval(line.split("=")[0]) - int(line.split("=")[1])) for line in lines]
        assert (1 in off) == (text != right)
        slips += text != right
    assert 200 < slips < 400 and lucky < 10
    assert all(TASK.slipped(prompt, 0.0) == TASK.worked(prompt) for prompt in TASK.prompts("train", 20))
