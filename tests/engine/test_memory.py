"""A budget for the state: fewer rows at once, the others wait; not even one is an error in plain words."""

import pytest

from pronk.engine.engine import Engine
from pronk.engine.memory import affordable, size
from pronk.engine.sequence import Sampling
from pronk.errors import UserError

from .make import FAMILIES, make, prompts


@pytest.mark.parametrize("family", ["mha", "lstm"])
def test_a_short_memory_makes_requests_wait(family):
    model = make(**FAMILIES[family])
    one = size(model.new_state(1, 64))
    assert one > 0
    assert affordable(model, 9, 64, None) == 9
    assert affordable(model, 9, 64, 4.5 * one / 2**30) == 3
    asked = prompts(4, 9, 2, 7, 30, 5)
    wanted = Engine(model, context=64).generate(asked, [Sampling(20, seed=i) for i in range(6)])
    engine = Engine(model, memory=size(model.new_state(1, 64)) * 3.5 / 2**30)
    found = engine.generate(asked, [Sampling(20, seed=i) for i in range(6)])
    assert 1 < engine._room.rows.slots < 6
    assert [done.ids for done in found] == [done.ids for done in wanted]
    room = engine._room
    engine.generate(asked, Sampling(20))
    assert engine._room is room  # not made anew for slots that cannot be had


def test_memory_for_not_even_one_row():
    with pytest.raises(UserError, match="shorter context or more memory"):
        Engine(make(), memory=1e-6).generate(prompts(4), Sampling(20))
