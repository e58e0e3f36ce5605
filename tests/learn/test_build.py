"""Device, precision, and the arithmetic of plans."""

import pytest
import torch

from pronk.errors import UserError
from pronk.learn.build import TrainConfig, flops_per_token, make_learner, pick_device, pick_precision, plan
from pronk.learn.optim import OptimConfig
from pronk.models.build import build, count
from pronk.models.config import ModelConfig


def test_work_counts_what_is_multiplied_and_half_of_the_attention():
    config = ModelConfig(vocab=50, width=32, layers=2, heads=4, tied=False)
    model = build(config)
    multiplied = count(model) - 50 * 32  # the input embedding is looked up, the head is multiplied
    assert flops_per_token(model, config, 64) == 6 * multiplied + 6 * 2 * 64 * 32
    tied = ModelConfig(vocab=50, width=32, layers=2, heads=4)
    assert flops_per_token(build(tied), tied, 64) == 6 * count(build(tied)) + 6 * 2 * 64 * 32


def test_windows_shorten_the_attention():
    config = ModelConfig(vocab=50, width=32, layers=2, heads=4, window=16, window_every=2)
    model = build(config)
    seen = [sum(min(i + 0.5, w) for i in range(64)) / 64 for w in (64, 16)]  # its own key half
    assert flops_per_token(model, config, 64) == 6 * count(model) + 12 * 32 * sum(seen)


def test_precision_is_what_was_asked_for():
    cpu = torch.device("cpu")
    assert (pick_precision("fp32", cpu), pick_precision("bf16", cpu)) == ("fp32", "bf16")
    assert pick_precision("auto", cpu) in ("fp32", "bf16")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(UserError, match="device cuda"):
        pick_device("cuda")


def test_a_plan_says_tokens_and_memory():
    model = build(ModelConfig(vocab=50, width=32, layers=2, heads=4))
    facts = plan(model, TrainConfig(steps=10, batch=4, length=64), "fp32")
    assert facts["tokens"].startswith("2,560 (10 steps of 4 x 64)")
    assert facts["parameters"] == f"{count(model):,}"


def test_compiling_says_where_it_keeps_what_it_made(monkeypatch, capsys):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/somewhere")
    make_learner(build(ModelConfig(vocab=50, width=32, layers=2, heads=4)), OptimConfig(), TrainConfig(compile=True))
    assert "kept in /somewhere" in capsys.readouterr().out


def test_eight_bits_need_a_gpu():
    with pytest.raises(UserError, match="float8 needs"):
        make_learner(build(ModelConfig(vocab=50, width=32)), OptimConfig(), TrainConfig(float8=True, device="cpu"))


def test_recomputing_is_a_thing_of_compiled_blocks():
    with pytest.raises(UserError, match=r"needs --train.compile"):
        make_learner(build(ModelConfig(vocab=50, width=32)), OptimConfig(), TrainConfig(recompute=0.5))
