"""Pretraining under torchrun: two processes on gloo give what one gives."""

import os
import subprocess
import sys

import pytest

from pronk.cli import main
from pronk.learn.track import read_metrics
from pronk.world.tell import stories

WORDS = (
    *("--train.steps", "4", "--train.batch", "8", "--train.length", "64", "--train.device", "cpu"),
    *("--train.precision", "fp32", "--model.width", "32", "--model.layers", "2", "--vocabulary.size", "300"),
)


def test_two_ranks_pretrain_as_one_process(tmp_path):
    text = tmp_path / "stories.txt"
    text.write_text("\n".join(story.text for story in stories(120, seed=5)))
    words = ["pretrain", "--data", str(text), "--read.separator", r"\n", *WORDS]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29617"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*launch, "-m", "pronk", *words, "--out", str(tmp_path / "two")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert main([*words, "--out", str(tmp_path / "one")]) == 0
    one, two = (
        [row["val_loss"] for row in read_metrics(tmp_path / name) if "val_loss" in row] for name in ("one", "two")
    )
    assert two == pytest.approx(one, abs=1e-4)
    assert (tmp_path / "two" / "model" / "model.safetensors").exists()
