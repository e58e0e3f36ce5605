"""What reward and dpo share: comparisons read, fitted to rows and split; how long to train; what a run depends on."""

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from pronk.commands.training import FREE, check_length, check_numbers, digest
from pronk.config import flag
from pronk.data.files import expand
from pronk.data.pairs import Pair, encode_pairs
from pronk.data.read import Skipped, comparisons
from pronk.errors import UserError
from pronk.folders.swap import standing
from pronk.learn.build import TrainConfig
from pronk.learn.optim import OptimConfig
from pronk.learn.run import flat
from pronk.models.config import ModelConfig
from pronk.text.tokenizer import Tokenizer

# Least and greatest; the greatest itself is out of range.
RANGES = {"epochs": (0.0, math.inf), "smoothing": (0.0, 0.5), "margin": (0.0, math.inf), "ensemble": (1, math.inf)}


class Settings(Protocol):
    """What reward's and dpo's configs have in common."""

    @property
    def model(self) -> str: ...
    @property
    def data(self) -> tuple[str, ...]: ...
    @property
    def out(self) -> str: ...
    @property
    def strict(self) -> bool: ...
    @property
    def epochs(self) -> float: ...
    @property
    def optim(self) -> OptimConfig: ...
    @property
    def train(self) -> TrainConfig: ...


def check(config: Settings, name: str) -> None:
    """Refuse numbers that no run can go by."""
    if "RANK" in os.environ:
        raise UserError(f"pronk {name} runs in one process for now: start it without torchrun")
    check_numbers(config)
    for key, (least, most) in RANGES.items():
        value = flat(config).get(key, least)
        if not least <= value < most:
            up_to = f" and below {most}" if most < math.inf else ""
            raise UserError(f"{flag(key)} {value}: give a number of at least {least}{up_to}")
    if not config.data:
        raise UserError("there is nothing to learn from: name comparisons with --data")


def read_pairs(config: Settings, name: str, tokenizer: Tokenizer, shape: ModelConfig) -> list[Pair]:
    """The comparisons of --data in rows of --train.length, told what could not be used."""
    check_length(config.train.length, shape)
    skipped = Skipped()
    found = list(comparisons(config.data, config.strict, skipped))
    fitted = encode_pairs(tokenizer, found, config.train.length)
    for line in [*(f"skipped {line}" for line in skipped.report()), *fitted.lines(config.train.length)]:
        print(f"{name}: {line}", flush=True)
    if not fitted.pairs:
        raise UserError(f"no comparison is left: set --train.length to more than {config.train.length}")
    return fitted.pairs


def planned(config: Settings, pairs: int) -> TrainConfig:
    """The training settings with the steps that --epochs asks for; where it is 0, --train.steps stands."""
    if not config.epochs:
        return config.train
    return replace(config.train, steps=max(1, math.ceil(config.epochs * pairs / config.train.batch)))


def tokens_a_step(pairs: Sequence[Pair], batch: int) -> int:
    """Tokens of a step without padding, on average."""
    return round(batch * sum(len(p.chosen[0]) + len(p.rejected[0]) for p in pairs) / len(pairs))


def settings(config: Settings) -> dict[str, Any]:
    """What decides the run's numbers: a run that goes on must have the same."""
    weights = sorted(standing(Path(config.model)).glob("*.safetensors"))
    files = [path for path in map(Path, expand(config.data)) if path.exists()]
    known = flat(config, (*(name for name in FREE if name != "train.batch"), "show"))  # the batch decides the pairs
    return known | {"weights of --model": digest(*weights), "contents of --data": digest(*files)}
