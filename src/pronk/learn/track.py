"""Writes down how a run goes: metrics.jsonl, TensorBoard, samples, console; decides nothing about the run."""

import atexit
import contextlib
import json
import math
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

WINDOW = 20  # log calls that a rate looks back on
# What the console shows of a row's metrics, and under which name.
SHOWN = {
    "loss": "loss",
    "val_loss": "val loss",
    "reward/mean": "reward",
    "kl/sequence": "kl",
    "accuracy": "accuracy",
}
RATES = {"lr": "lr", "policy/lr": "lr"}  # last: they are what a narrow terminal may lose

# Dense peak of one chip in floating-point operations a second (vendors' data sheets, without sparsity).
PEAKS: dict[str, dict[str, float]] = {
    "B200": {"bfloat16": 2250e12, "float32": 80e12},
    "H200": {"bfloat16": 989e12, "float32": 67e12},
    "H100 PCIe": {"bfloat16": 756e12, "float32": 51e12},
    "H100 NVL": {"bfloat16": 835e12, "float32": 60e12},
    "H100": {"bfloat16": 989e12, "float32": 67e12},
    "A100": {"bfloat16": 312e12, "float32": 19.5e12},
    "L40S": {"bfloat16": 362e12, "float32": 91.6e12},
    "L4": {"bfloat16": 121e12, "float32": 30.3e12},
    "A10G": {"bfloat16": 70e12, "float32": 31.5e12},
    "V100": {"float16": 125e12, "float32": 15.7e12},
    "RTX 4090": {"bfloat16": 165.2e12, "float32": 82.6e12},
    "RTX 3090": {"bfloat16": 71e12, "float32": 35.6e12},
}


def peak_flops(device_name: str, dtype: str) -> float | None:
    """The chip's dense peak, or None where this table does not know it. dtype: "bfloat16" or torch.bfloat16."""
    words = device_name.replace("-", " ").split()
    for name, peaks in PEAKS.items():
        if all(part in words for part in name.split()):
            return peaks.get(str(dtype).removeprefix("torch."))
    return None


class Rate:
    """Tokens and steps a second, over the last calls and over all; what came before the first call is not counted."""

    def __init__(self) -> None:
        self.first: tuple[float, int, int] | None = None
        self.recent: deque[tuple[float, int, int]] = deque(maxlen=WINDOW + 1)  # seconds, step, tokens so far
        self.tokens = 0

    def add(self, seconds: float, step: int, tokens: int) -> None:
        self.tokens += tokens
        self.recent.append((seconds, step, self.tokens))
        self.first = self.first or self.recent[0]

    def steps_per_second(self) -> float:
        return slope(self.recent[0], self.recent[-1], 1) if self.recent else 0.0

    def tokens_per_second(self) -> float:
        return slope(self.recent[0], self.recent[-1], 2) if self.recent else 0.0

    def mean_tokens_per_second(self) -> float:
        return slope(self.first, self.recent[-1], 2) if self.first else 0.0


def slope(before: tuple[float, int, int], after: tuple[float, int, int], what: int) -> float:
    seconds = after[0] - before[0]
    return (after[what] - before[what]) / seconds if seconds > 0 else 0.0


