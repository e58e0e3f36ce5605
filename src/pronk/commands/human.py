"""Settings of `pronk demo --human`: people compare the demo's stories on the page, and it learns from their votes."""

from pathlib import Path

from pronk.commands import dpo, feedback
from pronk.feedback.rule import Rule
from pronk.learn.build import TrainConfig
from pronk.learn.optim import OptimConfig

VOTES = 20
SPARE = 5  # pairs more than votes: some turn out the same twice, some are skipped


def comparing(out: Path, seed: int) -> feedback.Config:
    """The tuned model against itself on open requests, until twenty votes are given."""
    return feedback.Config(
        model=(str(out / "sft" / "model"),),
        prompts=str(out / "world" / "prompts.jsonl"),
        out=str(out / "votes"),
        pairs=VOTES + SPARE,
        votes=VOTES,
        max_tokens=144,
        seed=seed,
        pick=Rule(evaluation=0.0, repeat=0.0, seed=seed),
    )


def learning(out: Path, seed: int, length: int) -> dpo.Config:
    """DPO on those votes: gentle, since they are few."""
    return dpo.Config(
        model=str(out / "sft" / "model"),
        data=(str(out / "votes" / "comparisons.jsonl"),),
        out=str(out / "rl"),
        epochs=4.0,
        optim=OptimConfig(lr=1e-4, weight_decay=0.0, schedule="linear"),
        train=TrainConfig(batch=4, length=length, seed=seed, spike=0.0, log_every=1, save_every=0),
    )
