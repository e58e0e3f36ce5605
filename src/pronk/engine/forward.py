"""The engine's two forwards of any model, as plain as can be: prompts into a state, and one token for each row."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pronk.models.state import State

PREFILL = 8192  # prompt tokens in one forward, padding included
NOWHERE = -1  # position of padding and of a row that has ended; no token id either
Model = Callable[..., Any]


def prefill(
    model: Model,
    prompts: Sequence[Sequence[int]],
    rows: range,
    starts: Sequence[int],
    state: State,
    device: torch.device,
    most: int = PREFILL,
) -> None:
    """Forward ids, shortest first, into rows at the positions from `starts` on: all zeros, or a single prompt.

    As many in a forward as `most` allows with all padded to the longest.
    """
    while prompts:
        size = next((n for n in range(len(prompts), 1, -1) if n * len(prompts[n - 1]) <= most), 1)
        width = max(1, len(prompts[size - 1]))
        tokens = torch.zeros(size, width, dtype=torch.int64)
        positions = torch.full((size, width), NOWHERE)
        for row, (prompt, start) in enumerate(zip(prompts[:size], starts)):
            tokens[row, : len(prompt)] = torch.tensor(prompt, dtype=torch.int64)
            positions[row, : len(prompt)] = torch.arange(start, start + len(prompt))
        part = state.select(slice(rows[0], rows[0] + size), starts[0] + width, fresh=starts[0] == 0)
        model(tokens.to(device), positions=positions.to(device), state=part)
        prompts, rows, starts = prompts[size:], rows[size:], starts[size:]


def next_logits(model: Model, tokens: Tensor, positions: Tensor, state: State, span: int) -> Tensor:
    """Logits [R, V] of what follows one token for each of the state's first R rows, [R, 1] both."""
    output = model(tokens, positions=positions, state=state.select(slice(0, len(tokens)), span))
    logits: Tensor = output.head(output.hidden[:, 0])
    return logits
