"""Which tokens stand in which row: the endless order of rows as pure plans of segments; loader.py copies the tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pronk.data.shards import Shards

LOOKAHEAD = 64  # documents among which the best fit is sought
BLOCK = 4096  # draws of a source made at once


class Segment(NamedTuple):
    """Inputs tokens[start:stop] of a source's stream, targets one token on: of one document, or a window."""

    source: int
    start: int
    stop: int


Row = list[Segment]  # at most `length` inputs in all; empty: the plan is at its end


@dataclass
class Cursor:
    """Where a plan stands, as plain numbers; with the shards and the seed it decides every later row."""

    rows: int = 0  # planned so far, over all ranks
    drawn: int = 0  # documents drawn so far
    taken: list[int] = field(default_factory=list)  # of them, from each source
    pending: list[Segment] = field(default_factory=list)  # drawn, but in no row yet (or not all of it)
    truncated: int = 0  # documents cut to the length under fill "whole"


def raw(count: int, *key: int) -> NDArray[np.uint64]:
    """Random 64-bit numbers that depend on the key alone (Philox 4×64, whose stream no numpy release changes)."""
    seeds = np.random.SeedSequence(key).generate_state(2, np.uint64)
    return np.asarray(np.random.Philox(key=seeds).random_raw(count), dtype=np.uint64)


def uniform(count: int, *key: int) -> NDArray[np.float64]:
    """Numbers in [0, 1), 53 bits each."""
    return (raw(count, *key) >> np.uint64(11)) / float(1 << 53)


class Packed:
    """Documents in a new order each epoch, packed into rows; segments never hold two documents.

    fill "split": rows are full; a document that does not fit goes on in the next row, beginning with the input that
    was the last target before the cut, so every token but a document's first is a target exactly once an epoch.
    fill "whole": documents stay whole, the largest that fits next among a few, the one that waits longest first;
    longer ones lose their end. Sources are drawn document by document so that weights are shares of tokens.
    """

    def __init__(
        self,
        shards: Sequence[Shards],
        length: int,
        seed: int,
        fill: Literal["split", "whole"] = "split",
        weights: Sequence[float] | None = None,
        epochs: int | None = None,
        shuffle: bool = True,
    ) -> None:
        self.length, self.seed, self.fill, self.shuffle = length, seed, fill, shuffle
        self.offsets = [one.offsets for one in shards]
        self.usable = [np.flatnonzero(np.diff(one) > 1) for one in self.offsets]  # one token alone has no target
        counts = [len(usable) for usable in self.usable]
        self.last = None if epochs is None else epochs * sum(counts)
        self.borders = _borders(shards, counts, weights)
        self.cursor = Cursor(taken=[0] * len(shards))
        self._orders: dict[int, tuple[int, NDArray[Any]]] = {}  # source: its epoch and the order in it
        self._sources: tuple[int, NDArray[Any]] = (-1, np.zeros(0, np.int64))

    def next_row(self) -> Row:
        row = self._split_row() if self.fill == "split" else self._whole_row()
        self.cursor.rows += 1
        return row

    def _split_row(self) -> Row:
        row: Row = []
        room = self.length
        while room and self._draw_until(1):
            source, start, stop = self.cursor.pending.pop()
            cut = min(stop, start + room)
            row.append(Segment(source, start, cut))
            room -= cut - start
            if cut < stop:
                self.cursor.pending.append(Segment(source, cut, stop))
        return row

    def _whole_row(self) -> Row:
        row: Row = []
        room = self.length
        while room and self._draw_until(LOOKAHEAD):
            pick = self._best(room) if row else 0
            if pick is None:
                break
            source, start, stop = self.cursor.pending.pop(pick)
            cut = min(stop, start + self.length)
            self.cursor.truncated += cut < stop
            row.append(Segment(source, start, cut))
            room -= cut - start
        return row

    def _best(self, room: int) -> int | None:
        """The place among the pending of the longest document that fits, the earliest of equals."""
        sizes = [(segment.stop - segment.start, -i) for i, segment in enumerate(self.cursor.pending)]
        best = max((one for one in sizes if one[0] <= room), default=None)
        return None if best is None else -best[1]

    def _draw_until(self, count: int) -> bool:
        """Fill the pending up to this many documents; false if none is left."""
        cursor = self.cursor
        while len(cursor.pending) < count and (self.last is None or cursor.drawn < self.last):
            source = self._source(cursor.drawn)
            place = self._order(source, cursor.taken[source])
            start, stop = self.offsets[source][place : place + 2].tolist()
            cursor.pending.append(Segment(source, start, stop - 1))
            cursor.drawn += 1
            cursor.taken[source] += 1
        return bool(cursor.pending)

    def _source(self, draw: int) -> int:
        if len(self.borders) == 1:
            return 0
        block, place = divmod(draw, BLOCK)
        if self._sources[0] != block:
            self._sources = block, np.searchsorted(self.borders, uniform(BLOCK, self.seed, 0, block), side="right")
        return int(self._sources[1][place])

    def _order(self, source: int, taken: int) -> int:
        """The document that this source gives after so many; each epoch has its own permutation."""
        usable = self.usable[source]
        epoch, place = divmod(taken, len(usable))
        if not self.shuffle:
            return int(usable[place])
        if self._orders.get(source, (-1,))[0] != epoch:
            order = np.argsort(raw(len(usable), self.seed, 1, source, epoch), kind="stable")
            self._orders[source] = epoch, usable[order]
        return int(self._orders[source][1][place])


