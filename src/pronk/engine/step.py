"""One token for every live row: model, rules, draw, bookkeeping; on tensors that stay, so a CUDA graph can hold it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from pronk.engine.rows import BLOCK, NOWHERE, Rows
from pronk.engine.sampler import Use, distribution, sample
from pronk.engine.twin import Twin
from pronk.models.build import Model
from pronk.models.state import State

PREFILL = 8192  # prompt tokens in one forward, padding included
EVERYTHING = Use(top_k=True, top_p=True, min_p=True, penalty=True)


@torch.no_grad()
def decode(model: Model | Twin, state: State, rows: Rows, live: int, span: int, use: Use) -> None:
    """Feed the first `live` rows their token and write the next one beside its log-probability. Never asks the host.

    span: columns of the state that are in use. Rows at position NOWHERE stay as they are.
    """
    tokens, positions = rows.tokens[:live], rows.positions[:live]  # [R, 1]
    rules = rows.rules(live)
    output = model(tokens, positions=positions, state=state.select(slice(0, live), span))
    logits = output.head(output.hidden[:, 0]).float()  # [R, V]
    if use.adjust and rows.adjusting is not None:
        logits = rows.adjusting.apply(logits, tokens, positions)
    logps = distribution(logits, rules, use, None if rows.seen is None else rows.seen[:live])
    places = positions + 1
    uniforms = rows.random[:live].gather(1, places % BLOCK)
    picked, chosen = sample(logps, rules.temperature, uniforms, use)

    alive = positions >= 0
    written = torch.where(alive, places, rows.length)
    rows.ids[:live].scatter_(1, written, picked)
    rows.logps[:live].scatter_(1, written, chosen)
    if use.penalty and rows.seen is not None:
        rows.seen[:live].scatter_(1, picked, True)
    ends = (picked == rows.stops[:live]).any(1, keepdim=True) | (places >= rows.lasts[:live])
    rows.done[:live] |= ends & alive
    tokens.copy_(torch.where(alive, picked, tokens))
    positions.copy_(torch.where(alive & ~ends, places, NOWHERE))


def padded(
    model: Model | Twin, state: State, prompts: Sequence[Sequence[int]], start: int, device: torch.device
) -> None:
    """Prefill prompts, shortest first, as many in a forward as PREFILL allows with all padded to the longest."""
    while prompts:
        size = next((n for n in range(len(prompts), 1, -1) if n * len(prompts[n - 1]) <= PREFILL), 1)
        group, prompts = prompts[:size], prompts[size:]
        width = max(1, len(group[-1]) - 1)
        tokens = torch.zeros(size, width, dtype=torch.int64)
        positions = torch.full((size, width), NOWHERE)
        for row, prompt in enumerate(group):
            tokens[row, : len(prompt) - 1] = torch.tensor(prompt[:-1], dtype=torch.int64)
            positions[row, : len(prompt) - 1] = torch.arange(len(prompt) - 1)
        part = state.select(slice(start, start + size), width, fresh=True)
        model(tokens.to(device), positions=positions.to(device), state=part)
        start += size


@dataclass
class Room:
    """Memory for one run of the engine: the state of `rows.slots` rows and a spare one, and the rows' columns."""

    model: Model | Twin
    state: State
    rows: Rows
    every: int = 1  # steps between two looks at who ended: on a GPU a look costs more than a wasted token

    def decode(self, live: int, span: int, use: Use) -> None:
        """A token for each of the first `live` rows."""
        decode(self.model, self.state, self.rows, live, span, use)

    def refill(self, live: int) -> None:
        """Random numbers for the next BLOCK tokens of the first `live` rows."""
        self.rows.refill(slice(0, live))

    def prefill(self, prompts: Sequence[Sequence[int]], start: int) -> None:
        """Forward all but the last token of each prompt into the rows from `start` on; prompts shortest first."""
        padded(self.model, self.state, prompts, start, self.rows.device)

    def extend(self, ids: Sequence[int], row: int, start: int) -> None:
        """Forward ids at the positions from `start` on into a row that holds those before."""
        end = start + len(ids)
        tokens = torch.tensor([ids], dtype=torch.int64, device=self.rows.device)
        positions = torch.arange(start, end, device=self.rows.device)[None]
        state = self.state.select(slice(row, row + 1), end, fresh=start == 0)
        self.model(tokens, positions=positions, state=state)


@dataclass
class GraphRoom(Room):
    """A room whose steps are CUDA graphs: one for each bucket of rows and span, without filters and with all of them.

    Weights may change in place between replays; tensors may not be replaced.
    """

    every: int = 8
    graphs: dict[tuple[int, int, bool], "Replay"] = field(default_factory=dict)

    def decode(self, live: int, span: int, use: Use) -> None:
        rows = min(_dense(live), self.rows.slots)
        span = min(_bucket(span, 128), self.rows.length)
        if use.filtered:
            self.rows.watch()
        key = (rows, span, use.filtered)
        if key not in self.graphs:
            self.graphs[key] = self.capture(*key)
        self.graphs[key].replay()

    def capture(self, live: int, span: int, filtered: bool) -> "Replay":
        """Record a step of this many rows."""
        use = EVERYTHING if filtered else Use()
        pool = next((graph.pool() for graph in self.graphs.values()), None)
        with self.idle():
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # libraries pick their kernels and make their workspaces
                for _ in range(3):
                    decode(self.model, self.state, self.rows, live, span, use)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                decode(self.model, self.state, self.rows, live, span, use)
        return graph

    @contextmanager
    def idle(self) -> Iterator[None]:
        """Steps in here change nothing that is read after it: every row stands at NOWHERE meanwhile."""
        rows = self.rows
        places, seen = rows.positions.clone(), None if rows.seen is None else rows.seen.clone()
        rows.positions.fill_(NOWHERE)
        yield
        rows.positions.copy_(places)
        if rows.seen is not None and seen is not None:
            rows.seen.copy_(seen)


class Replay(Protocol):
    """What a graph room keeps of a captured step: a torch.cuda.CUDAGraph."""

    def replay(self) -> None: ...
    def pool(self) -> Any: ...


def _dense(rows: int) -> int:
    """The next of 1, 2, 4, 8, then steps of an eighth to a quarter: little work for rows that nobody is in."""
    size = 1 << (rows - 1).bit_length()
    step = max(8, size // 8)
    return size if size <= 8 else -(-rows // step) * step


def _bucket(number: int, least: int) -> int:
    """The next power of two."""
    return max(least, 1 << (number - 1).bit_length())
