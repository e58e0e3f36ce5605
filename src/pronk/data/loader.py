"""Hands out batches from shards, resumable under another batch size or rank count; leaves the order to packing.py."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import torch

from pronk.data.batch import IGNORE, Batch
from pronk.data.packing import Consecutive, Cursor, Packed, Plan, Row, Segment, Windows
from pronk.data.shards import Shards
from pronk.errors import UserError

Order = Literal["packed", "windows"]
Fill = Literal["split", "whole"]


class Loader:
    """A source of batches of `batch` rows of `length` tokens for this rank, endless or for so many epochs.

    The rows of all ranks together are one sequence that only shards, length, seed, order, fill and weights decide;
    a global batch is its next batch × world rows, of which rank k takes rows k, k + world, …. The state is where that
    sequence stands, so any batch size and world may go on from it. Orders and fills: packing.py. Rows of "packed"
    carry positions and documents; with several shards every batch says which token is from which (sources).
    epochs: of all documents once (with weights: as many draws as there are documents); the last batch is filled up with
    rows without targets, so that all ranks have the same shapes.
    Raises UserError if the shards cannot fill one row, were made with different tokenizers, or weights do not fit.
    """

    border = True  # it may be saved after any batch

    def __init__(
        self,
        shards: Shards | Sequence[Shards],
        length: int,
        batch: int,
        seed: int = 0,
        order: Order = "packed",
        fill: Fill = "split",
        weights: Sequence[float] | None = None,
        epochs: int | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.shards = [shards] if isinstance(shards, Shards) else list(shards)
        assert 0 <= rank < world and length > 0 and batch > 0
        _check(self.shards, length, order, weights)
        self.length, self.batch, self.rank, self.world = length, batch, rank, world
        self.packed = order == "packed"
        self._plan: Plan
        if order == "packed":
            self._plan = Packed(self.shards, length, seed, fill, weights, epochs)
        else:
            self._plan = Windows(self.shards, length, seed, weights, epochs)
        self._facts: dict[str, Any] = {
            "length": length,
            "seed": seed,
            "order": order,
            "fill": fill,
            "weights": None if weights is None else [float(weight) for weight in weights],
            "shards": [one.digest for one in self.shards],
        }

    def __iter__(self) -> Iterator[Batch]:
        """Batches from where the state stands; tensors are int64 on the CPU."""
        return _batches(self._plan, self.shards, self.length, self.batch, self.packed, self.rank, self.world)

    @property
    def truncated(self) -> int:
        """Documents that lost their end so far, over all ranks (fill "whole")."""
        return self._plan.cursor.truncated

    @property
    def rows(self) -> int:
        """Rows handed out so far, over all ranks."""
        return self._plan.cursor.rows

    def tell(self, metrics: object) -> None:
        """Data does not listen to training."""

    def state(self) -> dict[str, Any]:
        """Where the sequence of rows stands after the last batch handed out; plain JSON values, equal on all ranks."""
        cursor = asdict(self._plan.cursor)
        return {**self._facts, "cursor": {**cursor, "pending": [list(one) for one in cursor["pending"]]}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state. Raises UserError, naming the key, if it belongs to other data or another order."""
        for key, value in self._facts.items():
            if state.get(key) != value:
                what = "the data changed" if key == "shards" else f"{key} was {state.get(key)!r} and is {value!r}"
                raise UserError(
                    f"the checkpoint's data position does not fit ({what}): resume with what it was made with"
                )
        found = dict(state["cursor"])
        found["pending"] = [Segment(*segment) for segment in found["pending"]]
        for source, start, stop in found["pending"]:
            if not (0 <= source < len(self.shards) and 0 <= start < stop < len(self.shards[source].tokens)):
                raise UserError("the checkpoint's data position is damaged: resume from an earlier checkpoint")
        self._plan.cursor = Cursor(**{**found, "taken": list(found["taken"])})


