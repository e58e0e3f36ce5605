"""What the engine runs in place of a model: a twin for a CPU, one for a GPU, or the model itself."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pronk.engine import twin
from pronk.engine.forward import next_logits, prefill
from pronk.models.build import Model
from pronk.models.config import ModelConfig
from pronk.models.heads import Head
from pronk.models.state import State

Through = Callable[[Tensor, Tensor], None]


class Quick(ABC):
    """Stands in for a model on a GPU. Its weights never move, so that CUDA graphs may hold them."""

    config: ModelConfig
    head: Head

    @abstractmethod
    def fits(self, model: Model) -> bool:
        """Whether this stands for `model` once refreshed."""

    @abstractmethod
    def refresh(self) -> None:
        """Take the weights as they are now: training changes them in place."""

    @abstractmethod
    def new_state(self, rows: int, length: int) -> Any:
        """As the model's."""

    @abstractmethod
    def logits(self, tokens: Tensor, positions: Tensor, state: State, span: int) -> Tensor:
        """As forward.next_logits."""

    @abstractmethod
    def prefill(
        self, prompts: Sequence[Sequence[int]], rows: range, *rest: Any, through: Through | None = None
    ) -> None:
        """As forward.prefill; starts, state, device and most follow. through: what to call in place of `take_in`."""

    def take_in(self, columns: Tensor, work: Tensor, state: State) -> None:
        """Forward packed prompts, for those that can: see twin_gpu."""
        raise NotImplementedError

    def reach(self, rows: int, span: int) -> int:
        """The least span at which a step of so many rows does the same as at this one: fewer steps to capture."""
        return span

    def __call__(self, *given: Any, **inputs: Any) -> Any:
        raise NotImplementedError("a stand-in has forwards of its own")


Runs = Model | twin.Twin | Quick


def quicken(model: Model, runs: Runs | None = None) -> Runs:
    """What to run in place of `model`, with the weights that it has now. runs: what ran the last time; a stand-in for
    this model is refreshed and returned."""
    if not has_kernels(model):
        return twin.quicken(model, None if isinstance(runs, Quick) else runs)
    from pronk.engine import twin_gpu

    if not isinstance(runs, Quick) or not runs.fits(model):
        runs = twin_gpu.GpuTwin(model) if twin_gpu.known(model) else twin_gpu.Widened(model)
    runs.refresh()
    return runs


def has_kernels(model: nn.Module) -> bool:
    """Whether Triton kernels can run where the model is."""
    if next(model.parameters()).device.type != "cuda":
        return False
    from pronk.models.jit import found

    return found


def run_logits(runs: Runs, tokens: Tensor, positions: Tensor, state: State, span: int) -> Tensor:
    """Logits [R, V] of what follows one token for each of the state's first R rows."""
    if isinstance(runs, Quick):
        return runs.logits(tokens, positions, state, span)
    return next_logits(runs, tokens, positions, state, span)


def run_prefill(
    runs: Runs,
    prompts: Sequence[Sequence[int]],
    rows: range,
    starts: Sequence[int],
    state: State,
    device: torch.device,
    most: int,
    through: Through | None = None,
) -> None:
    """Forward ids, shortest first, into rows at the positions from `starts` on."""
    if isinstance(runs, Quick):
        runs.prefill(prompts, rows, starts, state, device, most, through=through)
    else:
        prefill(runs, prompts, rows, starts, state, device, most)
