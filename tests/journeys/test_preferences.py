"""From a tuned model to a reward model, and to one aligned with comparisons directly, as users go."""

import json
import random
import shutil
from pathlib import Path

import pytest

from pronk.engine.score import score_rows
from pronk.folders.huggingface import load_scorer
from pronk.text.chat import encode_chat

from .make import SHAPE, SMALL, asked, curve, fails, jsonl, metrics, pronk, same_weights, steps

EPOCH = ("--epochs", 1)


@pytest.fixture(scope="module")
def comparisons(tmp_path_factory):
    """Beginnings of stories are better than numbers; every tenth is a tie; one row is broken."""
    dice, rows = random.Random(0), []
    for i, row in enumerate(asked(60)):
        prompt, story = (message["content"] for message in row["messages"])
        sides = " ".join(story.split()[:16]), " ".join(str(dice.randrange(100)) for _ in range(16))
        rows.append({"prompt": prompt, "chosen": sides[0], "rejected": sides[1], "strength": i % 10 and 1 + i % 4})
        rows[-1]["first"] = dice.choice(("chosen", "rejected"))
    return jsonl(tmp_path_factory.mktemp("comparisons") / "pairs.jsonl", [*rows, {"prompt": "Hi", "chosen": "A"}])


def begin(raised, comparisons, count=0, batch=8):
    """count 0 = one pass."""
    words = ("--model", raised.model, "--data", comparisons, *steps(count or 1, batch, length=128))
    return (*words, "--epochs", 0 if count else 1, "--validation", 0.2)


def report(folder):
    return json.loads((folder / "report.json").read_text())


def test_a_reward_model_is_learned_judged_and_opens_in_transformers(raised, comparisons, tmp_path, capsys):
    import torch
    from transformers import AutoModelForSequenceClassification

    out = tmp_path / "reward"
    words = ("--train.eval-every", 10, "--train.log-every", 1, "--optim.lr", 2e-3)
    pronk("reward", *begin(raised, comparisons, 30), *words, "--out", out)
    said = capsys.readouterr().out
    assert "reward: skipped 1 × no key 'rejected'" in said
    assert "reward: accuracy" in said and f"reward: the model is in {out / 'model'}" in said
    found = report(out)["validation"]
    assert found["accuracy"]["value"] > 0.8
    assert {"length", "position"} == set(found["baselines"])
    assert (out / "plots" / "reliability.png").exists()
    rows = metrics(out)
    assert rows[0]["loss"] == pytest.approx(0.69, abs=0.3)
    assert {"accuracy", "margin", "chosen_score", "rejected_score", "val_accuracy", "val_loss"} <= set().union(*rows)
    sample = json.loads((out / "samples.jsonl").read_text().splitlines()[0])
    assert {"prompt", "chosen", "rejected"} <= sample.keys()

    scorer, tokenizer = load_scorer(out / "model")
    row = json.loads(Path(comparisons).read_text().splitlines()[0])
    ids = encode_chat(tokenizer, [Said("user", row["prompt"]), Said("assistant", row["chosen"])])[0]
    theirs = AutoModelForSequenceClassification.from_pretrained(out / "model").eval()
    with torch.no_grad():
        logit = theirs(torch.tensor([ids])).logits.item()
    assert score_rows(scorer, [ids])[0] == pytest.approx(logit + theirs.config.score_bias, abs=1e-4)
    assert "loads a reward model" not in fails(capsys, "generate", out / "model", "--prompt", "Hi")


class Said:
    def __init__(self, role, content):
        self.role, self.content = role, content