class Track:
    """One a run. A quiet one (ranks above 0) writes nothing at all.

    A new run replaces the folder's old metrics; `resume_at` before the first `log` continues them instead.
    flops_per_token and peak (of all devices together) give `mfu`; without both it is null.
    """

    def __init__(
        self,
        folder: Path | str,
        total_steps: int | None,
        name: str,
        tensorboard: bool = True,
        every: int = 10,
        quiet: bool = False,
        *,
        flops_per_token: float = 0.0,
        peak: float | None = None,
    ) -> None:
        self.folder, self.total_steps, self.name = Path(folder), total_steps, name
        self.tensorboard, self.every, self.quiet = tensorboard, every, quiet
        self.flops_per_token, self.peak = flops_per_token, peak
        self.rate = Rate()
        self.started = time.monotonic()
        self.resumed_step: int | None = None
        self.idle = 0.0  # seconds of looking at the model, which are no training
        self.calls = 0
        self.latest: dict[str, float | None] = {}
        self.file: IO[str] | None = None
        self.events: Any = None
        self.screen: Any = None  # rich's progress line, on a terminal

    def resume_at(self, step: int) -> None:
        """Continues a run saved at this step: later lines are dropped, seconds go on from the last one kept."""
        if self.quiet:
            return
        kept = keep_until(self.folder / "metrics.jsonl", step)
        keep_until(self.folder / "samples.jsonl", step)
        self.resumed_step = step
        self.started = time.monotonic() - (float(kept[-1]["time"]) if kept else 0.0)

    def log(self, step: int, metrics: Mapping[str, float], tokens: int = 0) -> None:
        """Notes the metrics of a finished step. tokens: how many were learned from since the last call."""
        if self.quiet:
            return
        seconds = time.monotonic() - self.started
        self.rate.add(seconds - self.idle, step, tokens)
        row = {name: finite(value) for name, value in metrics.items()} | self.rates(tokens)
        self.write({"step": step, "time": round(seconds, 3), **row})
        self.write_events(step, row)
        self.show(step, row)
        self.calls += 1

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Work that the rates do not count: evaluation, samples, checkpoints."""
        started = time.monotonic()
        yield
        self.idle += time.monotonic() - started

    def rates(self, tokens: int) -> dict[str, float | None]:
        """Empty before the second call: no step has been timed yet."""
        speed = self.rate.tokens_per_second()
        if not tokens or not speed:
            return {}
        found: dict[str, float | None] = {"tokens_per_second": round(speed, 1)}
        if self.flops_per_token:
            found["mfu"] = speed * self.flops_per_token / self.peak if self.peak else None
        return found

    def sample(self, step: int, rows: Sequence[Mapping[str, str]]) -> None:
        """Notes texts that the model wrote at this step, and shows a few on a terminal."""
        if self.quiet or not rows:
            return
        self.open()
        with (self.folder / "samples.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(json.dumps({"step": step, **row}, ensure_ascii=False) + "\n" for row in rows)
        if sys.stdout.isatty():
            show_table(self.console(), f"{self.name}, step {step}", rows[:3])

    def close(self) -> None:
        """Ends the files and the progress line, and says the mean rate. Twice does no harm."""
        if self.screen is not None:
            self.screen.stop()
        if self.file is not None:
            self.file.close()
            mean = self.rate.mean_tokens_per_second()
            speed = f", {short(mean)} tokens/s on average" if mean else ""
            print(f"{self.name}: {clock(time.monotonic() - self.started)}{speed}", flush=True)
        if self.events is not None:
            self.events.close()
        self.screen = self.file = self.events = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ── files

    def open(self) -> IO[str]:
        if self.file is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.resumed_step is None:
                for old in (*self.folder.glob("*.jsonl"), *self.folder.glob("tensorboard/events.*")):
                    if old.name in ("metrics.jsonl", "samples.jsonl") or old.parent.name == "tensorboard":
                        old.unlink()
            self.file = (self.folder / "metrics.jsonl").open("a", encoding="utf-8", buffering=1)
        return self.file

    def write(self, row: Mapping[str, Any]) -> None:
        self.open().write(json.dumps(row) + "\n")

    def write_events(self, step: int, row: Mapping[str, float | None]) -> None:
        """TensorBoard's own file format, by its writer alone: torch's SummaryWriter takes seconds to import."""
        if not self.tensorboard:
            return
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        if self.events is None:
            self.events = EventFileWriter(str(self.folder / "tensorboard"))
            if self.resumed_step is not None:  # hides what the dead run wrote after the step it was saved at
                start = SessionLog(status=SessionLog.START)
                self.events.add_event(Event(wall_time=time.time(), step=self.resumed_step + 1, session_log=start))
        values = [Summary.Value(tag=name, simple_value=value) for name, value in row.items() if value is not None]
        self.events.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    # ── console

    def show(self, step: int, row: Mapping[str, float | None]) -> None:
        self.latest |= row  # what is measured now and then, such as the validation loss, stays in view
        if sys.stdout.isatty():
            self.advance(step, "  ".join(self.facts(step)))
        elif self.calls % self.every == 0 or step == self.total_steps:
            print("  ".join([self.name, *self.facts(step)]), flush=True)

    def facts(self, step: int) -> Iterator[str]:
        yield f"step {step}" + (f"/{self.total_steps}" if self.total_steps else "")
        yield from self.named(SHOWN)
        if self.latest.get("tokens_per_second"):
            yield f"{short(self.latest['tokens_per_second'] or 0)} tokens/s"
        speed = self.rate.steps_per_second()
        if self.total_steps and speed:
            yield f"{clock((self.total_steps - step) / speed)} left"
        if "mfu" in self.latest:
            share = self.latest["mfu"]
            yield f"mfu {'N/A' if share is None else format(share, '.1%')}"
        yield from self.named(RATES)

    def named(self, labels: Mapping[str, str]) -> Iterator[str]:
        return (f"{label} {number(self.latest[name])}" for name, label in labels.items() if name in self.latest)

    def advance(self, step: int, facts: str) -> None:
        if self.screen is None:
            self.screen = progress_line(len(self.name))
            self.screen.add_task(self.name, total=self.total_steps, facts="")
            self.screen.start()
            atexit.register(self.screen.stop)  # a terminal must get its cursor back, whatever ends the run
        self.screen.update(self.screen.task_ids[0], completed=step, facts=facts, refresh=True)

    def console(self) -> Any:
        from rich.console import Console

        return self.screen.console if self.screen is not None else Console()


def keep_until(path: Path, step: int) -> list[dict[str, Any]]:
    """Drops lines after this step; returns what stays."""
    if not path.exists():
        return []
    kept = [row for row in read_rows(path) if row["step"] <= step]
    beside = path.with_suffix(".tmp")
    beside.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept), encoding="utf-8")
    os.replace(beside, path)
    return kept


def read_metrics(folder: Path | str) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl; none if it has not been written."""
    path = Path(folder) / "metrics.jsonl"
    return list(read_rows(path)) if path.exists() else []


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """One dictionary a line; a last line that a crash cut short is passed over."""
    for line in path.read_text(encoding="utf-8").split("\n"):
        with contextlib.suppress(json.JSONDecodeError):
            yield json.loads(line)


