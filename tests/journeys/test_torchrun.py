"""Pretraining and RL under torchrun: two processes on gloo give what one gives."""

import os
import socket
import subprocess
import sys

import pytest

from pronk.cli import main
from pronk.learn.track import read_metrics
from pronk.world.tell import stories

from .make import rounds, weights

WORDS = (
    *("--train.steps", "4", "--train.batch", "8", "--train.length", "64", "--train.device", "cpu"),
    *("--train.precision", "fp32", "--model.width", "32", "--model.layers", "2", "--vocabulary.size", "300"),
)


def both(words, folder):
    """The same words on two ranks, to folder/two, and in this process, to folder/one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*launch, "-m", "pronk", *words, "--out", str(folder / "two")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert main([*words, "--out", str(folder / "one")]) == 0


def test_two_ranks_pretrain_as_one_process(tmp_path):
    text = tmp_path / "stories.txt"
    text.write_text("\n".join(story.text for story in stories(120, seed=5)))
    words = ["pretrain", "--data", str(text), "--read.separator", r"\n", *WORDS]
    both(words, tmp_path)
    one, two = (
        [row["val_loss"] for row in read_metrics(tmp_path / name) if "val_loss" in row] for name in ("one", "two")
    )
    assert two == pytest.approx(one, abs=1e-4)
    assert (tmp_path / "two" / "model" / "model.safetensors").exists()


def test_two_ranks_align_as_one_process(raised, tmp_path):
    """PPO with a critic, KL and minibatches: each rank samples and scores its share, the learner is sharded."""
    (tmp_path / "mine.py").write_text("def vowels(sample):\n    return sum(c in 'aeiou' for c in sample.text) / 10\n")
    begin = ("--model", raised.model, "--prompts", raised.prompts, "--reward", f"{tmp_path / 'mine.py'}:vowels")
    ppo = ("--algorithm", "ppo", "--kl.coef", 0.1, "--rl.epochs", 2, "--rollout.minibatch", 4, "--rollout.forward", 3)
    both([str(word) for word in ("rl", *begin, *ppo, *rounds(8, prompts=4))], tmp_path)
    one, two = (read_metrics(tmp_path / name) for name in ("one", "two"))
    assert len(one) == len(two) == 8
    for name in ("loss", "reward/mean", "kl/sequence", "policy/grad_norm", "critic/grad_norm", "length"):
        assert [row[name] for row in two] == pytest.approx([row[name] for row in one], rel=1e-3, abs=1e-4), name
    found, wanted = (weights(tmp_path / name) for name in ("two", "one"))
    assert max((found[name] - wanted[name]).abs().max() for name in wanted) < 1e-4
