"""The loop: what is pulled, who is told, who is called, and when it ends."""

import gc

import pytest

from pronk.learn.fit import Every, fit
from pronk.learn.losses import cross_entropy

from .toys import learner, model, text


class Script:
    """A source that counts what is pulled; saveable after every `round` batches."""

    def __init__(self, length=100, round=1):
        self.length, self.round = length, round
        self.pulled, self.told = 0, []

    @property
    def border(self):
        return self.pulled % self.round == 0

    def __iter__(self):
        while self.pulled < self.length:
            self.pulled += 1
            yield text()

    def tell(self, metrics):
        self.told.append(metrics)

    def state(self):
        return {"pulled": self.pulled}

    def restore(self, state):
        self.pulled = state["pulled"]


def run(steps=10, source=None, every=()):
    source, trained = source or Script(), learner(model(), steps=steps)
    fit(trained, source, cross_entropy, every)
    return source, trained


def test_no_batch_is_pulled_beyond_the_planned_steps():
    source, trained = run(steps=3)
    assert (source.pulled, trained.steps) == (3, 3)


def test_nothing_is_pulled_when_the_steps_are_done():
    trained, source = learner(model(), steps=2), Script()
    fit(trained, source, cross_entropy)
    fit(trained, source, cross_entropy)
    assert source.pulled == 2


def test_the_source_may_end_first():
    _, trained = run(steps=10, source=Script(length=4))
    assert trained.steps == 4


def test_the_source_hears_each_step():
    source, _ = run(steps=3)
    assert len(source.told) == 3
    assert all(m["loss"] > 0 and "grad_norm" in m for m in source.told)


def test_every_calls_at_its_multiples_with_metrics():
    calls = []
    run(steps=10, every=[Every(3, lambda step, metrics: calls.append((step, metrics["skipped"])))])
    assert calls == [(3, 0.0), (6, 0.0), (9, 0.0)]


def test_every_waits_for_a_border():
    """Due at 3 and 6 and 9, saved at the next end of a round of four; 6 and 9 fall due before the same border once."""
    calls, free = [], []
    source = Script(round=4)
    run(
        steps=12,
        source=source,
        every=[
            Every(3, lambda step, metrics: calls.append((step, source.border)), border=True),
            Every(3, lambda step, metrics: free.append(step)),
        ],
    )
    assert calls == [(4, True), (8, True), (12, True)]
    assert free == [3, 6, 9, 12]


@pytest.mark.parametrize("asked", [0, 1])
def test_a_true_answer_ends_the_loop_after_all_were_called(asked):
    calls = []
    actions = [lambda step, metrics: calls.append("first"), lambda step, metrics: calls.append("second")]
    actions[asked] = lambda step, metrics: calls.append("stop") or True
    source, trained = run(steps=10, every=[Every(4, actions[0]), Every(4, actions[1])])
    assert (trained.steps, source.pulled) == (4, 4)
    assert len(calls) == 2


def test_the_loop_goes_on_where_it_stopped():
    trained, source, seen = learner(model(), steps=5), Script(), []
    fit(trained, source, cross_entropy, [Every(2, lambda step, metrics: True)])
    fit(trained, source, cross_entropy, [Every(2, lambda step, metrics: seen.append(step))])
    assert seen == [4]
    assert (trained.steps, source.pulled) == (5, 5)


def test_full_collections_leave_what_was_there_alone_until_the_loop_ends():
    frozen, before = [], gc.get_freeze_count()
    run(steps=2, every=[Every(1, lambda step, metrics: frozen.append(gc.get_freeze_count()))])
    assert min(frozen) > before + 1000
    assert gc.get_freeze_count() <= before

    def fails(step, metrics):
        raise RuntimeError("as users' rewards do")

    with pytest.raises(RuntimeError):
        run(every=[Every(1, fails)])
    assert gc.get_freeze_count() <= before
