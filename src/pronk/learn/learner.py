"""The one place where gradients are made and spent; the losses say of what, the source says when."""

import math
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from pronk.data.batch import IGNORE, Batch, Max, Mean, Metric, Metrics, Min, Pairs
from pronk.errors import UserError
from pronk.learn.capture import Capture
from pronk.learn.optim import Group, OptimConfig
from pronk.learn.told import Told
from pronk.models.heads import Output

Loss = Callable[[Output, Any], tuple[Tensor, Tensor, Metrics]]
WINDOW, ENOUGH, PATIENCE = 64, 32, 8  # spikes: steps remembered, steps needed, skips in a row before giving in
LOST = 50  # steps in a row without one finite gradient: the weights stand still, and so will what they give


class Learner:
    """A model with its optimizers: `step(batch, loss)` is one update.

    model: parameters in float32; `precision` bf16 computes in bfloat16 by autocast.
    groups: one OptimConfig for all parameters, or one for each name prefix ({"policy.": .., "critic.": ..}); each
        group has its own schedule, clip and gradient norm.
    steps: planned number of steps, for the schedules.
    micro_batch: rows of one forward; 0 = the whole batch. Any value gives the same gradient.
    ranks: the process group over which the model is sharded (parallel.shard), None for one process.
    spike: steps whose loss or gradient norm lies this many deviations above the last ones are skipped; 0 = off.
    graphs: on a CUDA device, replay steps on rows of text as CUDA graphs (their losses then may not ask the device).
    """

    def __init__(
        self,
        model: nn.Module,
        groups: OptimConfig | Mapping[str, OptimConfig],
        steps: int,
        micro_batch: int = 0,
        precision: Literal["fp32", "bf16"] = "fp32",
        ranks: dist.ProcessGroup | None = None,
        spike: float = 0.0,
        graphs: bool = False,
    ) -> None:
        self.model, self.planned, self.micro_batch, self.ranks = model, steps, micro_batch, ranks
        self.device = next(model.parameters()).device
        self.precision, self.spike = precision, spike
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        configs = {"": groups} if isinstance(groups, OptimConfig) else groups
        graphs = graphs and all(config.optimizer != "sgd" for config in configs.values())
        self.groups = _split(model, configs, dtype, graphs)
        self.capture = Capture(model) if graphs else None
        self.ahead = all(group.ahead for group in self.groups)
        self.steps = self.skipped = self.skipped_in_a_row = 0
        self.history: dict[str, deque[float]] = {}
        self.last: Told | None = None  # what the last step found

    def step(self, batch: Batch, loss: Loss) -> Mapping[str, float]:
        """Make the gradient of sum / count over the whole batch on all ranks, and move the weights by it.

        The step is skipped, and `skipped` is 1, when the loss or a gradient is not finite or spikes, or when the loss
        asks for it by a metric `stop` > 0. Where the device decides that by itself, what is returned waits for it only
        once it is looked at: a loop that looks one step later never leaves the device without work.
        """
        rates = {group.name: group.set_rate(self.steps, self.planned) for group in self.groups}
        total, metrics = self._backward(batch, loss)
        self.settle()  # while the device is at this step's gradient
        scale = (dist.get_world_size(self.ranks) if self.ranks else 1) / total.weight.clamp(min=1)
        norms = [group.norm() * scale for group in self.groups]
        factors = [_factor(group.config.clip, norm, scale) for group, norm in zip(self.groups, norms)]
        heights = {"objective": _value(total), **{f"norm{i}": norm for i, norm in enumerate(norms)}}
        values = {name: _value(metric) for name, metric in metrics.items()}
        sane = torch.stack([v.isfinite() & (v <= self._limit(name)) for name, v in heights.items()]).all()
        told = {**values, "_sane": sane, **{f"_{name}": height for name, height in heights.items()}}
        found = self.last = Told(told, partial(self._finish, rates))
        if self.ahead:
            go = sane & ~(values["stop"] > 0) if "stop" in values else sane
            self._update([factor.masked_fill(~go, torch.nan) for factor in factors])
        elif not found["skipped"]:
            self._update(factors)
        for group in self.groups:
            group.forget()
        self.steps += 1
        return found

    def settle(self) -> None:
        """Wait for what the last step found: `skipped`, and what the next step takes for a spike, follow from it."""
        last, self.last = self.last, None
        if last is not None:
            last.look()

    def _finish(self, rates: Mapping[str, float], found: dict[str, float]) -> dict[str, float]:
        """Take note of a step's numbers, and bring them into the form in which they are told."""
        stopped, trusted = found.pop("stop", 0.0) > 0, found.pop("_sane") > 0
        skip = stopped or not trusted
        told = {name: found.pop(f"_{name}") for name in ("objective", *(f"norm{i}" for i in range(len(self.groups))))}
        if not stopped:
            self._note(trusted, told)
        self.skipped += skip
        for i, group in enumerate(self.groups):
            found[f"{group.name}grad_norm"], found[f"{group.name}lr"] = told[f"norm{i}"], rates[group.name]
        return found | {"skipped": float(skip), "stopped": float(stopped)}

    def compute(self) -> AbstractContextManager[Any]:
        """The context of forwards: bfloat16 where asked for."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()

    def _backward(self, batch: Batch, loss: Loss) -> tuple[Mean, Metrics]:
        """Add up gradients of the loss's sum; returns (sum, count) and metrics over micro-batches and ranks."""
        whole: Metrics = {}
        if self.capture is not None:
            self.capture.begin()
            batch = _densely(batch)
        run = partial(self._gradient, loss)
        for number, part in enumerate(batch.split(self.micro_batch or len(batch))):
            part = part.map(lambda x: x.to(self.device, non_blocking=True))
            if self.capture is not None and part.dense:
                whole = _merge(whole, self.capture.gradient(run, part, number == 0, loss))
            else:
                whole = _merge(whole, run(part))
        whole = _over_ranks(whole, self.ranks)
        result = whole.pop("_total")
        assert isinstance(result, Mean)
        return result, whole

    def _gradient(self, loss: Loss, part: Batch) -> Metrics:
        """Add a micro-batch's gradient of the loss's sum; returns its metrics and, as `_total`, (sum, count)."""
        with self.compute():
            output: Output = self.model(**part.inputs())
            total, count, metrics = loss(output, part)
            if output.aux is not None:
                total = total + output.aux * count
        total.backward()  # type: ignore[no-untyped-call]
        return {**metrics, "_total": Mean(total.detach(), count)}

    def _update(self, factors: Sequence[Tensor]) -> None:
        """Move the weights by the gradients times their group's factor."""
        if self.capture is not None:
            self.capture.update(self._move, factors)
        else:
            self._move(factors)

    def _move(self, factors: Sequence[Tensor]) -> None:
        for group, factor in zip(self.groups, factors):
            group.step(factor)

    def _limit(self, key: str) -> float:
        """Above what the objective or a norm is a spike against the last steps; infinity where that is not known yet,
        or where steps were skipped too often."""
        seen = self.history.get(key, ())
        if not self.spike or len(seen) < ENOUGH or self.skipped_in_a_row >= PATIENCE:
            return math.inf
        mean = sum(seen) / len(seen)
        deviation = (sum((x - mean) ** 2 for x in seen) / len(seen)) ** 0.5
        return mean + self.spike * deviation + 1e-6

    def _note(self, trusted: bool, values: Mapping[str, float]) -> None:
        """Remember a step: its values where it was trusted, or that it was not."""
        if not trusted:
            self.skipped_in_a_row += 1
            if self.skipped_in_a_row >= LOST and not all(map(math.isfinite, values.values())):
                loss, *norms = values.values()
                raise UserError(
                    f"no step was taken in the last {LOST}: loss {loss}, gradient norms {norms}; "
                    "lower optim.lr, or compute in float32 (--train.precision fp32)"
                )
            return
        self.skipped_in_a_row = 0
        for key, value in values.items():
            self.history.setdefault(key, deque(maxlen=WINDOW)).append(value)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that decides the next steps: whole tensors by name (live ones: save or clone them before the next
        step), and plain values. Called by all ranks."""
        self.settle()
        tensors = {f"model.{n}": _whole(p) for n, p in _named(self.model)}
        for group in self.groups:
            names: dict[Tensor, str] = {parameter: name for name, parameter in group.parameters.items()}
            for optimizer in group.optimizers:
                for parameter, values in optimizer.state.items():
                    tensors |= {f"optimizer.{names[parameter]}.{k}": _whole(v) for k, v in values.items()}
        tensors["random.torch"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.device)
        plain = {"steps": self.steps, "skipped": self.skipped, "skipped_in_a_row": self.skipped_in_a_row}
        history = {k: list(v) for k, v in self.history.items()}
        return tensors, plain | {"history": history, "random": _jsonable(random.getstate())}

    def restore(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
        """Take up a saved state; the number of ranks may have changed."""
        with torch.no_grad():
            for name, parameter in _named(self.model):
                parameter.copy_(_like(tensors[f"model.{name}"], parameter))
        for group in self.groups:
            for optimizer in group.optimizers:
                for parameter, name in ((p, n) for n, p in group.parameters.items() if p in _moved(optimizer)):
                    prefix = f"optimizer.{name}."
                    values = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
                    counter = parameter.device if parameter.is_cuda else "cpu"
                    optimizer.state[parameter] = {
                        k: v.to(counter, copy=True) if v.dim() == 0 else _like(v, parameter) for k, v in values.items()
                    }
        if self.capture is not None:
            self.capture.clear()
        torch.set_rng_state(tensors["random.torch"].cpu())
        if self.device.type == "cuda" and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"].cpu(), self.device)
        random.setstate(_from_json(plain["random"]))
        self.steps, self.skipped, self.last = plain["steps"], plain["skipped"], None
        self.skipped_in_a_row = plain["skipped_in_a_row"]
        self.history = {k: deque(v, maxlen=WINDOW) for k, v in plain["history"].items()}


def _factor(limit: float, norm: Tensor, scale: Tensor) -> Tensor:
    """What brings gradients of a sum to those of the mean, clipped."""
    return scale * (limit / (norm + 1e-6)).clamp(max=1) if limit else scale


def _densely(batch: Batch) -> Batch:
    """Rows of text whose targets are learned for the most part are worth computing in full, and so are comparisons,
    whose steps are small: see Batch.dense."""
    if isinstance(batch, Pairs):
        return replace(batch, dense=True)
    if type(batch) is not Batch or batch.targets.device.type != "cpu":
        return batch
    learned = int(np.count_nonzero(batch.targets.numpy() != IGNORE))  # torch would wake threads for this
    return replace(batch, dense=2 * learned >= batch.targets.numel())


def _split(
    model: nn.Module, configs: Mapping[str, OptimConfig], dtype: torch.dtype, graphs: bool = False
) -> list[Group]:
    """Each trainable parameter into the group with the longest prefix of its name."""
    members: dict[str, dict[str, nn.Parameter]] = {prefix: {} for prefix in configs}
    for name, parameter in _named(model):
        fits = [prefix for prefix in configs if name.startswith(prefix)]
        if not fits:
            raise ValueError(f"parameter {name} belongs to none of the groups {list(configs)}")
        if parameter.requires_grad:
            members[max(fits, key=len)][name] = parameter
    names = {prefix: f"{prefix.strip('.')}/" if prefix else "" for prefix in configs}
    return [Group(names[prefix], config, members[prefix], dtype, graphs) for prefix, config in configs.items()]


def _named(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Parameters by name, a tied one once, without the wrapper that torch.compile adds to names."""
    return [(name.replace("_orig_mod.", ""), parameter) for name, parameter in model.named_parameters()]


