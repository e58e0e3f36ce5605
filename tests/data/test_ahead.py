"""Batches made ahead are the loader's own, in its order, and the state never runs ahead of what was handed out."""

import threading
from itertools import islice

import pytest
import torch

from pronk.data.ahead import Ahead
from pronk.data.loader import Loader

from .make import counted
from .test_loader import LENGTHS, same


@pytest.fixture
def make(tmp_path):
    shards = counted(tmp_path / "stories", LENGTHS)
    return lambda **more: Loader(shards, 16, 4, **more)


def test_the_same_batches(make):
    for ahead, plain in zip(islice(Ahead(make(), pin=False), 9), make()):
        same(ahead, plain)


@pytest.mark.parametrize("depth", [1, 3])
def test_goes_on_after_the_last_batch_handed_out(make, depth):
    begun, wanted = Ahead(make(), depth, pin=False), list(islice(make(), 7))
    handed = list(islice(begun, 3))
    resumed = Ahead(make(), depth, pin=False)
    resumed.restore(begun.state())
    for mine, theirs in zip([*handed, *islice(resumed, 4)], wanted, strict=True):
        same(mine, theirs)


def test_ends_with_the_loader(make):
    assert len(list(Ahead(make(epochs=1), pin=False))) == len(list(make(epochs=1)))


def test_a_fault_in_the_thread_is_heard(make):
    loader = make()
    loader._plan.next_row = None
    with pytest.raises(TypeError):
        next(iter(Ahead(loader, pin=False)))


def test_no_thread_is_left(make):
    before = threading.active_count()
    batches = iter(Ahead(make(), pin=False))
    assert torch.is_tensor(next(batches).tokens)
    batches.close()
    assert threading.active_count() == before
