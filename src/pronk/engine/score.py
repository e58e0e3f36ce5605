"""Scores of whole rows of ids under a reward model; the text, the template and the model's folder are others'."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pronk.models.build import eager
from pronk.models.heads import Output, Scorer

MULTIPLE = 8  # rows are padded to a multiple of so many tokens: fewer shapes


@torch.no_grad()
def score_rows(
    scorer: Scorer,
    rows: Sequence[Sequence[int]],
    tokens: int = 8192,
    compute: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> list[float]:
    """The value at the last token of each row, in the rows' order; dropout off.

    A row is a whole conversation through the chat template: `encode_chat(tokenizer, messages)[0]`, which ends with
    the end of the assistant's turn; or prompt ids + sampled ids. Rows of like length share a forward of about `tokens`
    tokens, padded on the right, where no real token can see the padding: a row's score depends on that row alone.
    compute: the context of forwards, such as `learner.compute`.
    """
    if not all(len(row) for row in rows):
        raise ValueError("an empty row has no last token to score")
    device, was_training = next(scorer.parameters()).device, scorer.training
    scorer.eval()
    scores = torch.zeros(len(rows), device=device)
    for group in groups([len(row) for row in rows], tokens):
        padded, last = pad_right([rows[i] for i in group])
        with eager(scorer), compute():
            output: Output = scorer(padded.to(device))
        assert output.values is not None
        found = output.values.gather(1, last.to(device)[:, None])[:, 0]
        scores[torch.tensor(group, device=device)] = found.float()
    scorer.train(was_training)
    return scores.tolist()


def groups(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Indices, shortest rows first, in groups whose padded size stays within `tokens` where one row allows it."""
    group: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if group and (len(group) + 1) * _up(lengths[index]) > tokens:
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def pad_right(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids [B, T], filled up with 0 (any id does: nothing sees it), and the place of each row's last token [B]."""
    T = _up(max(len(row) for row in rows))
    padded = np.array([[*row, *([0] * (T - len(row)))] for row in rows], np.int64)  # reads lists faster than torch
    return torch.from_numpy(padded), torch.tensor([len(row) - 1 for row in rows])


def _up(length: int) -> int:
    return -(-length // MULTIPLE) * MULTIPLE
