"""The toy runs whose numbers are kept in losses.json: each training command once, on the corpus beside this file."""

import json
from pathlib import Path

from pronk.cli import main

HERE = Path(__file__).parent
KEPT = HERE / "losses.json"
WATCHED = ("loss", "grad_norm", "policy/grad_norm", "critic/grad_norm", "reward/mean", "kl/sequence", "val_loss")
WATCHED += ("margin",)

ON_CPU = ("--train.device", "cpu", "--train.precision", "fp32", "--train.log-every", "1", "--train.seed", "7")
SHAPE = ("--vocabulary.size", "400", "--model.width", "32", "--model.layers", "2", "--model.heads", "2")
TEXT = ("--train.batch", "4", "--train.length", "64", "--model.context", "192", "--model.multiple-of", "16", *SHAPE)
TWENTY, TWELVE = ("--train.steps", "20", "--optim.warmup", "4"), ("--train.steps", "12", "--optim.warmup", "2")
ROUNDS = ("--rollout.prompts", "4", "--rollout.max-tokens", "16", "--reward", f"{HERE / 'reward.py'}:vowels", *TWELVE)
PAIRS = ("--train.batch", "4", "--train.length", "128", "--epochs", "0", "--validation", "0.2", *TWENTY)


def runs(out):
    """Name of each run and its words; later ones start from earlier ones' models."""
    stories = ("--data", HERE / "stories.jsonl", *TEXT, *TWENTY)
    requests = ("--data", HERE / "requests.jsonl", "--train.batch", "4", "--train.length", "192", *TWENTY)
    rounds = ("--model", out / "sft" / "model", "--prompts", HERE / "prompts.jsonl", *ROUNDS)
    pairs = ("--model", out / "sft" / "model", "--data", HERE / "comparisons.jsonl", *PAIRS)
    return {
        "pretrain-adamw": ("pretrain", *stories),
        "pretrain-muon": ("pretrain", *stories, "--optim.optimizer", "muon", "--optim.adam-lr", "0.002"),
        "pretrain-lstm": ("pretrain", *stories, "--model.family", "lstm", "--read.order", "windows"),
        "sft": ("sft", "--model", out / "pretrain-adamw" / "model", *requests),
        "reward": ("reward", *pairs, "--optim.lr", "0.004"),
        "dpo": ("dpo", *pairs, "--beta", "0.3", "--smoothing", "0.05", "--optim.lr", "0.0005"),
        "rl-reinforce": ("rl", *rounds, "--algorithm", "reinforce", "--kl.coef", "0.1"),
        "rl-ppo": ("rl", *rounds, "--algorithm", "ppo", "--kl.coef", "0.1", "--critic-optim.warmup", "2"),
    }


def measured(out):
    """Every run's watched numbers, one list a metric, in the order of the steps."""
    found = {}
    for name, words in runs(out).items():
        code = main([*map(str, words), *ON_CPU, "--out", str(out / name)])
        assert code == 0, name
        rows = [json.loads(line) for line in (out / name / "metrics.jsonl").read_text().splitlines()]
        series = {metric: [row[metric] for row in rows if metric in row] for metric in WATCHED}
        found[name] = {metric: values for metric, values in series.items() if values}
    return found
