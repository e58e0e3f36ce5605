"""Padding: what stands where, what is learned, and few shapes."""

import pytest
import torch

from pronk.data.batch import IGNORE
from pronk.data.collate import pad_conversations, pad_pairs, pad_rollouts, pad_values

N = IGNORE


def test_conversations():
    items = [([1, 2, 3, 4], [False, False, True, True]), ([5, 6], [False, True])]
    batch = pad_conversations(items, pad=0, multiple=4)
    assert batch.tokens.tolist() == [[1, 2, 3, 0], [5, 0, 0, 0]]
    assert batch.targets.tolist() == [[N, 3, 4, N], [6, N, N, N]]
    assert batch.positions is None
    assert batch.documents is None
    assert batch.tokens.dtype == batch.targets.dtype == torch.int64


@pytest.mark.parametrize(("longest", "multiple", "width"), [(9, 8, 8), (10, 8, 16), (4, 1, 3), (2, 64, 64)])
def test_width_is_rounded_up(longest, multiple, width):
    batch = pad_conversations([([1] * longest, [True] * longest)], 0, multiple)
    assert batch.tokens.shape == (1, width)


def test_length_cuts_the_end():
    items = [([1, 2, 3, 4, 5], [False, True, True, True, True])]
    batch = pad_conversations(items, pad=0, multiple=1, length=3)
    assert batch.tokens.tolist() == [[1, 2, 3]]
    assert batch.targets.tolist() == [[2, 3, 4]]


def test_pairs_hold_the_chosen_first_and_learn_answers_only():
    chosen, rejected = ([1, 2, 3], [False, False, True]), ([1, 2, 4, 5], [False, False, True, True])
    pairs = pad_pairs([(chosen, rejected), (rejected, chosen)], pad=0, multiple=1)
    assert pairs.tokens.tolist() == [[[1, 2, 0], [1, 2, 4]], [[1, 2, 4], [1, 2, 0]]]
    assert pairs.targets.tolist() == [[[N, 3, N], [N, 4, 5]], [[N, 4, 5], [N, 3, N]]]
    assert pairs.inputs()["tokens"].shape == (4, 3)
    assert len(pairs) == 2


def test_rollouts_learn_responses_only():
    tokens, targets = pad_rollouts([[1, 2], [3]], [[4, 5], [6, 7, 8]], pad=0, multiple=4)
    assert tokens.tolist() == [[1, 2, 4, 0], [3, 6, 7, 0]]
    assert targets.tolist() == [[N, 4, 5, N], [6, 7, 8, N]]


def test_values_stand_where_their_targets_do():
    prompts, responses = [[1, 2], [3]], [[4, 5], [6, 7, 8]]
    _, targets = pad_rollouts(prompts, responses, pad=0, multiple=4)
    values = pad_values(prompts, [[0.4, 0.5], [0.6, 0.7, 0.8]], targets.shape[1])
    expected = torch.where(targets == N, 0.0, targets / 10)
    torch.testing.assert_close(values, expected)


def test_a_sampled_end_token_equal_to_pad_stays_a_target():
    """Pitfall 7: padding is known by targets, never by id."""
    _, targets = pad_rollouts([[1], [1]], [[2, 0], [2, 3, 0]], pad=0, multiple=1)
    assert targets.tolist() == [[2, 0, N], [2, 3, 0]]


def test_appended_padding_changes_nothing_learned():
    items = [([1, 2, 3], [False, True, True])]
    for multiple in (1, 8, 128):
        batch = pad_conversations(items, 9, multiple)
        assert batch.targets[batch.targets != N].tolist() == [2, 3]
        assert batch.tokens[0, :2].tolist() == [1, 2]