def test_scores_are_centred_on_the_references(raised, comparisons, tmp_path):
    """Training answers, or the tuning data where it is named, score 0 on average: |mean| < 1e-3 (pitfall 22)."""
    from pronk.data.pairs import encode_pairs, split_by_dialogue
    from pronk.data.read import comparisons as read

    pronk("reward", *begin(raised, comparisons, 3), "--out", tmp_path / "a")
    scorer, tokenizer = load_scorer(tmp_path / "a" / "model")
    pairs, _ = split_by_dialogue(encode_pairs(tokenizer, list(read(comparisons)), 128).pairs, 0.2)
    scores = score_rows(scorer, [ids for p in pairs for ids in (p.chosen[0], p.rejected[0])])
    assert abs(sum(scores) / len(scores)) < 1e-3
    told = [[Said("user", "Tell a story."), Said("assistant", f"There were {n} cats.")] for n in range(9)]
    file = jsonl(tmp_path / "told.jsonl", [{"messages": [vars(said) for said in one]} for one in told])
    pronk("reward", *begin(raised, comparisons, 3), "--center", file, "--out", tmp_path / "b")
    scorer, tokenizer = load_scorer(tmp_path / "b" / "model")
    scores = score_rows(scorer, [encode_chat(tokenizer, one)[0] for one in told])
    assert abs(sum(scores) / len(scores)) < 1e-3


def test_an_ensemble_is_judged_by_its_mean(raised, comparisons, tmp_path):
    words = (*begin(raised, comparisons, 3), "--ensemble", 2)
    pronk("reward", *words, "--bootstrap", "--out", tmp_path / "two")
    found = report(tmp_path / "two")
    assert found["validation"]["disagreement"] > 0
    assert found["models"] == [str(tmp_path / "two" / f"member-{k}" / "model") for k in (1, 2)]
    assert not same_weights(tmp_path / "two" / "member-1", tmp_path / "two" / "member-2")
    pronk("reward", tmp_path / "two" / "member-2" / "config.toml", "--out", tmp_path / "again")
    assert same_weights(tmp_path / "two" / "member-2", tmp_path / "again")


def test_nothing_kept_for_validation_is_nothing_judged(raised, comparisons, tmp_path):
    pronk("reward", *begin(raised, comparisons, 2), "--validation", 0, "--out", tmp_path)
    assert (tmp_path / "model" / "config.json").exists() and not (tmp_path / "report.json").exists()


def test_cross_validation_judges_every_comparison_once(raised, comparisons, tmp_path, capsys):
    pronk("reward", *begin(raised, comparisons), "--folds", 3, "--out", tmp_path / "run")
    found = report(tmp_path / "run")
    assert found["validation"]["comparisons"] == 60
    assert not (tmp_path / "run" / "model").exists()
    words = (*begin(raised, comparisons), "--folds", 3, "--ensemble", 2)
    assert "cannot go with --ensemble" in fails(capsys, "reward", *words, "--out", tmp_path / "x")


@pytest.mark.parametrize("loss", ["dpo", "ipo"])
def test_a_model_learns_from_comparisons_directly(raised, comparisons, tmp_path, capsys, loss):
    out = tmp_path / "dpo"
    rate = 2e-3 if loss == "dpo" else 2e-4  # a squared loss of sums over tokens has large gradients
    words = (*begin(raised, comparisons, 12), "--loss", loss, "--optim.lr", rate, "--train.log-every", 1)
    pronk("dpo", *words, "--beta", 0.5, "--train.eval-every", 6, "--out", out)
    rows = [row for row in metrics(out) if "loss" in row]
    assert rows[0]["loss"] == pytest.approx(0.693147 if loss == "dpo" else 1.0, abs=1e-4)
    assert rows[0]["accuracy"] == pytest.approx(0.5)
    assert {"chosen_logp", "rejected_logp", "chosen_change", "margin"} <= rows[0].keys()
    assert rows[-1]["accuracy"] > 0.8
    looked = [row for row in metrics(out) if "val_accuracy" in row]
    assert [row["step"] for row in looked] == [6, 12]
    assert looked[-1]["val_accuracy"] > 0.7
    pronk("generate", out / "model", "--prompt", "Tell a story.", "--max-tokens", 8)
    assert "dpo: the model is in" in capsys.readouterr().out


