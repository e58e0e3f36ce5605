"""What pretrain and sft share: the loader, the run, evaluation, samples, and the model folder at the end."""

import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch.distributed.device_mesh import DeviceMesh

from pronk.config import flag, to_toml
from pronk.config import save as save_config
from pronk.data.ahead import Ahead
from pronk.data.encode import encode_prompt
from pronk.data.loader import Loader, evaluation
from pronk.data.records import Message
from pronk.data.shards import Shards
from pronk.data.sources import ReadConfig, fill
from pronk.engine.engine import Engine
from pronk.engine.sequence import Sampling
from pronk.errors import UserError
from pronk.evals.likelihood import mean_loss
from pronk.evals.plots import plot_run
from pronk.folders.huggingface import save
from pronk.folders.swap import standing
from pronk.learn.build import TrainConfig, flops_per_token, make_learner, peak, pick_compile, pick_precision, plan
from pronk.learn.fit import Every
from pronk.learn.learner import Learner
from pronk.learn.losses import cross_entropy
from pronk.learn.optim import OptimConfig
from pronk.learn.run import Run, flat
from pronk.learn.track import Track
from pronk.models.build import Model, build
from pronk.models.config import ModelConfig
from pronk.text.tokenizer import Tokenizer

FREE = (  # may change when a run goes on
    *("out", "dry_run", "sample", "strict", "train.resume", "train.keep", "train.log_every", "train.save_every"),
    *("train.eval_every", "train.batch", "train.micro_batch", "train.device", "train.compile"),
)

AT_LEAST_ONE = (
    *("train.steps", "train.batch", "train.length", "train.log_every", "train.keep"),
    *("rollout.prompts", "rollout.n", "rollout.max_tokens"),
    *("model.width", "model.layers", "model.heads", "model.context", "model.multiple_of"),
)
AT_LEAST_ZERO = (
    *("train.micro_batch", "train.eval_every", "train.save_every", "rollout.minibatch", "rollout.forward"),
    *(f"{group}.{name}" for group in ("optim", "critic_optim") for name in ("lr", "adam_lr", "weight_decay", "clip")),
)


class Settings(Protocol):
    """What pretrain's and sft's configs have in common."""

    @property
    def out(self) -> str: ...
    @property
    def sample(self) -> str: ...
    @property
    def read(self) -> ReadConfig: ...
    @property
    def optim(self) -> OptimConfig: ...
    @property
    def train(self) -> TrainConfig: ...


