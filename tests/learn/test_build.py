"""Device, precision, and the arithmetic of plans."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from pronk.errors import UserError
from pronk.learn import build as build_file
from pronk.learn.build import (
    PAYS,
    TrainConfig,
    flops_per_token,
    make_learner,
    pick_compile,
    pick_device,
    pick_precision,
    plan,
)
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


def test_what_is_compiled_outlasts_a_restart_of_the_machine(tmp_path):
    code = (
        "from pronk.learn.build import OptimConfig, TrainConfig, make_learner; from torch import nn\n"
        "for wish in (False, True): make_learner(nn.Linear(2, 2), OptimConfig(), TrainConfig(compile=wish))\n"
        "from torch._inductor.runtime.cache_dir_utils import cache_dir; print(cache_dir())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
    environment["HOME"] = str(tmp_path)
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert said.stdout.splitlines()[-1] == str(tmp_path / ".cache" / "pronk" / "compiled")
    assert f"kept in {tmp_path}" in said.stdout


def test_compiling_says_where_it_keeps_what_it_made(monkeypatch, capsys):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/somewhere")
    make_learner(build(ModelConfig(vocab=50, width=32, layers=2, heads=4)), OptimConfig(), TrainConfig(compile=True))
    assert "kept in /somewhere" in capsys.readouterr().out


@pytest.fixture
def tools(monkeypatch, tmp_path):
    """A Linux machine with a compiler, Python's header and Triton; returns a function that takes one away."""
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(build_file, "shutil", SimpleNamespace(which=lambda name: f"/usr/bin/{name}"))
    monkeypatch.setattr(build_file.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(build_file.importlib.util, "find_spec", lambda name: name)

    def without(name):
        if name == "Python.h":
            (tmp_path / name).unlink()
        elif name == "triton":
            monkeypatch.setattr(build_file.importlib.util, "find_spec", lambda name: None)
        else:
            monkeypatch.setattr(build_file, "shutil", SimpleNamespace(which=lambda name: None))

    return without


@pytest.mark.parametrize("kind", PAYS)
def test_a_run_is_compiled_where_its_work_wins_the_time_back(kind, tools):
    assert pick_compile(None, kind, PAYS[kind])
    assert not pick_compile(None, kind, 0.99 * PAYS[kind])
    assert not pick_compile(None, kind, 0.0)  # unknown, as of recurrent models
    assert pick_compile(True, kind, 0.0)
    assert not pick_compile(False, kind, 1e30)


def test_other_devices_compile_only_where_asked(tools, monkeypatch):
    assert not pick_compile(None, "mps", 1e30)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not pick_compile(None, "cpu", 1e30)
    assert pick_compile(True, "cpu", 0.0)


@pytest.mark.parametrize(("kind", "name"), [("cpu", "c++-6"), ("cpu", "Python.h"), ("cuda", "triton")])
def test_without_its_tools_a_run_stays_eager_and_says_so(kind, name, tools, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "c++-6")
    tools(name)
    assert not pick_compile(None, kind, 1e30)
    assert f"{name} not found" in capsys.readouterr().out
    assert not pick_compile(None, kind, 1.0)
    assert not pick_compile(False, kind, 1e30)
    assert capsys.readouterr().out == ""  # who would not gain by it is not told


def test_eight_bits_need_a_gpu():
    with pytest.raises(UserError, match="float8 needs"):
        make_learner(build(ModelConfig(vocab=50, width=32)), OptimConfig(), TrainConfig(float8=True, device="cpu"))


def test_recomputing_is_a_thing_of_compiled_blocks():
    with pytest.raises(UserError, match=r"needs --train.compile"):
        make_learner(build(ModelConfig(vocab=50, width=32)), OptimConfig(), TrainConfig(recompute=0.5))
