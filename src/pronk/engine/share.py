"""A room on a CPU whose rows are shared among the cores: each steps its own in TorchScript, which frees Python."""

import functools
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, pairwise
from typing import cast

import torch
from torch import Tensor

from pronk.engine.rows import Columns, choose
from pronk.engine.sampler import Use
from pronk.engine.step import Room
from pronk.engine.twin import Twin, TwinState
from pronk.engine.twin_step import Weights, hidden, homes, plain, views

LEAST = 8  # rows for a core
SMALL = 1 << 24  # parameters: the caches hold few of more, and each core reads them all
ALONE = 1 << 23  # parameters times rows up to which one core is not slower than all on the same operators


def advance(w: Weights, memory: Tensor, rows: Columns, start: int, spans: list[int], use: Use) -> None:
    """As step.decode without biases, once for each span, of rows that begin at the memory's row `start`."""
    end = start + rows.tokens.shape[0]
    kept, begin = views(memory, start, end), homes(memory, torch.arange(start, end))
    for span in spans:
        x = hidden(w, kept, begin, rows.tokens, rows.positions, span)
        choose(rows, plain(x, w.head, None, w.few), use)


@functools.cache
def scripted() -> Callable[..., None]:
    """`advance` as TorchScript runs it: several threads at a time, where Python runs one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # nothing else in torch frees Python from a whole step
        return cast(Callable[..., None], torch.jit.script(advance))


def shares(model: object) -> bool:
    """Whether a model's rows are worth sharing: a small one's, of which the cores' caches hold the weights. Python 3.14
    has no TorchScript."""
    return isinstance(model, Twin) and model.size <= SMALL and sys.version_info < (3, 14)


@dataclass
class SharedRoom(Room):
    """Rows of a twin. All cores' work on one operator would stop and start a hundred times a step, for operators of
    20 microseconds; on rows of their own they meet once. Each works with one thread."""

    stopping: int = 4  # to meet and look takes a fifth of a step
    crew: ThreadPoolExecutor | None = field(default=None, repr=False)
    threads: int = 1

    def steady(self) -> AbstractContextManager[None]:
        """One thread for all that is small. OpenMP's other threads keep looking for work for milliseconds after each
        operator that they shared, on the cores that the crew needs."""
        self.threads = torch.get_num_threads()
        return _threads(1)

    def steps(self, live: int, spans: Sequence[int], use: Use) -> None:
        parts = min(self.threads, live // LEAST)
        if parts < 2 or use.adjust:
            with _threads(self._fitting(live)), torch.inference_mode():
                super().steps(live, spans, use)
            return
        borders = pairwise(live * number // parts for number in range(parts + 1))
        # Rows are cut here, before any part runs: threads that slice in Python stop each other.
        self._together([partial(self._part, self.rows.part(a, b), a, spans, use) for a, b in borders])

    @torch.inference_mode()
    def _part(self, rows: Columns, start: int, spans: Sequence[int], use: Use) -> None:
        twin, state = cast(Twin, self.model), cast(TwinState, self.state)
        # There is nothing to gain by its optimizer, which makes the first calls slow.
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            scripted()(twin.weights, state.memory, rows, start, list(spans), use)

    def _take_in(self, ids: Sequence[Sequence[int]], row: int, starts: Sequence[int]) -> None:
        ends = list(accumulate(map(len, ids), initial=0))  # of each prompt, in tokens
        parts = min(self.threads, len(ids))
        if parts < 2 or ends[-1] < LEAST * parts:
            with _threads(self._fitting(ends[-1])):
                super()._take_in(ids, row, starts)
            return
        shares = (ends[-1] * number / parts for number in range(parts + 1))
        borders = pairwise(min(range(len(ends)), key=lambda i: abs(ends[i] - share)) for share in shares)
        take_in = super()._take_in
        self._together([partial(take_in, ids[a:b], row + a, starts[a:b]) for a, b in borders if a < b])

    def _fitting(self, rows: int) -> int:
        """Threads for operators on so many tokens at once."""
        return 1 if rows * cast(Twin, self.model).size <= ALONE else self.threads

    def _together(self, parts: Sequence[Callable[[], None]]) -> None:
        """Each part on a core of its own."""
        if self.crew is None:
            scripted()  # compiled by one thread
            self.crew = ThreadPoolExecutor(self.threads - 1, "pronk-rows", _one_thread)
        waiting = [self.crew.submit(part) for part in parts[1:]]
        parts[0]()
        for part in waiting:
            part.result()


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """That many threads for operators called in here, from this thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _one_thread() -> None:
    torch.get_num_threads()  # first: it sets the thread's number to the process's, once
    torch.set_num_threads(1)