def test_a_falling_chosen_answer_is_told(raised, comparisons, tmp_path, capsys):
    """Both answers become unlikelier at a rate that is far too high: the run says so, once (pitfall 44)."""
    words = (*begin(raised, comparisons, 40), "--optim.lr", 0.02, "--beta", 0.02, "--validation", 0)
    pronk("dpo", *words, "--out", tmp_path / "dpo")
    said = capsys.readouterr().out
    assert said.count("the chosen answers have become unlikelier") == 1
    assert "Lower --optim.lr" in said


@pytest.mark.parametrize("name", ["reward", "dpo"])
def test_a_run_that_was_cut_off_goes_on_to_the_same_weights(raised, comparisons, tmp_path, name):
    """As if it had been killed after its first checkpoint, in the middle of the second pass (pitfall 39)."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    words = (name, *begin(raised, comparisons, 15), "--train.save-every", 8, "--train.log-every", 1)
    pronk(*words, "--out", whole)
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints" / "step-15")
    shutil.rmtree(cut / "model")
    pronk(*words, "--out", cut)
    assert same_weights(whole, cut)
    assert curve(whole) == curve(cut)


NEO = ("--model.norm", "layer", "--model.positions", "learned", "--model.feedforward", "gelu")
NEO += (
    "--model.attention-bias",
    "output",
    "--model.no-attention-scaled",
    "--model.window",
    64,
    "--model.window-every",
    2,
)


@pytest.mark.parametrize(("family", "order"), [(("--model.family", "lstm"), "windows"), (NEO, "packed")])
def test_other_families_learn_from_comparisons_too(raised, comparisons, tmp_path, family, order):
    """An LSTM, and a model of GPT-Neo's shape, from pretraining over tuning to both."""
    read = ("--read.order", order)
    words = (*SMALL, *SHAPE, *steps(6), *family, *read, "--out", tmp_path / "pretrain")
    pronk("pretrain", "--data", raised.stories, *words)
    words = ("--data", raised.requests, *read, *steps(4, length=192), "--out", tmp_path / "sft")
    pronk("sft", "--model", tmp_path / "pretrain" / "model", *words)
    tuned = ("--model", tmp_path / "sft" / "model", "--data", comparisons, *steps(1, 8, length=128), *EPOCH)
    pronk("reward", *tuned, "--out", tmp_path / "reward")
    pronk("dpo", *tuned, "--out", tmp_path / "dpo")
    scorer, tokenizer = load_scorer(tmp_path / "reward" / "model")
    assert len(score_rows(scorer, [tokenizer.encode("A cat."), [tokenizer.bos]])) == 2


@pytest.mark.parametrize("name", ["reward", "dpo"])
def test_adapters_train_alone_and_are_merged(raised, comparisons, tmp_path, name):
    pronk(name, *begin(raised, comparisons, 3), "--lora.rank", 2, "--out", tmp_path / name)
    assert (tmp_path / name / "model" / "model.safetensors").exists()


@pytest.mark.parametrize("name", ["reward", "dpo"])
def test_a_dry_run_shows_the_plan(raised, comparisons, tmp_path, capsys, name):
    pronk(name, *begin(raised, comparisons), "--dry-run", "--out", tmp_path / "no")
    said = capsys.readouterr().out
    assert "parameters" in said and "8 steps of 16 x 128" in said  # 60 comparisons in batches of 8: two rows each
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("reward", "--smoothing", 0.5), "--smoothing 0.5: give a number of at least 0.0 and below 0.5"),
        (("reward", "--ensemble", 0), "--ensemble 0"),
        (("reward", "--folds", 1), "--folds needs at least 2"),
        (("dpo", "--beta", 0), "--beta 0"),
        (("dpo", "--epochs", -1), "--epochs -1"),
        (("dpo", "--validation", 1), "--validation 1"),
        (("dpo", "--train.length", 500), "longer than the model's context"),
        (("dpo", "--train.length", 10), "no comparison is left"),
        (("reward", "--center", "nowhere.jsonl"), "nowhere.jsonl: no such file"),
    ],
)
def test_numbers_that_no_run_can_go_by(raised, comparisons, tmp_path, capsys, words, said):
    name, *rest = words
    assert said in fails(capsys, name, *begin(raised, comparisons), *rest, "--out", tmp_path / "no")
