"""Pads ragged lists of ids to batches, as pure functions; leaves records to encode.py and packed rows to loader.py."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pronk.data.batch import IGNORE, Batch, Pairs

Masked = tuple[Sequence[int], Sequence[bool]]  # ids, and which of them are learned


def pad_conversations(items: Sequence[Masked], pad: int, multiple: int = 8, length: int | None = None) -> Batch:
    """One conversation a row: tokens and targets [B, T], targets IGNORE where not learned and in padding.

    T: the longest but one token, rounded up to a multiple. length: what is longer loses its end.
    """
    tokens, targets = _pad([_shift(ids, mask, length) for ids, mask in items], pad, multiple)
    return Batch(tokens, targets)


def pad_pairs(items: Sequence[tuple[Masked, Masked]], pad: int, multiple: int = 8, length: int | None = None) -> Pairs:
    """Comparisons as [B, 2, T], the chosen first; targets are the masks' True tokens: the answers with their ends."""
    both = [side for pair in items for side in pair]
    tokens, targets = _pad([_shift(ids, mask, length) for ids, mask in both], pad, multiple)
    return Pairs(tokens.view(len(items), 2, -1), targets.view(len(items), 2, -1))


def pad_scored(items: Sequence[tuple[Sequence[int], Sequence[int]]], pad: int, multiple: int = 8) -> Pairs:
    """Whole conversations as [B, 2, T], the chosen first, and the place of each one's last token; nothing is learned
    token by token, so every target is IGNORE."""
    both = [list(ids) for pair in items for ids in pair]
    tokens, targets = _pad([(ids, [IGNORE] * len(ids)) for ids in both], pad, multiple)
    last = torch.tensor([len(ids) - 1 for ids in both])
    return Pairs(tokens.view(len(items), 2, -1), targets.view(len(items), 2, -1), last=last.view(-1, 2))


def pad_rollouts(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], pad: int, multiple: int = 8
) -> tuple[Tensor, Tensor]:
    """Sampled ids as (tokens, targets), both [B, T]: prompt + response without its last token, targets the response.

    The log-probability of response token j stands at position len(prompt) - 1 + j: see pad_values. The ids are used as
    they were sampled, never re-encoded.
    """
    rows = [
        ([*prompt, *response[:-1]], [*[IGNORE] * (len(prompt) - 1), *response])
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    return _pad(rows, pad, multiple)


def pad_values(prompts: Sequence[Sequence[int]], values: Sequence[Sequence[float]], width: int) -> Tensor:
    """One value a response token, [B, width] float32, aligned with pad_rollouts' targets; 0 elsewhere."""
    if any(len(prompt) + len(one) - 1 > width for prompt, one in zip(prompts, values, strict=True)):
        raise ValueError(f"values reach beyond the width of {width}")
    starts = np.array([len(prompt) - 1 for prompt in prompts], dtype=np.int64)
    return torch.from_numpy(_ragged(values, width, 0.0, np.float32, starts))


def _shift(ids: Sequence[int], mask: Sequence[bool], length: int | None) -> tuple[list[int], list[int]]:
    """Inputs and the tokens that follow them, IGNORE where those are not learned."""
    assert len(ids) == len(mask) and len(ids) > 1
    stop = len(ids) if length is None else min(len(ids), length + 1)
    following = [i if learned else IGNORE for i, learned in zip(ids[1:stop], mask[1:stop])]
    return list(ids[: stop - 1]), following


def _pad(rows: Sequence[tuple[list[int], list[int]]], pad: int, multiple: int) -> tuple[Tensor, Tensor]:
    longest = max(len(inputs) for inputs, _ in rows)
    T = -(-longest // multiple) * multiple
    tokens = _ragged([inputs for inputs, _ in rows], T, pad, np.int64)
    targets = _ragged([following for _, following in rows], T, IGNORE, np.int64)
    return torch.from_numpy(tokens), torch.from_numpy(targets)


def _ragged(
    rows: Sequence[Sequence[float]], width: int, rest: float, dtype: type[np.generic], starts: Any = 0
) -> np.ndarray[Any, Any]:
    """Rows of unequal lengths as [N, width], each from its place in `starts` on, and `rest` around them.

    All numbers go in by one assignment: a tensor made of nested lists, or one a row, takes several times as long.
    """
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    columns = np.arange(width) - np.broadcast_to(starts, len(rows))[:, None]
    padded = np.full((len(rows), width), rest, dtype)
    padded[(columns >= 0) & (columns < lengths[:, None])] = np.fromiter(chain.from_iterable(rows), dtype, lengths.sum())
    return padded
