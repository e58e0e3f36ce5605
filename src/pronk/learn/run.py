"""A run and its folder: lock, settings, tracking, checkpoints, resume, and a calm end on SIGTERM."""

import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from torch.distributed.device_mesh import DeviceMesh

from pronk.errors import UserError
from pronk.learn import checkpoint
from pronk.learn.build import TrainConfig
from pronk.learn.fit import Every, Source, fit
from pronk.learn.learner import Learner, Loss
from pronk.learn.track import Track


class Run:
    """Holds the folder `out` for this process, from the first lock to the last checkpoint.

    settings: what decides the run's numbers, flat; a checkpoint made with others is refused.
    """

    def __init__(
        self, out: Path, name: str, train: TrainConfig, settings: Mapping[str, Any], mesh: DeviceMesh | None = None
    ) -> None:
        self.out, self.name, self.train, self.settings, self.mesh = out, name, train, dict(settings), mesh
        self.main = mesh is None or mesh.get_rank() == 0
        if out.exists() and not out.is_dir():
            raise UserError(f"{out}: is a file, and the run needs a folder: set --out to another name")
        self.lock = checkpoint.claim(out) if self.main else None
        self.sparse: frozenset[str] = frozenset()  # metrics that are 0 where a step has nothing to say of them
        self.signal = 0
        self.saved = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.lock is not None:
            self.lock.close()

    def track(self, **facts: Any) -> Track:
        return Track(self.out, self.train.steps, self.name, every=1, quiet=not self.main, **facts)

    def fit(
        self,
        learner: Learner,
        source: Source,
        loss: Loss,
        track: Track,
        tokens_per_step: int = 0,
        every: Sequence[Every] = (),
        beside: Callable[[], Mapping[str, float]] = dict,
        started: Callable[[], None] = lambda: None,
    ) -> None:
        """Resume where a checkpoint waits, train, save. SIGTERM and Ctrl-C save, too, and then end the program.

        beside: more numbers to log with each step, such as a round's statistics.
        started: called once the settings were found to fit the folder.
        """
        self.resume(learner, source, track)
        if self.main:
            started()
        count = _Counter(track, tokens_per_step, self.train.log_every, beside, self.sparse)
        events = [Every(1, count.note), *every, Every(1, lambda step, metrics: bool(self.signal), border=True)]
        if self.train.save_every:
            events.insert(-1, Every(self.train.save_every, lambda *_: self._save_aside(learner, source, track), True))
        with self._listening():
            fit(learner, source, loss, events)
            self.save(learner, source)
        if self.signal:
            print(f"{self.name}: saved at step {learner.steps}; the same command goes on from here", flush=True)
            raise KeyboardInterrupt  # so that nothing that was to follow takes this run for a finished one

    def _save_aside(self, learner: Learner, source: Source, track: Track) -> None:
        with track.aside():
            self.save(learner, source)

    def save(self, learner: Learner, source: Source) -> None:
        if self.saved == learner.steps:
            return
        tensors, plain = learner.state()  # all ranks take part
        if self.main:
            whole = {"learner": plain, "source": source.state(), "settings": self.settings}
            checkpoint.save(self.out / "checkpoints", learner.steps, tensors, whole, self.train.keep)
        self.saved = learner.steps

    def resume(self, learner: Learner, source: Source, track: Track) -> None:
        if self.train.resume == "never":
            if self.main:  # left there, they would be taken for this run's
                shutil.rmtree(self.out / "checkpoints", ignore_errors=True)
            return
        found = checkpoint.load_newest(self.out / "checkpoints")
        if found is None:
            return
        path, tensors, plain, messages = found
        if self.train.resume == "auto":
            checkpoint.check_same(plain["settings"], _plain(self.settings), path)
        learner.restore(tensors, plain["learner"])
        source.restore(plain["source"])
        track.resume_at(learner.steps)
        self.saved = learner.steps
        if self.main:
            print("\n".join([*messages, f"{self.name}: going on from {path}"]), flush=True)

    @contextmanager
    def _listening(self) -> Iterator[None]:
        old = {number: signal.signal(number, self._heard) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        """First signal: finish the step, save, end. A second interrupt ends at once."""
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number


class _Counter:
    """Logs every few steps, with the means of the steps between."""

    def __init__(
        self,
        track: Track,
        tokens: int,
        every: int,
        beside: Callable[[], Mapping[str, float]],
        sparse: frozenset[str],
    ) -> None:
        self.track, self.tokens, self.every, self.beside, self.sparse = track, tokens, every, beside, sparse
        self.sums: dict[str, list[float]] = {}
        self.waiting: tuple[Mapping[str, float], ...] = ()  # of the last step

    def note(self, step: int, metrics: Mapping[str, float]) -> None:
        self._add()
        self.waiting = metrics, dict(self.beside())  # looked at a step later: the device need not wait for this
        if step % self.every == 0 or step == self.track.total_steps:
            self._add()
            means = {name: sum(values) / len(values) for name, values in self.sums.items()}
            steps = max(len(values) for values in self.sums.values())
            self.track.log(step, means, self.tokens * steps)
            self.sums.clear()

    def _add(self) -> None:
        for name, value in {k: v for found in self.waiting for k, v in found.items()}.items():
            if value != 0 or name not in self.sparse:
                self.sums.setdefault(name, []).append(value)
        self.waiting = ()


def flat(config: Any, leave_out: Sequence[str] = (), prefix: str = "") -> dict[str, Any]:
    """A config's leaves as {"model.layers": 4}, without the named ones."""
    found: dict[str, Any] = {}
    for field in fields(config):
        value, name = getattr(config, field.name), prefix + field.name
        if is_dataclass(value):
            found |= flat(value, leave_out, name + ".")
        elif name not in leave_out:
            found[name] = value
    return _plain(found)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives it back: tuples as lists, paths as text."""
    return {k: list(v) if isinstance(v, tuple) else str(v) if isinstance(v, Path) else v for k, v in values.items()}