def evaluation(
    shards: Shards,
    length: int,
    batch: int,
    limit: int | None = None,
    order: Order = "packed",
    fill: Fill = "split",
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """The shards once, in their own order; all batches have the same shape, missing rows have no targets.

    "windows": consecutive windows, every token but the first a target exactly once. "packed": every document once.
    limit: at most so many batches a rank.
    """
    plan: Plan = Consecutive(shards, length)
    if order == "packed":
        plan = Packed([shards], length, seed=0, fill=fill, epochs=1, shuffle=False)
    batches = _batches(plan, [shards], length, batch, order == "packed", rank, world)
    for number, one in enumerate(batches, 1):
        yield one
        if number == limit:
            return


def _batches(
    plan: Plan, shards: Sequence[Shards], length: int, batch: int, packed: bool, rank: int, world: int
) -> Iterator[Batch]:
    while True:
        rows = [plan.next_row() for _ in range(batch * world)]
        if not any(rows):
            return
        yield fill_rows(shards, rows[rank::world], length, packed)


def fill_rows(shards: Sequence[Shards], rows: Sequence[Row], length: int, packed: bool) -> Batch:
    """Copy the planned tokens into a Batch of [rows, length]; the rest of a row is padding, a document of its own."""
    B, T = len(rows), length
    tokens = np.full((B, T), shards[0].pad, dtype=np.int64)
    targets = np.full((B, T), IGNORE, dtype=np.int64)
    positions, documents, sources = (np.zeros((B, T), dtype=np.int64) for _ in range(3))
    places = np.arange(T)
    for b, row in enumerate(rows):
        at = 0
        for number, (source, start, stop) in enumerate(row):
            end = at + stop - start
            tokens[b, at:end] = shards[source].tokens[start:stop]
            targets[b, at:end] = _targets(shards[source], start, stop)
            positions[b, at:end] = places[: end - at]
            documents[b, at:end] = number
            sources[b, at:end] = source
            at = end
        positions[b, at:] = places[: T - at]
        documents[b, at:] = len(row)
    batch = Batch(torch.from_numpy(tokens), torch.from_numpy(targets))
    if packed:
        batch.positions, batch.documents = torch.from_numpy(positions), torch.from_numpy(documents)
    if len(shards) > 1:
        batch.sources, batch.source_names = torch.from_numpy(sources), tuple(one.name for one in shards)
    return batch


def _targets(shards: Shards, start: int, stop: int) -> Any:
    """The tokens that follow [start, stop), IGNORE where they are not learned."""
    following = shards.tokens[start + 1 : stop + 1]
    if shards.mask is None:
        return following
    return np.where(shards.mask[start + 1 : stop + 1], following.astype(np.int64), IGNORE)


def _check(shards: Sequence[Shards], length: int, order: Order, weights: Sequence[float] | None) -> None:
    if not shards:
        raise UserError("no data: name at least one folder of prepared shards")
    others = [one for one in shards if one.tokenizer != shards[0].tokenizer]
    if others:
        raise UserError(
            f"{others[0].folder} was prepared with another tokenizer than {shards[0].folder}: prepare both with one"
        )
    if weights is not None and (len(weights) != len(shards) or not all(0 < w < float("inf") for w in weights)):
        raise UserError(f"weights {list(weights)}: give one number above 0 for each of the {len(shards)} sources")
    targets = [int(np.maximum(np.diff(one.offsets) - 1, 0).sum()) for one in shards]
    rooms = [sum(targets)] if order == "packed" else [len(one.tokens) - 1 for one in shards]
    if min(rooms) < length or min(targets) == 0:
        poor = shards[rooms.index(min(rooms))].folder
        raise UserError(
            f"{poor}: too few tokens for one sequence of {length}: the data can fill {min(rooms)}; "
            + (f"use a length of at most {min(rooms)}, or give more data" if min(rooms) > 1 else "give more data")
        )
