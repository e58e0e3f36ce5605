"""Advantages against their definitions, on ragged rows."""

import random

import pytest
import torch

from pronk.rl.advantages import (
    gae,
    group_relative,
    leave_one_out,
    masked_mean,
    others_mean,
    place_scores,
    reward_to_go,
    to_go,
    whiten,
    whole,
)


def ragged(rows=7, width=9, seed=0):
    """A mask with a prompt of zeros, some ones, and padding in each row; noise everywhere."""
    dice, mask = random.Random(seed), torch.zeros(rows, width)
    for row in mask:
        start = dice.randrange(width)
        row[start : dice.randrange(start + 1, width + 1)] = 1
    torch.manual_seed(seed)
    return torch.randn(rows, width), torch.randn(rows, width), mask


def wide(x, columns=100):
    """With pad columns of garbage."""
    return torch.cat([x, torch.full((len(x), columns), 1e3)], 1)


def wide_mask(mask, columns=100):
    return torch.cat([mask, torch.zeros(len(mask), columns)], 1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (0.9, 0.8), (0.99, 0.0), (1.0, 0.95)])
def test_gae_equals_the_quadratic_definition(seed, gamma, lam):
    """A_t = sum_l (gamma lam)^l delta_(t+l); the value after the last token is 0 (pitfall 13)."""
    rewards, values, mask = ragged(seed=seed)
    rewards = rewards * mask
    found, returns = gae(rewards, values, mask, gamma, lam)
    for b in range(len(mask)):
        places = [t for t in range(mask.shape[1]) if mask[b, t]]
        for t in range(mask.shape[1]):
            wanted = 0.0
            for s in [s for s in places if s >= t and t in places]:
                after = values[b, s + 1].item() if s + 1 in places else 0.0
                wanted += (gamma * lam) ** (s - t) * (rewards[b, s].item() + gamma * after - values[b, s].item())
            assert found[b, t].item() == pytest.approx(wanted, abs=1e-5)
            assert returns[b, t].item() == pytest.approx(wanted + values[b, t].item() if t in places else 0, abs=1e-5)


def test_pads_change_nothing_in_means_whitening_and_gae():
    """100 pad columns of garbage (pitfall 10)."""
    rewards, values, mask = ragged()
    rewards = rewards * mask
    padded = wide_mask(mask)
    assert masked_mean(wide(values), padded).item() == pytest.approx(masked_mean(values, mask).item(), rel=1e-5)
    for keep_mean in (False, True):
        found = whiten(wide(values), padded, keep_mean)
        assert torch.allclose(found[:, :9], whiten(values, mask, keep_mean), atol=1e-5)
        assert not found[:, 9:].any()
    many, few = gae(wide_mask(rewards), wide(values), padded, 0.9, 0.8), gae(rewards, values, mask, 0.9, 0.8)
    for wider, plain in zip(many, few):
        assert torch.allclose(wider[:, :9], plain, atol=1e-6)
        assert not wider[:, 9:].any()
    same = torch.zeros(len(mask), dtype=torch.long)
    assert torch.allclose(
        reward_to_go(wide(rewards), padded, same)[:, :9], reward_to_go(rewards, mask, same), atol=1e-6
    )


def test_reward_whitening_keeps_the_mean_advantage_whitening_removes_it():
    """Both have variance 1 over the masked places (pitfall 15)."""
    _, values, mask = ragged(40, 20)
    values = 3 * values + 5
    mean = masked_mean(values, mask)
    assert mean > 4
    for keep_mean, wanted in ((True, mean.item()), (False, 0.0)):
        white = whiten(values, mask, keep_mean)
        assert masked_mean(white, mask).item() == pytest.approx(wanted, abs=1e-4)
        spread = masked_mean((white - masked_mean(white, mask)) ** 2, mask)
        assert spread.item() == pytest.approx(1.0, abs=1e-4)
        assert not white[mask == 0].any()


def test_whitening_nothing_or_a_constant_is_no_division_by_zero():
    assert not whiten(torch.ones(2, 3), torch.zeros(2, 3)).any()
    assert whiten(torch.full((2, 3), 7.0), torch.ones(2, 3)).abs().max() < 1e-2


def test_score_sits_on_the_last_sampled_token():
    mask = torch.tensor([[0, 1, 1, 0, 0], [1, 0, 0, 0, 0], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0]]).float()
    placed = place_scores(torch.tensor([2.0, 3.0, -4.0, 9.0]), mask)
    wanted = torch.zeros(4, 5)
    wanted[0, 2], wanted[1, 0], wanted[2, 4] = 2.0, 3.0, -4.0
    assert torch.equal(placed, wanted)


def test_to_go_sums_what_comes():
    rewards, _, mask = ragged()
    found = to_go(rewards, mask)
    for b in range(len(mask)):
        for t in range(mask.shape[1]):
            wanted = sum((rewards[b, s] * mask[b, s]).item() for s in range(t, mask.shape[1])) if mask[b, t] else 0.0
            assert found[b, t].item() == pytest.approx(wanted, abs=1e-5)