def progress_line(width: int) -> Any:
    """One line that redraws in place. It has no thread of its own: on two cores that would be noticed."""
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    text = TextColumn("{task.fields[facts]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis"))
    name = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, min_width=width))
    return Progress(name, BarColumn(bar_width=16), text, auto_refresh=False)


def show_table(console: Any, title: str, rows: Sequence[Mapping[str, str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", expand=True)
    for name in rows[0]:
        longest = max(len(row.get(name, "")) for row in rows)
        table.add_column(name, no_wrap=True, overflow="ellipsis", ratio=1 if longest < 40 else 3)
    for row in rows:
        table.add_row(*(Text(printable(row.get(name, ""))) for name in rows[0]))
    console.print(table)


def printable(text: str) -> str:
    """On one line and without control characters: a model may write anything, escape sequences too."""
    return "".join(c if c.isprintable() else " " for c in text)


def finite(value: float) -> float | None:
    """A number that JSON can hold; None for NaN and infinities."""
    number = float(value)
    return number if math.isfinite(number) else None


def number(value: float | None) -> str:
    if value is None:
        return "nan"
    return f"{value:.1e}" if value and abs(value) < 0.01 else f"{value:.3f}"


def short(value: float) -> str:
    """12345 as 12.3k."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.1f}{letter}"
    return f"{value:.0f}"


def clock(seconds: float) -> str:
    """Seconds as 1:05 or 2:00:07."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
