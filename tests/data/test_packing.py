"""Plans: every token where it should be, whatever the lengths; the order is fixed by the seed alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pronk.data.packing import Packed, Windows, raw, uniform
from pronk.data.shards import Shards

lengths_of_documents = st.lists(st.integers(1, 40), min_size=1, max_size=30).filter(lambda found: max(found) > 1)


def shards(lengths):
    """Shards in memory: a plan looks at their offsets only."""
    offsets = np.cumsum([0, *lengths])
    return Shards(None, "x", np.arange(offsets[-1]), offsets, None, 1, 0, "t", "d")


def rows_of(plan):
    rows = []
    while row := plan.next_row():
        rows.append(row)
    return rows


def targets(rows):
    return sorted(place for row in rows for _, start, stop in row for place in range(start + 1, stop + 1))


@settings(max_examples=200, deadline=None)
@given(lengths=lengths_of_documents, length=st.integers(1, 50), seed=st.integers(0, 5), epochs=st.integers(1, 3))
def test_split_every_token_but_a_documents_first_is_a_target_once_an_epoch(lengths, length, seed, epochs):
    one = shards(lengths)
    rows = rows_of(Packed([one], length, seed, epochs=epochs))
    firsts = set(one.offsets.tolist())
    assert targets(rows) == sorted([i for i in range(one.offsets[-1]) if i not in firsts] * epochs)
    sizes = [sum(stop - start for _, start, stop in row) for row in rows]
    assert all(size == length for size in sizes[:-1])  # no padding but in the last row
    assert sizes[-1] <= length
    for row in rows:
        for _, start, stop in row:  # within one document
            assert np.searchsorted(one.offsets, start, "right") == np.searchsorted(one.offsets, stop, "right")


@settings(max_examples=200, deadline=None)
@given(lengths=lengths_of_documents, length=st.integers(1, 50), seed=st.integers(0, 5))
def test_whole_documents_stay_whole_or_lose_their_end(lengths, length, seed):
    one = shards(lengths)
    plan = Packed([one], length, seed, fill="whole", epochs=1)
    segments = sorted(segment for row in rows_of(plan) for segment in row)
    spans = [(int(a), int(b) - 1) for a, b in zip(one.offsets, one.offsets[1:]) if b - a > 1]
    assert [(start, stop) for _, start, stop in segments] == [(a, min(b, a + length)) for a, b in spans]
    assert plan.cursor.truncated == sum(b - a > length for a, b in spans)


def test_best_fit_packs_tight_and_starves_none():
    rng = np.random.default_rng(0)
    lengths = rng.integers(10, 120, 2000).tolist()
    rows = rows_of(Packed([shards(lengths)], 256, 0, fill="whole", epochs=1))
    full = sum(stop - start for row in rows for _, start, stop in row) / (256 * len(rows))
    assert full > 0.98
    waited = Packed([shards([250, *[4] * 5000])], 256, 3, fill="whole")
    seen = [segment for _ in range(60) for segment in waited.next_row()]
    assert any(stop - start == 249 for _, start, stop in seen)


def test_epochs_differ_and_seeds_differ():
    def order(seed, skip):
        plan = Packed([shards([2] * 100)], 100, seed)
        return [plan.next_row() for _ in range(skip + 1)][skip]

    assert sorted(order(0, 0)) == sorted(order(0, 1)) == sorted(order(1, 0))
    assert len({tuple(order(*which)) for which in ((0, 0), (0, 1), (1, 0))}) == 3
    assert order(0, 1) == order(0, 1)


def test_random_numbers_are_pinned():
    """The order of data must not change with a release of numpy."""
    assert raw(2, 1, 2, 3).tolist() == [13279728891206244966, 234311473967787377]
    assert 0.49 < uniform(100_000, 7).mean() < 0.51


@pytest.mark.parametrize("fill", ["split", "whole"])
def test_weights_are_shares_of_tokens(fill):
    """One source has long documents, the other short ones; 1 to 3 is still 1 to 3 in tokens."""
    two = [shards([60] * 50), shards([6] * 80)]
    plan = Packed(two, 256, 0, fill, weights=[1, 3])
    counts = np.zeros(2)
    for _ in range(2000):
        for source, start, stop in plan.next_row():
            counts[source] += stop - start
    share = counts[1] / counts.sum()
    exact = 3 * 5 / 6 / (3 * 5 / 6 + 59 / 60)  # a document's first token is no target
    assert abs(share - exact) < 0.01


def test_without_weights_sources_have_their_own_shares():
    plan = Packed([shards([10] * 300), shards([10] * 100)], 90, 0)
    picks = [segment.source for _ in range(2000) for segment in plan.next_row()]
    assert abs(np.mean(picks) - 0.25) < 0.01


def test_each_source_goes_through_its_own_documents():
    plan = Packed([shards([3] * 7), shards([3] * 11)], 2, 0, weights=[1, 1])
    segments = [plan.next_row()[0] for _ in range(400)]
    for source, count in ((0, 7), (1, 11)):
        starts = [start for which, start, _ in segments if which == source]
        for epoch in range(len(starts) // count):
            assert len(set(starts[epoch * count : (epoch + 1) * count])) == count


def test_windows_cover_every_place_and_depend_on_row_and_seed_alone():
    one = shards([50])
    plan = Windows([one], 10, 0, None, None)
    starts = [plan.next_row()[0].start for _ in range(3000)]
    assert set(starts) == set(range(40))
    assert min(np.bincount(starts)) > 40
    later = Windows([one], 10, 0, None, None)
    later.cursor.rows = 2000
    assert [later.next_row()[0].start for _ in range(1000)] == starts[2000:]


def test_windows_of_weighted_sources():
    plan = Windows([shards([50]), shards([500])], 10, 0, [3, 1], None)
    assert abs(np.mean([plan.next_row()[0].source for _ in range(4000)]) - 0.25) < 0.02
