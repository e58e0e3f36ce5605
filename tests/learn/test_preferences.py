"""Losses of comparisons on batches whose answer is known, and whether they find what the comparisons came from."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from pronk.data.batch import Pairs
from pronk.data.collate import pad_scored
from pronk.engine.score import score_rows
from pronk.evals.calibration import bins, calibration_error
from pronk.evals.comparisons import rank_correlation
from pronk.learn.learner import Learner
from pronk.learn.losses import bradley_terry, dpo, reference_logps, sequence_logps
from pronk.learn.optim import OptimConfig
from pronk.models.build import build, to_scorer
from pronk.models.config import ModelConfig
from pronk.models.heads import Output

from .toys import FAMILIES, V, copy_of, gap, learner, model, pairs, rows, weights


def scored(scores, strength=None):
    """Output and batch in which the last tokens' values are these; what else there is must not matter."""
    scores = torch.tensor(scores)
    values = torch.full((len(scores), 2, 3), 77.0)
    values[:, :, 1] = scores
    shape = torch.zeros(len(scores), 2, 3, dtype=torch.int64)
    last = torch.ones(len(scores), 2, dtype=torch.int64)
    batch = Pairs(shape, shape, last=last, strength=None if strength is None else torch.tensor(strength))
    return Output(values.flatten(0, 1)[..., None], None, values=values.flatten(0, 1)), batch


def mean_of(loss, output, batch):
    total, count, metrics = loss(output, batch)
    return total.item() / count.item(), {name: (m.total / m.weight).item() for name, m in metrics.items()}


def log_odds(chance):
    return math.log(chance / (1 - chance))


def test_bradley_terry_is_the_log_chance_of_the_chosen():
    found, told = mean_of(bradley_terry(), *scored([[log_odds(0.8), 0.0], [1.0, 1.0 + log_odds(0.6)]]))
    assert found == pytest.approx(-(math.log(0.8) + math.log(0.4)) / 2, abs=1e-6)
    assert told["accuracy"] == 0.5
    assert told["loss"] == pytest.approx(found)


def test_a_tie_is_half_a_win_each_way_and_no_error():
    found, told = mean_of(bradley_terry(), *scored([[3.0, 1.0], [2.0, 0.0]], [0, 1]))
    sure, tie = F.softplus(torch.tensor(-2.0)).item(), 0.5 * F.softplus(torch.tensor([-2.0, 2.0])).sum().item()
    assert found == pytest.approx((sure + tie) / 2, abs=1e-6)
    assert told["accuracy"] == 1.0  # of the one that was decided
    output, batch = scored([[1.0, 1.0]], [0])
    output.values.requires_grad_()
    bradley_terry()(output, batch)[0].backward()
    assert output.values.grad.abs().max() == 0  # equal scores are where a tie wants them


def test_a_margin_grows_with_strength():
    gaps = [[2.0, 0.0]] * 4
    each = [mean_of(bradley_terry(0.5), *scored([g], [s]))[0] for s, g in enumerate(gaps, 1)]
    assert each == pytest.approx([F.softplus(torch.tensor(-(2.0 - 0.5 * s))).item() for s in range(4)], abs=1e-6)
    tie = mean_of(bradley_terry(0.5), *scored([[2.0, 0.0]], [0]))[0]
    assert tie == pytest.approx(mean_of(bradley_terry(), *scored([[2.0, 0.0]], [0]))[0])


def test_score_is_read_at_the_last_real_token_whatever_the_padding():
    """Batch size and pad length change neither loss nor gradient (pitfalls 6, 9)."""
    items = list(zip(rows((7, 3, 9, 1)), rows((4, 8, 9, 6), 5)))
    made = to_scorer(model())
    steps = {}
    for multiple, micro in ((1, 0), (8, 1), (64, 3)):
        module = copy_of(made).double()  # Adam divides by its gradients: rounding of those near zero would show
        told = learner(module, micro_batch=micro).step(pad_scored(items, 0, multiple), bradley_terry())
        steps[multiple] = told, weights(module)
    for told, moved in steps.values():
        assert told == pytest.approx(steps[1][0], abs=1e-5)
        assert gap(moved, steps[1][1]) < 1e-5
    alone = [[made(torch.tensor([side])).values[0, -1].item() for side in item] for item in items]
    _, told = mean_of(bradley_terry(), made(**pad_scored(items, 0, 64).inputs()), pad_scored(items, 0, 64))
    assert told["chosen_score"] == pytest.approx(sum(a for a, _ in alone) / 4, abs=1e-5)


# ── a reward model finds known utilities (pitfall 42)

UTILITY = torch.linspace(-1.5, 1.5, V)  # of each token; a row is worth the sum of its tokens' utilities


def judged(count, seed, ties=0.0, flips=0.0):
    """Rows of six tokens in pairs, judged by Bradley-Terry on their true utilities."""
    dice = torch.Generator().manual_seed(seed)
    items = torch.randint(1, V, (count, 2, 6), generator=dice)
    worth = UTILITY[items].sum(-1)
    gap = worth[:, 0] - worth[:, 1]
    first = torch.rand(count, generator=dice) < torch.sigmoid(gap)
    first ^= torch.rand(count, generator=dice) < flips
    order = torch.stack([~first, first], 1).long()
    items = items.gather(1, order[..., None].expand_as(items))
    worth = worth.gather(1, order)
    strength = (gap.abs() >= ties).long()
    return items, worth, strength


