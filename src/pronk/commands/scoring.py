"""Rewards from the command line's words, for all that score answers; a user's own errors are told as theirs."""

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

from pronk.data.records import Sample
from pronk.errors import UserError
from pronk.rl.rewards import Compute, Reward, each, named
from pronk.tasks.table import TASKS

GRADES: dict[str, Reward] = {f"task:{name}": each(task.grade) for name, task in TASKS.items()}


def rewards(words: Sequence[str], text: str, compute: Compute = nullcontext) -> dict[str, tuple[float, Reward]]:
    """The rewards by short names, with their weights."""
    found = {}
    for word in words:
        with _told_as_theirs(word):
            ((name, (weight, reward)),) = named([word], text, compute, GRADES).items()
        short = Path(name).name
        found[name if short in found else short] = weight, _guarded(word, reward)
    return found or named([], text)


def _guarded(word: str, reward: Reward) -> Reward:
    def guarded(samples: list[Sample]) -> Sequence[float | list[float]]:
        with _told_as_theirs(word):
            return reward(samples)

    return guarded


@contextmanager
def _told_as_theirs(word: str) -> Iterator[None]:
    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if ":" not in word:
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{last.filename}:{last.lineno}: " if not isinstance(error, SyntaxError) else ""
        raise UserError(f"--reward {word}: {where}{type(error).__name__}: {error}") from error
