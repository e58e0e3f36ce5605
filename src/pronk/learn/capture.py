"""Training steps as CUDA graphs: one launch for forward and backward, one for the optimizers; knows no loss.

Small models spend most of an eager step on launching kernels. What is captured runs the very kernels of the eager
step, so the numbers are the same, the random ones of dropout included.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from pronk.data.batch import Batch, Metrics

WARM = 3  # steps that run eagerly first: libraries pick kernels, compilers compile, optimizers make their state


class Replay:
    """Forward and backward of one shape of batch; leaves its gradients in tensors of its own."""

    def __init__(self, model: nn.Module, run: Callable[[Batch], Metrics], part: Batch, pool: Any) -> None:
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.part, self.graph = part.map(torch.clone), torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=pool):
            self.metrics = run(self.part)
        self.gradients = [p.grad for p in self.parameters]

    def __call__(self, part: Batch) -> Metrics:
        for parameter, gradient in zip(self.parameters, self.gradients):
            parameter.grad = gradient
        for name, tensor in _tensors(part).items():
            getattr(self.part, name).copy_(tensor)
        self.graph.replay()
        return {name: type(m)(*(x.clone() for x in m)) for name, m in self.metrics.items()}


class Capture:
    """The graphs of one learner. `begin` a step, then give it each micro-batch, then the update."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.replays: dict[Hashable, Replay] = {}
        self.updates: dict[Replay, tuple[torch.cuda.CUDAGraph, list[Tensor]]] = {}
        self.clear()

    def clear(self) -> None:
        """Forget all graphs: needed where optimizer state was replaced."""
        self.replays.clear()
        self.updates.clear()
        self.born: dict[Hashable, int] = {}  # step at which a shape was first met
        self.steps = self.updated = 0
        self.holder: Replay | None = None  # whose tensors the parameters' gradients are

    def begin(self) -> None:
        self.steps += 1
        self.holder = None

    def gradient(self, run: Callable[[Batch], Metrics], part: Batch, first: bool, loss: Hashable) -> Metrics:
        """run(part), which adds to the gradients; replayed once its shape was met in WARM steps.

        A later micro-batch adds to gradients where the first one left them, so it is captured only after that one.
        """
        shapes = tuple((name, tensor.shape) for name, tensor in _tensors(part).items())
        key = (shapes, _plain(part), loss, self.model.training, self.holder)
        if not first and self.holder is None:
            return run(part)
        if self.steps - self.born.setdefault(key, self.steps) < (WARM if first else 1):
            return run(part)
        if key not in self.replays:
            self.replays[key] = Replay(self.model, run, part, self._pool())
        if first:
            self.holder = self.replays[key]
        return self.replays[key](part)

    def update(self, run: Callable[[Sequence[Tensor]], None], factors: Sequence[Tensor]) -> None:
        """run(factors), which moves the weights; replayed where the gradients are a replay's own."""
        if self.holder is None or self.updated < WARM:
            self.updated += 1
            return run(factors)
        if self.holder not in self.updates:
            held, graph = [factor.clone() for factor in factors], torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool()):
                run(held)
            self.updates[self.holder] = graph, held
        graph, held = self.updates[self.holder]
        for place, factor in zip(held, factors):
            place.copy_(factor)
        graph.replay()

    def _pool(self) -> Any:
        """One pool of memory for all graphs: they run one after the other."""
        return next((replay.graph.pool() for replay in self.replays.values()), None)


def _plain(part: Batch) -> tuple[Hashable, ...]:
    """What of a batch is no tensor: a graph holds it for good."""
    return tuple(value for value in vars(part).values() if not isinstance(value, Tensor))


def _tensors(part: Batch) -> dict[str, Tensor]:
    found = {field.name: getattr(part, field.name) for field in fields(part)}
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}
