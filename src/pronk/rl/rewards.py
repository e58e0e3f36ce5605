"""Rewards: batched functions from samples to a score each, or to a score for each response token."""

import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pronk.data.collate import pad_values
from pronk.data.records import Sample
from pronk.errors import UserError
from pronk.rl.advantages import place_scores
from pronk.rl.minilm import Compute, minilm
from pronk.world import annotators, check

Given = float | list[float] | list[float | None]  # of an answer, or of each of its tokens; None = it is not judged
Reward = Callable[[list[Sample]], Sequence[Given]]


def copied() -> Reward:
    """For each token 1 while the answer spells the prompt's last message, letter by letter from its beginning, and 1
    more for the end token in the right place: for tokenizers of one character a token (word copying).

    The first wrong token gets 0 and ends the play: what is said after it is not judged.
    """

    def score(sample: Sample) -> list[float | None]:
        length = len(sample.prompt.messages[-1].content)
        word = sample.prompt_ids[-length - 1 : -1]  # before the token that opens the answer
        right = next(
            (i for i, pair in enumerate(zip(word, sample.ids)) if pair[0] != pair[1]), min(length, len(sample.ids))
        )
        ended = right == length and sample.finish == "stop" and len(sample.ids) == length + 1
        given: list[float | None] = [*[1.0] * (right + ended), 0.0, *[None] * len(sample.ids)]
        return given[: len(sample.ids)]

    return each(score)


def each(score: Callable[[Sample], Given]) -> Reward:
    """Lift a function of one sample to a batched reward."""
    return lambda samples: [score(sample) for sample in samples]


def subject(kind: str = "cat") -> Reward:
    """1 where the story's hero is of this kind, or of the kind that the prompt's meta names; else 0."""
    return each(lambda sample: check.is_about(sample.text, sample.prompt.meta.get("kind") or kind))


def well_formed() -> Reward:
    """1 where the story world's checker finds nothing wrong and the answer ended by itself; else 0."""
    return each(lambda sample: sample.finish == "stop" and check.well_formed(sample.text))


def utility() -> Reward:
    """What the simulated annotators' shared taste says a story is worth: the truth behind their comparisons."""
    return each(lambda sample: annotators.utility(sample.prompt.messages[-1].content, sample.text))


def similarity(text: str = "cat", encode: Callable[[list[str]], Any] | None = None) -> Reward:
    """Cosine of sentence embeddings of the answer and of `text`, or of the kind that the prompt's meta names
    (all-MiniLM-L6-v2 from the [embed] extra)."""
    encode = encode or minilm()
    targets = {text: encode([text])[0]}

    def reward(samples: list[Sample]) -> list[float]:
        wanted = [sample.prompt.meta.get("kind") or text for sample in samples]
        for word in {*wanted} - targets.keys():
            targets[word] = encode([word])[0]
        rows = encode([sample.text for sample in samples])
        return [float(row @ targets[word]) for row, word in zip(rows, wanted)]

    return reward


def from_file(where: str) -> Reward:
    """A reward from the user's own file, 'my_rewards.py:funny': a function of one sample or of a list of them.

    A function whose first parameter is named `samples` is batched; any other is called with one Sample at a time.
    """
    path, _, name = where.rpartition(":")
    if not path or not Path(path).is_file():
        raise UserError(f"--reward {where}: no such file; write it as my_rewards.py:function")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError(f"--reward {where}: {path} has no function '{name}'")
    batched = next(iter(inspect.signature(function).parameters), "") == "samples"
    return function if batched else each(function)


def placed(name: str, found: Sequence[Given], samples: list[Sample], mask: Tensor) -> tuple[Tensor, Tensor]:
    """Rewards as given, a number (on the last token) or a list (one a token) for each sample, as [B, T] beside mask;
    and the mask of the tokens that are judged."""
    wrong = f"reward {name}: give one number a sample, or a list of one number for each of its tokens"
    if len(found) != len(samples):
        raise UserError(f"reward {name} returned {len(found)} values for {len(samples)} samples")
    rows = [value for value in found if isinstance(value, list)]
    if not rows:
        try:
            scores = [float(value) for value in found]  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise UserError(wrong) from None
        return place_scores(torch.tensor(scores, dtype=mask.dtype), mask), mask
    if len(rows) < len(found) or any(len(row) != len(sample.ids) for row, sample in zip(rows, samples)):
        raise UserError(wrong)
    prompts, width = [sample.prompt_ids for sample in samples], mask.shape[1]
    given = pad_values(prompts, [[value or 0.0 for value in row] for row in rows], width)
    return given, pad_values(prompts, [[float(value is not None) for value in row] for row in rows], width)


REWARDS: dict[str, Callable[[str, Compute], Reward]] = {
    "subject": lambda text, compute: subject(text),
    "well-formed": lambda text, compute: well_formed(),
    "copied": lambda text, compute: copied(),
    "utility": lambda text, compute: utility(),
    "similarity": lambda text, compute: similarity(text, minilm(compute)),
}


def named(
    words: Sequence[str], text: str, compute: Compute = nullcontext, more: Mapping[str, Reward] = {}
) -> dict[str, tuple[float, Reward]]:
    """Weighted rewards from words such as 'subject', '0.4*well-formed', 'my_rewards.py:funny': {word: (weight, ..)}.

    more: rewards that are not this room's, by name: the grades of tasks.
    """
    rewards: dict[str, tuple[float, Reward]] = {}
    for word in words:
        weight, star, name = word.rpartition("*")
        try:
            factor = float(weight) if star else 1.0
        except ValueError:
            raise UserError(f"--reward {word}: the weight '{weight}' is not a number; write it as 0.5*{name}") from None
        if name in more:
            rewards[name] = factor, more[name]
            continue
        if name not in REWARDS and (":" not in name or name.startswith("task:")):
            known = ", ".join([*REWARDS, *more])
            raise UserError(f"--reward {word}: no such reward; there are {known}, and my_rewards.py:function")
        rewards[name] = (factor, REWARDS[name](text, compute) if name in REWARDS else from_file(name))
    if not rewards:
        raise UserError("--reward is empty: name at least one, for example --reward subject")
    return rewards