def train_on_shards(
    config: Settings,
    run: Run,
    model: Model,
    tokenizer: Tokenizer,
    train: Sequence[Shards],
    validation: Sequence[Shards],
    kind: Literal["documents", "conversations"],
) -> float:
    """Train, evaluate, sample and save to out/model; returns the last validation loss, nats per token."""
    settings, out, mesh = config.train, Path(config.out), run.mesh
    rank, world = (mesh.get_rank(), mesh.size()) if mesh is not None else (0, 1)
    if settings.batch % world:
        raise UserError(f"--train.batch {settings.batch} must be a multiple of the {world} ranks")
    if config.read.order == "packed" and not model.packs:
        raise UserError("this model reads one text a row: set --read.order windows")
    flops = flops_per_token(model, model.config, settings.length)
    work = flops * settings.steps * settings.batch * settings.length if mesh is None else 0.0
    settings = replace(settings, compile=pick_compile(settings.compile, next(model.parameters()).device.type, work))
    learner = make_learner(model, config.optim, settings, mesh)
    loader = Loader(
        train,
        settings.length,
        settings.batch // world,
        settings.seed,
        config.read.order,
        fill(kind, config.read),
        config.read.weights or None,
        rank=rank,
        world=world,
    )
    run.sparse = frozenset(f"loss/{shards.name}" for shards in train)
    if kind == "conversations" and run.main:
        warn_of_cuts(run.name, train, settings.length)
    track = run.track(flops_per_token=flops, peak=peak(learner.device, learner.precision, world))
    watch = _Watch(config, learner, tokenizer, validation, kind, track)
    every = [Every(settings.eval_every, watch.look)] if settings.eval_every else []
    with track, told_of_memory(settings.micro_batch or settings.batch // world):
        run.fit(
            learner,
            Ahead(loader) if learner.device.type == "cuda" else loader,
            cross_entropy,
            track,
            settings.batch * settings.length,
            every,
            started=lambda: save_config(config, out, run.name),
        )
        loss = watch.loss(learner.steps)
    trained = whole_model(learner, model)  # all ranks take part
    if run.main:
        save(
            out / "model",
            trained,
            tokenizer,
            {"temperature": 0.7},
            card(run.name, config, f"validation loss {loss:.4f}"),
        )
        plot_run(out)
        _say_end(run.name, loss, out)
    return loss


def card(command: str, config: Any, result: str) -> str:
    """How a model was made, for the README of its folder."""
    return f"`pronk {command}`, {result}, with these settings:\n\n```toml\n{to_toml(config)}```\n"


def warn_of_cuts(name: str, train: Sequence[Shards], length: int) -> None:
    """Say before training how many conversations are longer than a row: of them, no more than that is learned."""
    lengths = np.concatenate([np.diff(shards.offsets) - 1 for shards in train])
    if long := int((lengths > length).sum()):
        print(
            f"{name}: {long:,} of {len(lengths):,} conversations are longer than a row and lose their ends: "
            f"--train.length {int(lengths.max())} would hold the longest",
            flush=True,
        )


def open_run(config: Settings, name: str, mesh: DeviceMesh | None, model: str = "") -> Run:
    """Takes the run's folder for this process alone. model: the folder that training starts from, if any."""
    weights = {"weights of --model": digest(*sorted(standing(Path(model)).glob("*.safetensors")))} if model else {}
    return Run(Path(config.out), name, config.train, flat(config, FREE) | weights, mesh)


def digest(*files: Path) -> str:
    """Tells whether files changed between a run's beginning and its going on."""
    whole = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()[:12]


@contextmanager
def told_of_memory(rows: int) -> Iterator[None]:
    """Out of memory is the user's to mend: says which option helps. rows: of one forward, as it is."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        known = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
        if not known:
            raise
        cure = f"halve the micro-batch: --train.micro-batch {rows // 2} (it was {rows})"
        raise UserError(f"out of memory; {cure if rows > 1 else 'try a smaller model or shorter rows'}") from error


class _Watch:
    """Looks at the model now and then: validation loss of each source, and a sample."""

    def __init__(
        self,
        config: Settings,
        learner: Learner,
        tokenizer: Tokenizer,
        validation: Sequence[Shards],
        kind: Literal["documents", "conversations"],
        track: Track,
    ) -> None:
        self.config, self.learner, self.tokenizer = config, learner, tokenizer
        self.validation, self.kind, self.track = validation, kind, track
        self.last: tuple[int, float] = (-1, float("nan"))

    def look(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log val_loss: the sources' mean, weighted as one corpus."""
        with self.track.aside():
            self.loss(step)

    def loss(self, step: int) -> float:
        if self.last[0] != step:
            self.last = step, self._evaluate(step)
        return self.last[1]

    def _evaluate(self, step: int) -> float:
        train, read = self.config.train, self.config.read
        found: dict[str, float] = {}
        sizes: list[tuple[float, int]] = []
        for shards in self.validation:
            batches = evaluation(shards, train.length, train.batch, None, read.order, fill(self.kind, read))
            loss = mean_loss(self.learner.model, batches, self.learner.compute)
            sizes.append((loss, len(shards.tokens)))
            if len(self.validation) > 1:
                found[f"val_loss/{shards.name}"] = loss
        total = sum(size for _, size in sizes)
        if total:
            found["val_loss"] = sum(loss * size for loss, size in sizes) / total
            self.track.log(step, found)
        if self.learner.ranks is None:
            self.track.sample(step, [self._sample()])
        return found.get("val_loss", float("nan"))

    def _sample(self) -> dict[str, str]:
        tokenizer, begin = self.tokenizer, self.config.sample
        ids = [tokenizer.bos, *tokenizer.encode(begin)]
        if self.kind == "conversations":
            ids = encode_prompt(tokenizer, [Message("user", begin or "Hello.")])
        engine = Engine(self.learner.model, tokenizer.decode)
        longest = min(200, engine.context - len(ids))
        (answer,) = engine.generate([ids], Sampling(longest, 0.7, stop=(tokenizer.eos,), seed=0))
        return {"prompt": begin, "text": answer.text or ""}


def whole_model(learner: Learner, model: Model) -> Model:
    """The trained model with whole weights; a copy where they are sharded over ranks."""
    if learner.ranks is None:
        return model
    tensors, _ = learner.state()
    copy = build(model.config)
    with torch.no_grad():
        for name, parameter in copy.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
    return copy


def check_numbers(config: Any) -> None:
    """Counts that a run cannot go by."""
    for name, value in flat(config).items():
        least = 1 if name in AT_LEAST_ONE else 0 if name in AT_LEAST_ZERO else None
        if least is not None and value < least:
            raise UserError(f"{flag(name)} {value}: give a number of at least {least}")
        if name == "model.dropout" and not 0 <= value < 1:
            raise UserError(f"--model.dropout {value}: give a share from 0 to below 1, such as 0.1")
        if name == "rollout.temperature" and not value > 0:
            raise UserError(f"--rollout.temperature {value}: give a number above 0; learning needs answers that differ")


def check_length(length: int, model: ModelConfig, new: bool = False) -> None:
    if length > model.context:
        longer = f", or --model.context {length}" if new else ""
        raise UserError(
            f"--train.length {length} is longer than the model's context of {model.context}: "
            f"set --train.length {model.context}{longer}"
        )


def show_plan(
    config: Any, model: Model, train: TrainConfig, device: torch.device, copies: int = 0, beside: int = 0
) -> None:
    """What a run would take, beside its resolved settings; time from a measured matrix product."""
    facts = plan(model, train, pick_precision(train.precision, device), copies, beside)
    work = flops_per_token(model, model.config, train.length) or 6.0 * sum(p.numel() for p in model.parameters())
    seconds = work * train.steps * train.batch * train.length / (_roof(device) / 3)
    facts["time"] = f"about {_spoken(seconds)}, if a third of this machine's matrix speed is reached"
    print(to_toml(config))
    print("\n".join(f"{name:11} {value}" for name, value in facts.items()))


def _spoken(seconds: float) -> str:
    """12.3 minutes, 4.5 hours, 6.7 days."""
    for unit, size in (("days", 86_400), ("hours", 3600)):
        if seconds > 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds / 60:,.1f} minutes"


def _roof(device: torch.device) -> float:
    """Matrix products of this device, FLOP/s, over a fifth of a second."""
    size = 4096 if device.type == "cuda" else 512
    x = torch.randn(size, size, device=device, dtype=torch.bfloat16 if device.type == "cuda" else torch.float32)
    float((x @ x)[0, 0])
    rounds, started = 0, time.perf_counter()
    while time.perf_counter() - started < 0.2:
        float((x @ x)[0, 0])
        rounds += 1
    return rounds * 2 * size**3 / (time.perf_counter() - started)


def _say_end(name: str, loss: float, out: Path) -> None:
    reached = f"validation loss {loss:.4f} nats per token" if math.isfinite(loss) else "no validation loss"
    print(f"{name}: {reached}\n{name}: the model is in {out / 'model'}", flush=True)
