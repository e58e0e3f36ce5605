"""Two gloo ranks with FSDP2 and unequal numbers of tokens train exactly as one process does."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from learn.toys import gap
from safetensors.torch import load_file

from pronk.learn import checkpoint
from pronk.learn.learner import Learner
from pronk.parallel.mesh import ranks

from . import worker

cases = pytest.mark.parametrize("case", worker.CASES)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What one process and then two ranks left behind."""
    folder = tmp_path_factory.mktemp("ranks")
    for case in worker.CASES:
        worker.train(case, None, folder)
    start = {"OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, "-m", "parallel.worker", str(folder)]
    workers = [
        subprocess.Popen(
            command,
            env=os.environ | start | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=Path(__file__).parent.parent,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=300)[1] for process in workers]
    finally:
        for process in workers:
            process.kill()
    assert [process.returncode for process in workers] == [0, 0], "\n".join(errors)
    return folder


def left(folder, name):
    """Tensors and facts; random generators aside."""
    tensors = {k: v for k, v in load_file(folder / f"{name}.safetensors").items() if not k.startswith("random.")}
    facts = folder / f"{name}.json"
    return tensors, json.loads(facts.read_text()) if facts.exists() else {}


@cases
def test_ranks_agree_after_three_steps(folder, case):
    """Parameter and optimizer hash equal on all ranks: no rank went its own way (pitfall 34)."""
    (first, told), (second, told_too) = left(folder, f"{case}-2-0"), left(folder, f"{case}-2-1")
    assert told["items"] > 1.5 * told_too["items"] > 0  # the ranks' shares are unequal
    assert told["hash"] == told_too["hash"]
    assert told["told"] == told_too["told"]
    assert gap(first, second) == 0


@cases
def test_two_ranks_train_as_one_process(folder, case):
    """Weights and optimizer state to 1e-6, and every metric and gradient norm (pitfall 33)."""
    (one, told), (two, told_too) = left(folder, f"{case}-1-0"), left(folder, f"{case}-2-0")
    start = {f"model.{n}": p.detach() for n, p in worker.CASES[case][0]().named_parameters()}
    assert gap({n: one[n] for n in start}, start) > 2e-3
    assert gap(one, two) < 1e-6
    for alone, sharded in zip(told["told"], told_too["told"], strict=True):
        norms = [name for name in alone if name.endswith("grad_norm")]
        assert norms and min(alone[name] for name in norms) > 0.1
        assert sharded == pytest.approx(alone, rel=1e-5, abs=1e-6)


@cases
def test_what_two_ranks_saved_one_process_takes_up(folder, case):
    make, groups, batch, loss = worker.CASES[case]
    learner = Learner(make(), groups, worker.STEPS + 1, micro_batch=2)
    learner.restore(*checkpoint.load(folder / f"{case}-2" / f"step-{worker.STEPS}"))
    learner.step(batch(worker.STEPS), loss)
    tensors = {k: v for k, v in learner.state()[0].items() if not k.startswith("random.")}
    more, _ = left(folder, f"{case}-2-0-more")
    assert gap(tensors, more) < 1e-6


@cases
def test_what_one_process_saved_two_ranks_take_up(folder, case):
    resumed, _ = left(folder, f"{case}-from1-0")
    more, _ = left(folder, f"{case}-2-0-more")
    assert gap(resumed, more) < 1e-6


def test_a_process_of_its_own_has_no_mesh(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with ranks("cpu") as mesh:
        assert mesh is None
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with ranks("cpu") as mesh:
        assert mesh is None
    assert not torch.distributed.is_initialized()