def learned(items, strength, steps=200):
    torch.manual_seed(0)
    made = to_scorer(build(ModelConfig(vocab=V, width=16, layers=1, heads=2, context=16, multiple_of=8)))
    made.value.bias.requires_grad_(False)
    config = OptimConfig(lr=5e-3, warmup=10, schedule="linear", final=0.05, weight_decay=0.01)
    trained = Learner(made, config, steps)
    dice = torch.Generator().manual_seed(1)
    for _ in range(steps):
        picked = torch.randint(len(items), (64,), generator=dice)
        batch = pad_scored([(a, b) for a, b in items[picked].tolist()], 0, 1)
        trained.step(replace(batch, strength=strength[picked]), bradley_terry())
    return made


def scores(made, items):
    return torch.tensor(score_rows(made, items.flatten(0, 1).tolist())).view(-1, 2)


@pytest.mark.parametrize(("ties", "flips"), [(0.0, 0.0), (0.5, 0.0), (0.0, 0.1)])
def test_reward_model_recovers_known_utilities(ties, flips):
    """Rank correlation above 0.95 and chances that come true within 0.05: with plain comparisons, where near equals
    are ties, and with a tenth of the labels flipped."""
    items, _, strength = judged(8000, 0, ties, flips)
    made = learned(items, strength)
    fresh, worth, _ = judged(4000, 1, flips=flips)
    found = scores(made, fresh)
    assert rank_correlation(found.flatten().tolist(), worth.flatten().tolist()) > 0.95
    differences = (found[:, 0] - found[:, 1]).tolist()
    assert calibration_error(bins(differences, [1.0] * len(differences))) < 0.05


# ── DPO, IPO, cDPO


def reference_of(module, batch):
    batch.ref_logps = reference_logps(module, [batch])
    return batch


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_reference_logps_equal_recomputed_ones(family):
    """Made once, in other batches and at other lengths, without gradients (pitfall 44)."""
    module, whole = model(family, dropout=0.3).train(), pairs(pad=30)
    cached = reference_logps(module, [part.map(lambda x: x) for part in pairs().split(3)])
    module.eval()
    recomputed = sequence_logps(module(**whole.inputs()), whole.targets.flatten(0, 1)).view(-1, 2)
    assert torch.allclose(cached, recomputed, atol=1e-5)
    assert not cached.requires_grad
    assert module.train().training


@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_first_steps_of_all_forms(beta):
    """ln 2 for DPO and cDPO, 1 / (4 beta^2) for IPO, accuracy one half (pitfall 44)."""
    module, batch = model(), pairs()
    reference_of(module, batch)
    wanted = {("dpo", 0.0): math.log(2), ("dpo", 0.2): math.log(2), ("ipo", 0.0): 1 / (4 * beta**2)}
    for (form, smoothing), loss in wanted.items():
        found, told = mean_of(dpo(beta, form, smoothing), module(**batch.inputs()), batch)
        assert found == pytest.approx(loss, rel=1e-5)
        assert told["accuracy"] == 0.5
        assert told["chosen_change"] == pytest.approx(0.0, abs=1e-5)


def test_conservative_dpo_and_ipo_by_their_formulas():
    module, batch = model(), pairs()
    h = reference_logps(module, [batch]) - batch.ref_logps
    h = (h[:, 0] - h[:, 1]).double()
    output = module(**batch.inputs())
    soft = -(0.9 * F.logsigmoid(0.3 * h) + 0.1 * F.logsigmoid(-0.3 * h))
    assert mean_of(dpo(0.3, smoothing=0.1), output, batch)[0] == pytest.approx(soft.mean().item(), rel=1e-5)
    squares = (h - 1 / (2 * 0.3)) ** 2
    assert mean_of(dpo(0.3, "ipo"), output, batch)[0] == pytest.approx(squares.mean().item(), rel=1e-5)
    batch.strength = torch.tensor([1, 0, 0, 3])
    targets = torch.tensor([0.5, 0.0, 0.0, 0.5]) / 0.3
    assert mean_of(dpo(0.3, "ipo"), output, batch)[0] == pytest.approx(((h - targets) ** 2).mean().item(), rel=1e-5)


def test_a_smoothed_loss_has_its_least_at_the_smoothed_chance():
    """With one label in five taken for wrong, the margin stops at the log-odds of 0.8 instead of widening for ever."""
    near = [[log_odds(0.8) + d, 0.0] for d in (-0.1, 0.0, 0.1)]
    below, at, above = (mean_of(bradley_terry(smoothing=0.2), *scored([gap]))[0] for gap in near)
    assert at < min(below, above)


@pytest.mark.parametrize("form", ["dpo", "ipo"])
def test_a_tie_holds_the_answers_together(form):
    module, batch = model(), pairs()
    reference_of(module, batch)
    batch.strength = torch.tensor([0, 0, 0, 0])
    trained = learner(module)
    found = [trained.step(batch, dpo(0.5, form)) for _ in range(3)]
    assert all(abs(m["margin"]) < 0.05 for m in found)
    assert "accuracy" in found[0]
