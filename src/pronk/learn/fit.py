"""The one loop: pull a batch, take a step, tell the source, call who asked to be called."""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from pronk.learn.learner import Learner, Loss


class Source(Protocol):
    """Where batches come from: a loader over shards, or rollouts sampled from the present weights."""

    border: bool  # whether the source can be saved and taken up right here

    def __iter__(self) -> Iterator[Any]: ...
    def tell(self, metrics: Mapping[str, float]) -> None: ...
    def state(self) -> dict[str, Any]: ...
    def restore(self, state: dict[str, Any]) -> None: ...


class Every(NamedTuple):
    """Call `action(step, metrics)` every so many steps; a true answer ends the loop.

    With `border`, a call that is due waits until the source can be saved.
    """

    steps: int
    action: Callable[[int, Mapping[str, float]], bool | None]
    border: bool = False


def fit(learner: Learner, source: Source, loss: Loss, every: Sequence[Every] = ()) -> None:
    """Train until the learner's planned steps are done and the source can be saved, it ends, or an Every says stop."""
    due = [False] * len(every)
    with _settled():
        for batch in _until(learner, source):
            metrics = learner.step(batch, loss)
            source.tell(metrics)
            stop = False
            for i, event in enumerate(every):
                due[i] = due[i] or learner.steps % event.steps == 0
                if due[i] and (source.border or not event.border):
                    due[i] = False
                    stop = bool(event.action(learner.steps, metrics)) or stop
            if stop:
                return


@contextmanager
def _settled() -> Iterator[None]:
    """Python's full collections leave out what is there already: else each walks torch's whole heap, a quarter of a
    second, and rounds of a thousand samples bring one every ten (LOG.md)."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _until(learner: Learner, source: Source) -> Iterator[Any]:
    """The source's batches, none pulled beyond the planned steps but to end a round: a batch may be costly to make."""
    batches = iter(source)
    while learner.steps < learner.planned or not source.border:
        batch = next(batches, None)
        if batch is None:
            return
        yield batch
