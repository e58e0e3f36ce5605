"""Rewards from the command line's words, for all that score answers; a user's own errors are told as theirs."""

import math
import os
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

from pronk.data.records import Message, Sample
from pronk.errors import UserError
from pronk.rl.minilm import Compute
from pronk.rl.rewards import Given, Reward, each, named
from pronk.tasks.table import TASKS
from pronk.text.chat import encode_chat

GRADES: dict[str, Reward] = {f"task:{name}": each(task.grade) for name, task in TASKS.items()}


def rewards(
    words: Sequence[str], text: str, compute: Compute = nullcontext, device: torch.device | str = "cpu"
) -> dict[str, tuple[float, Reward]]:
    """The rewards by short names, with their weights. device: of reward models."""
    found = {}
    for word in words:
        with _told_as_theirs(word):
            more = GRADES | opened(word.rpartition("*")[2], compute, device)
            ((name, (weight, reward)),) = named([word], text, compute, more).items()
        short = Path(name).name
        found[name if short in found else short] = weight, _guarded(word, reward)
    return found or named([], text)


def opened(word: str, compute: Compute, device: torch.device | str) -> dict[str, Reward]:
    """What must be opened first: model:FOLDER is a reward model, judge:http://HOST:PORT (and #model) a judge."""
    kind, _, place = word.partition(":")
    if kind == "model":
        return {word: by_model(place, compute, device)}
    if kind == "judge":
        from pronk.engine.client import Client
        from pronk.rl.judge import judge

        url, _, model = place.partition("#")
        return {word: judge(Client(url, model or None, os.environ.get("JUDGE_API_KEY")))}
    return {}


def by_model(folder: str, compute: Compute, device: torch.device | str) -> Reward:
    """The score of prompt and answer, as the reward model's own template writes them."""
    from pronk.engine.score import score_rows
    from pronk.folders.huggingface import load_scorer

    scorer, tokenizer = load_scorer(folder, device)

    def reward(samples: list[Sample]) -> list[float]:
        said = [[*sample.prompt.messages, Message("assistant", sample.text)] for sample in samples]
        return score_rows(scorer, [encode_chat(tokenizer, one)[0] for one in said], compute=compute)

    return reward


def _guarded(word: str, reward: Reward) -> Reward:
    def guarded(samples: list[Sample]) -> Sequence[Given]:
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


def total(parts: Mapping[str, tuple[float, Reward]], samples: list[Sample]) -> list[float]:
    """One score a sample: the weighted sum of its rewards, those of tokens added up."""
    scores = [0.0] * len(samples)
    for name, (weight, reward) in parts.items():
        found = reward(samples)
        if len(found) != len(samples):
            raise UserError(f"reward {name} returned {len(found)} values for {len(samples)} samples")
        for place, value in enumerate(found):
            try:
                tokens = value if isinstance(value, list) else [float(value)]
                scores[place] += weight * sum(token for token in tokens if token is not None)
            except (TypeError, ValueError):
                raise UserError(f"reward {name}: give one number a sample, or a list of them, not {value!r}") from None
    if not all(map(math.isfinite, scores)):
        raise UserError("a reward is not a finite number: mend it, or sort such answers out with a low number")
    return scores
