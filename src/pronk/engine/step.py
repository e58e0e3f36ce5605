"""One token for every live row: model, rules, draw, bookkeeping; on tensors that stay, so a CUDA graph can hold it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from pronk.engine.forward import NOWHERE, PREFILL
from pronk.engine.quick import Quick, Runs, Through, run_logits, run_prefill
from pronk.engine.rows import Rows, choose
from pronk.engine.sampler import Use
from pronk.models.state import State

EVERYTHING = Use(top_k=True, top_p=True, min_p=True, penalty=True)


@torch.no_grad()
def decode(model: Runs, state: State, rows: Rows, live: int, span: int, use: Use, fused: bool = False) -> None:
    """Feed the first `live` rows their token and write the next one beside its log-probability. Never asks the host.

    span: columns of the state that are in use. Rows at position NOWHERE stay as they are. fused: sample by Triton
    kernels.
    """
    tokens, positions = rows.tokens[:live], rows.positions[:live]
    logits = run_logits(model, tokens, positions, state, span)
    if use.adjust and rows.adjusting is not None:
        logits = rows.adjusting.apply(logits.float(), tokens, positions)
    if fused:
        from pronk.engine.kernels_sampler import advance

        advance(logits, rows, live, use.filtered)
        return
    choose(rows.part(0, live), logits, use)


@dataclass
class Room:
    """Memory for one run of the engine: the state of `rows.slots` rows and a spare one, and the rows' columns."""

    model: Runs
    state: State
    rows: Rows
    asked: int = 0  # slots wanted, where memory did not allow as many
    fused: bool = False  # sample by Triton kernels
    exact: bool = False  # whatever stands beside a request changes no bit of it, at a price
    every: int = 1  # steps between two looks at who ended: on a GPU a look costs more than a wasted token
    stopping: int = 1  # at least so many where no text is read as it grows

    def __post_init__(self) -> None:
        self.asked = self.asked or self.rows.slots

    def steady(self) -> AbstractContextManager[None]:
        """What holds while a scheduler takes a step."""
        return nullcontext()

    def decode(self, live: int, span: int, use: Use) -> None:
        """A token for each of the first `live` rows."""
        decode(self.model, self.state, self.rows, *self.size(live, span), use, self.fused)

    def steps(self, live: int, spans: Sequence[int], use: Use) -> None:
        """As many tokens for each of the first `live` rows as there are spans."""
        for span in spans:
            self.decode(live, span, use)

    def size(self, live: int, span: int) -> tuple[int, int]:
        """Rows and columns of a step for so many."""
        return (self.rows.slots, self.rows.length) if self.exact else (live, span)

    def refill(self, live: int) -> None:
        """Random numbers for the next BLOCK tokens of the first `live` rows."""
        self.rows.refill(slice(0, live))

    def prefill(self, prompts: Sequence[Sequence[int]], start: int) -> None:
        """Forward all but the last token of each prompt into the rows from `start` on; prompts shortest first."""
        self._take_in([prompt[:-1] for prompt in prompts], start, [0] * len(prompts))

    def extend(self, ids: Sequence[int], row: int, start: int) -> None:
        """Forward ids at the positions from `start` on into a row that holds those before."""
        self._take_in([ids], row, [start])

    def _take_in(self, ids: Sequence[Sequence[int]], row: int, starts: Sequence[int]) -> None:
        rows, most = range(row, row + len(ids)), 1 if self.exact else PREFILL
        run_prefill(self.model, ids, rows, starts, self.state, self.rows.device, most, self._through())

    def _through(self) -> Through | None:
        """What takes in packed prompts; None = the model itself."""
        return None


@dataclass
class GraphRoom(Room):
    """A room whose steps are CUDA graphs: one for each bucket of rows and span, without filters and with all of them.

    Weights may change in place between replays; tensors may not be replaced.
    """

    every: int = 8
    graphs: dict[tuple[int, int, bool], "Replay"] = field(default_factory=dict)
    packs: dict[int, "Pack"] = field(default_factory=dict)

    def decode(self, live: int, span: int, use: Use) -> None:
        if use.adjust:  # rare: not worth a graph
            super().decode(live, span, use)
            return
        rows, span = self.size(live, span)
        filtered = use.filtered or self.exact  # so that a neighbour's filters change nothing
        if filtered:
            self.rows.watch()
        key = (rows, span, filtered)
        if key not in self.graphs:
            self.graphs[key] = self.capture(*key)
        self.graphs[key].replay()

    def size(self, live: int, span: int) -> tuple[int, int]:
        """Rows and columns of the graph that serves so many."""
        if not self.exact:
            live, span = min(_dense(live), self.rows.slots), min(_bucket(span, 128), self.rows.length)
        live, span = super().size(live, span)
        return live, self.model.reach(live, span) if isinstance(self.model, Quick) else span

    def capture(self, live: int, span: int, filtered: bool) -> "Replay":
        """Record a step of this many rows."""
        use = EVERYTHING if filtered else Use()
        with self.idle():
            return self._record(lambda: decode(self.model, self.state, self.rows, live, span, use, self.fused))

    def _record(self, work: Callable[[], None]) -> "Replay":
        """A graph of what `work` does on the GPU; it is done some times."""
        pool = next((graph.pool() for graph in self.graphs.values()), None)
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries pick their kernels and make their workspaces
            for _ in range(3):
                work()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            work()
        return graph

    def _through(self) -> Through | None:
        return self.take_in

    def take_in(self, columns: Tensor, work: Tensor) -> None:
        """Packed prompts by a graph: to launch the kernels of a small model takes longer than to run them."""
        size, device = max(32, _dense(columns.shape[1])), self.rows.device
        if size > PREFILL:
            cast(Quick, self.model).take_in(columns.to(device), work.to(device), self.state)
            return
        if size not in self.packs:
            self.packs[size] = self._capture_pack(size)
        pack = self.packs[size]
        pack.columns.copy_(F.pad(columns, (0, size - columns.shape[1]), value=NOWHERE))
        pack.work.copy_(F.pad(work, (0, 0, 0, len(pack.work) - len(work))))
        pack.graph.replay()

    def _capture_pack(self, size: int) -> "Pack":
        """Record the forward of so many tokens, all of them nobody's meanwhile."""
        columns = torch.full((3, size), NOWHERE, device=self.rows.device)
        work = torch.zeros(size // 64 + self.rows.slots + 2, 3, dtype=torch.int32, device=self.rows.device)
        quick = cast(Quick, self.model)
        return Pack(columns, work, self._record(lambda: quick.take_in(columns, work, self.state)))

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


class Pack(NamedTuple):
    """Memory for packed prompts of up to so many tokens, and the graph that takes them in."""

    columns: Tensor
    work: Tensor
    graph: "Replay"


class Replay(Protocol):
    """What a graph room keeps of a captured step: a torch.cuda.CUDAGraph."""

    def replay(self) -> None: ...
    def pool(self) -> Any: ...


def _dense(rows: int) -> int:
    """The next of 1, 2, 4, 8, then steps of an eighth to a quarter: little work for rows or tokens of nobody."""
    size = 1 << (rows - 1).bit_length()
    step = max(8, size // 8)
    return size if size <= 8 else -(-rows // step) * step


def _bucket(number: int, least: int) -> int:
    """The next power of two."""
    return max(least, 1 << (number - 1).bit_length())