def _moved(optimizer: torch.optim.Optimizer) -> set[nn.Parameter]:
    return {parameter for group in optimizer.param_groups for parameter in group["params"]}


def _merge(into: Metrics, new: Metrics) -> Metrics:
    merged = dict(into)
    for name, metric in new.items():
        old = into.get(name)
        if isinstance(metric, Mean):
            metric = Mean(metric.total.detach().float(), metric.weight.detach().float())
            merged[name] = (
                Mean(old.total + metric.total, old.weight + metric.weight) if isinstance(old, Mean) else metric
            )
        elif isinstance(metric, Max):
            merged[name] = Max(torch.maximum(old.value, metric.value)) if isinstance(old, Max) else metric
        else:
            merged[name] = Min(torch.minimum(old.value, metric.value)) if isinstance(old, Min) else metric
    return merged


def _over_ranks(metrics: Metrics, ranks: dist.ProcessGroup | None) -> Metrics:
    """Add means and take extremes over the ranks: one exchange each."""
    if ranks is None:
        return metrics
    means = [n for n, m in metrics.items() if isinstance(m, Mean)]
    ends = [n for n, m in metrics.items() if not isinstance(m, Mean)]
    sums = torch.stack([torch.stack(metrics[n]) for n in means])
    dist.all_reduce(sums, group=ranks)
    result: Metrics = {n: Mean(row[0], row[1]) for n, row in zip(means, sums)}
    if ends:  # the smallest is the largest of the negated
        signs = [-1 if isinstance(metrics[n], Min) else 1 for n in ends]
        highest = torch.stack([sign * metrics[n][0] for n, sign in zip(ends, signs)])
        dist.all_reduce(highest, dist.ReduceOp.MAX, group=ranks)
        result |= {n: Max(v) if sign > 0 else Min(-v) for n, sign, v in zip(ends, signs, highest)}
    return result


def _value(metric: Metric) -> Tensor:
    found = metric.total / metric.weight.clamp(min=1e-12) if isinstance(metric, Mean) else metric.value
    return found.detach().float()


def _whole(value: Tensor) -> Tensor:
    full = value.full_tensor() if isinstance(value, DTensor) else value
    return full.detach()


def _like(whole: Tensor, model: Tensor) -> Tensor:
    """A whole tensor, placed and sharded as another one is."""
    if isinstance(model, DTensor):
        return distribute_tensor(whole.to(model.device), model.device_mesh, model.placements)
    return whole.to(model.device).clone()


def _jsonable(state: Any) -> Any:
    return [_jsonable(x) for x in state] if isinstance(state, tuple) else state


def _from_json(state: Any) -> Any:
    return tuple(_from_json(x) for x in state) if isinstance(state, list) else state
