"""Adapters through the command line: tuned, aligned, resumed, and opened by transformers as plain models."""

import re
import shutil

import pytest
import torch

import pronk as library

from .make import ON_CPU, fails, metrics, pronk, rounds, same_weights, steps, weights

LORA = ("--lora.rank", 4, "--lora.alpha", 8)
REWARD = "def funny(sample):\n    return sample.text.count('a')\n"


def sft(raised, *more, count=8):
    begin = ("sft", "--model", raised.pretrain / "model", "--data", raised.requests, *LORA)
    return (*begin, *steps(count, length=192), "--train.save-every", 4, *more)


def rl(raised, folder, *more):
    (folder / "my_rewards.py").write_text(REWARD)
    begin = ("rl", "--model", raised.model, "--prompts", raised.prompts, *LORA)
    return (*begin, "--reward", f"{folder / 'my_rewards.py'}:funny", *rounds(8), "--train.save-every", 4, *more)


def loses_its_end(run, other):
    """A copy of a run as if it had been killed after its first checkpoint."""
    shutil.copytree(run, other)
    first, last = sorted((other / "checkpoints").iterdir(), key=lambda path: int(path.name[5:]))
    assert first.name < last.name or len(first.name) < len(last.name)
    shutil.rmtree(last)
    shutil.rmtree(other / "model")


@pytest.mark.parametrize("kind", ["sft", "reinforce", "ppo"])
def test_adapters_train_resume_and_leave_a_plain_model(raised, tmp_path, kind):
    out, again = tmp_path / "run", tmp_path / "again"
    words = sft(raised) if kind == "sft" else rl(raised, tmp_path, "--algorithm", kind)
    start = raised.pretrain if kind == "sft" else raised.sft
    pronk(*words, "--out", out)
    assert weights(out).keys() == weights(start).keys()
    old, new = weights(start), weights(out)
    moved = {name for name in new if not torch.equal(old[name], new[name])}
    assert moved == {name for name in new if "_proj" in name}
    loses_its_end(out, again)
    pronk(*words, "--out", again)
    assert same_weights(out, again)


def test_the_first_rounds_kl_is_zero(raised, tmp_path):
    """The reference is the policy with its adapters off, which do nothing before the first step."""
    pronk(*rl(raised, tmp_path, "--optim.lr", 0.01), "--out", tmp_path / "run")
    kl = [row["kl/sequence"] for row in metrics(tmp_path / "run") if "kl/sequence" in row]
    assert kl[0] == 0
    assert abs(kl[-1]) > 1e-3


def test_transformers_opens_the_merged_model(raised, tmp_path):
    from transformers import AutoModelForCausalLM

    pronk(*sft(raised, count=4), "--out", tmp_path / "run")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model").float().eval()
    ours, _ = library.load(tmp_path / "run" / "model")
    ids = torch.arange(24)[None]
    with torch.no_grad():
        assert torch.allclose(theirs(ids).logits, library.logits(ours, ids), atol=1e-5)


def test_a_dry_run_counts_what_trains(raised, tmp_path, capsys):
    begin = ("--model", raised.model, "--dry-run", "--train.length", 128, *ON_CPU, "--out", tmp_path / "run")
    needed = {}
    for name, more in (("adapters", LORA), ("whole", ())):
        pronk("sft", *begin, *more)
        said = capsys.readouterr().out
        assert ("of them trained" in said) == (name == "adapters")
        needed[name] = int(re.search(r"memory .*?: ([\d,]+) weights", said)[1].replace(",", ""))
    assert needed["adapters"] <= needed["whole"]
    pronk("rl", "--model", raised.model, "--prompts", raised.prompts, "--dry-run", *LORA, *rounds(1))
    assert "rank = 4" in capsys.readouterr().out


def test_other_ranks_are_other_settings(raised, tmp_path, capsys):
    pronk(*sft(raised, count=4), "--out", tmp_path / "run")
    assert "lora.rank: 4 -> 2" in fails(capsys, *sft(raised, count=4), "--lora.rank", 2, "--out", tmp_path / "run")
    assert "no such layer" in fails(capsys, *sft(raised), "--lora.targets", "query", "--out", tmp_path / "new")