def test_reinforce_baseline_is_the_mean_of_the_prompts_other_answers():
    mask = torch.tensor([[0, 1, 1, 1], [0, 1, 1, 0], [1, 1, 0, 0], [0, 1, 1, 0.0]])
    scores, prompts = torch.tensor([3.0, 6.0, 0.0, 9.0]), torch.tensor([5, 7, 5, 5])  # not in order, one alone
    found = reward_to_go(place_scores(scores, mask), mask, prompts)
    wanted = torch.tensor([3 - 4.5, 6 - 4.5, 0 - 6.0, 9 - 1.5])  # alone: the batch's mean
    assert torch.allclose(found, wanted[:, None] * mask)
    shifted = reward_to_go(place_scores(scores + 100, mask), mask, prompts)
    assert torch.allclose(shifted, wanted[:, None] * mask, atol=1e-4)  # a constant added to all changes nothing


def test_shuffled_rows_get_the_same_advantages():
    """Groups are found by the prompt, not by the place in the batch (pitfall 28)."""
    mask, order = torch.ones(6, 3), torch.tensor([4, 2, 0, 5, 1, 3])
    scores, prompts = torch.arange(6.0), torch.tensor([0, 0, 1, 1, 2, 2])
    found = reward_to_go(place_scores(scores, mask), mask, prompts)
    shuffled = reward_to_go(place_scores(scores[order], mask), mask, prompts[order])
    assert torch.equal(found[order], shuffled)


def test_leave_one_out_is_the_centred_score_times_n_over_n_minus_1():
    """r - mean of the others = n / (n - 1) (r - mean of all) (pitfall 29)."""
    scores, prompts = torch.randn(4), torch.zeros(4, dtype=torch.long)
    assert torch.allclose(scores - others_mean(scores, prompts), 4 / 3 * (scores - scores.mean()), atol=1e-6)


# ── groups


def grouped(kind, scores, prompts, mask=None):
    """One advantage a row."""
    mask = torch.ones(len(scores), 2) if mask is None else mask
    rewards, prompts = place_scores(torch.tensor(scores), mask), torch.tensor(prompts)
    found = leave_one_out(rewards, mask, prompts) if kind == "rloo" else group_relative(rewards, mask, prompts, kind)
    assert all(torch.equal(column, found[:, 0]) for column in found.T) or mask.min() == 0
    return found[:, 0]


def test_rloo_is_n_over_n_minus_1_of_the_centred_score():
    """For groups of 2, 3 and 4 answers in one batch, in no order (pitfall 29)."""
    prompts = [0, 1, 2, 2, 1, 2, 0, 1, 2]
    scores = torch.randn(9, generator=torch.Generator().manual_seed(1))
    found = grouped("rloo", scores.tolist(), prompts)
    for name, n in ((0, 2), (1, 3), (2, 4)):
        rows = torch.tensor([p == name for p in prompts])
        assert torch.allclose(found[rows], n / (n - 1) * (scores[rows] - scores[rows].mean()), atol=1e-6)


@pytest.mark.parametrize("kind", ["rloo", True, False], ids=["rloo", "grpo", "dr-grpo"])
def test_groups_are_found_by_prompt_not_by_place(kind):
    """A shuffled batch gives each row the advantage it had (pitfall 28)."""
    scores, prompts = torch.arange(8.0) ** 2, torch.tensor([0, 0, 0, 1, 1, 1, 2, 2])
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    plain = grouped(kind, scores.tolist(), prompts.tolist())
    shuffled = grouped(kind, scores[order].tolist(), prompts[order].tolist())
    assert torch.allclose(shuffled, plain[order], atol=1e-6)
    assert plain.abs().max() > 0.5


def test_grpo_divides_by_the_groups_own_deviation():
    found = grouped(True, [1.0, 3.0, 0.0, 100.0], [0, 0, 1, 1])
    assert found.tolist() == pytest.approx([-(0.5**0.5), 0.5**0.5] * 2, abs=1e-3)
    assert grouped(False, [1.0, 3.0, 0.0, 100.0], [0, 0, 1, 1]).tolist() == [-1, 1, -50, 50]


@pytest.mark.parametrize("level", [0.0, 1.0, 0.1])
def test_near_equal_rewards_get_hardly_an_advantage(level):
    """Rewards apart by 1e-7 or by rounding are one reward: |A| < 0.01 (pitfall 30)."""
    found = grouped(True, [level, level + 1e-7, level, level], [0, 0, 0, 0])
    assert found.abs().max() < 0.01
    assert grouped(True, [level, level + 0.1, level, level], [0, 0, 0, 0]).abs().max() > 1


def test_a_flat_group_has_no_advantage_and_one_answer_alone_none():
    found = grouped(True, [0.3, 0.3, 0.3, 7.0], [0, 0, 0, 1])
    assert found.abs().max() < 1e-3


def test_group_advantages_stay_within_the_answers():
    rewards, _, mask = ragged()
    prompts = torch.tensor([0, 1, 0, 1, 0, 1, 0])
    for found in (leave_one_out(rewards, mask, prompts), group_relative(rewards, mask, prompts), whole(rewards, mask)):
        assert not found[mask == 0].any()
        for row, keep in zip(found, mask > 0):
            assert len(set(row[keep].tolist())) == 1
    padded = group_relative(wide(rewards), wide_mask(mask), prompts)  # 100 pad columns of garbage (pitfall 10)
    assert torch.allclose(padded[:, :9], group_relative(rewards, mask, prompts), atol=1e-5)
