"""Scores are those of each row alone, read at its last real token."""

import pytest
import torch

from pronk.engine.score import groups, pad_right, score_rows
from pronk.models.build import build, to_scorer
from pronk.models.config import ModelConfig

SHAPE = {"vocab": 40, "width": 32, "layers": 2, "heads": 4, "context": 64, "multiple_of": 8}
FAMILIES = ("decoder", "lstm")


def scorer(family="decoder", **keys):
    made = to_scorer(build(ModelConfig(family=family, **(SHAPE | keys)), seed=0))
    with torch.no_grad():
        made.value.bias.fill_(0.25)
    return made


def rows(lengths=(5, 1, 30, 8, 7, 17, 5, 64)):
    dice = torch.Generator().manual_seed(1)
    return [torch.randint(40, (length,), generator=dice).tolist() for length in lengths]


def alone(model, row):
    """The oracle: no padding, no neighbours."""
    with torch.no_grad():
        return model(torch.tensor([row])).values[0, -1].item()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tokens", [1, 64, 200, 10_000])
def test_score_does_not_depend_on_batch_size_or_padding(family, tokens):
    """Pads on the right, score at the last real token (pitfall 6)."""
    model, given = scorer(family), rows()
    wanted = [alone(model, row) for row in given]
    assert score_rows(model, given, tokens) == pytest.approx(wanted, abs=1e-5)
    assert score_rows(model, given[::-1], tokens) == pytest.approx(wanted[::-1], abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_score_stands_on_the_last_real_token_not_on_padding(family):
    """Whatever follows the last token, the score is the same; another last token gives another (pitfall 9)."""
    model, (row, *_) = scorer(family), rows((9, 3))
    with torch.no_grad():
        for fill in range(0, 40, 7):
            padded = torch.tensor([row + [fill] * 11])
            assert model(padded).values[0, 8].item() == pytest.approx(alone(model, row), abs=1e-5)
    changed = [*row[:-1], (row[-1] + 1) % 40]
    assert score_rows(model, [changed])[0] != pytest.approx(score_rows(model, [row])[0], abs=1e-3)


def test_dropout_is_off_and_the_mode_comes_back():
    model = scorer(dropout=0.5).train()
    assert score_rows(model, rows()) == score_rows(model, rows())
    assert model.training


def test_groups_hold_every_row_once_and_keep_to_the_tokens():
    lengths = [5, 1, 30, 8, 7, 17, 5, 64]
    found = list(groups(lengths, 48))
    assert sorted(i for group in found for i in group) == list(range(8))
    assert all(len(g) == 1 or len(g) * -(-max(lengths[i] for i in g) // 8) * 8 <= 48 for g in found)
    padded, last = pad_right([[1, 2, 3], [4]])
    assert padded.shape == (2, 8) and last.tolist() == [2, 0]


def test_no_rows_and_empty_rows():
    assert score_rows(scorer(), []) == []
    with pytest.raises(ValueError, match="empty row"):
        score_rows(scorer(), [[1], []])


@pytest.mark.parametrize("tied", [True, False])
def test_a_scorer_is_the_model_with_a_small_head_and_every_tensor_is_used(tied):
    """Initial scores are small: deviation 1/sqrt(D + 1), bias 0 (pitfall 22)."""
    model = build(ModelConfig(**(SHAPE | {"width": 512, "tied": tied})), seed=0)
    made = to_scorer(model)
    assert made.value.weight.std().item() == pytest.approx(1 / 513**0.5, rel=0.1)
    assert made.value.bias.item() == 0
    made(torch.tensor([rows((6,))[0]])).values.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.parameters())