class Windows:
    """Random windows of `length` inputs over the token stream; row i depends on the seed and i alone."""

    def __init__(
        self, shards: Sequence[Shards], length: int, seed: int, weights: Sequence[float] | None, epochs: int | None
    ) -> None:
        self.length, self.seed = length, seed
        self.spans = [len(one.tokens) - length for one in shards]  # how many places a window can start at
        self.last = None if epochs is None else epochs * (sum(len(one.tokens) - 1 for one in shards) // length)
        self.borders = _borders(shards, [1] * len(shards), weights, by_tokens=False)
        self.cursor = Cursor()

    def next_row(self) -> Row:
        row = self.cursor.rows
        self.cursor.rows += 1
        if self.last is not None and row >= self.last:
            return []
        which, where = raw(2, self.seed, 2, row).tolist()
        source = int(np.searchsorted(self.borders, which / 2.0**64, side="right"))
        start = where % self.spans[source]
        return [Segment(source, start, start + self.length)]


class Consecutive:
    """Windows one after the other: every token but the very first is a target exactly once."""

    def __init__(self, shards: Shards, length: int) -> None:
        self.length, self.last = length, len(shards.tokens) - 1
        self.cursor = Cursor()

    def next_row(self) -> Row:
        start = self.cursor.rows * self.length
        self.cursor.rows += 1
        return [Segment(0, start, min(start + self.length, self.last))] if start < self.last else []


Plan = Packed | Windows | Consecutive
Next = Callable[[], Row]


def _borders(
    shards: Sequence[Shards], counts: Sequence[int], weights: Sequence[float] | None, by_tokens: bool = True
) -> NDArray[np.float64]:
    """Where the unit interval is cut for drawing a source. Without weights, each source has its share of all tokens.

    counts: documents of each. by_tokens: draws are documents, so a share is divided by the tokens of one.
    """
    sizes = np.array([len(one.tokens) for one in shards], dtype=np.float64)
    shares = sizes if weights is None else np.asarray(weights, dtype=np.float64)
    draws = shares / (sizes / np.asarray(counts)) if by_tokens else shares
    borders: NDArray[np.float64] = np.cumsum(draws / draws.sum())
    borders[-1] = 1.0
    return borders
