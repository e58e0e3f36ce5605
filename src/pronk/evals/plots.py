"""Draws curves of a run as PNG, in colours and line styles that all can tell apart; the numbers come from outside."""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pronk.learn.track import read_metrics

Series = tuple[Sequence[float], Sequence[float]]  # steps and values

# Okabe and Ito's colours, ordered so that the first few stand out from the ground as well as from one another.
ON_LIGHT = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
ON_DARK = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#FFFFFF")
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 3)), (0, (1, 1)))
INKS = {False: ("#57534e", "#e7e5e4"), True: ("#a8a29e", "#3f3b38")}  # text and grid, on light and on dark
FEW = 24  # points up to which a curve is drawn as it is


def series(rows: Iterable[Mapping[str, Any]], name: str) -> Series:
    """One metric of a run's rows (metrics.jsonl) over its steps; rows without it, and nulls, are left out."""
    points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    return [step for step, _ in points], [value for _, value in points]


# What a training run shows: file, unit, and which metrics it holds.
PICTURES = {
    "loss": ("nats per token", ("loss", "val_loss")),
    "reward": ("mean of a round", ("reward/",)),
    "kl": ("nats per sequence", ("kl/sequence",)),
    "length": ("tokens", ("length",)),
    "gradient": ("norm", ("grad_norm", "policy/grad_norm", "critic/grad_norm")),
}


UNDRAWN = ("reward/std", "reward/var")


def plot_run(folder: Path | str) -> None:
    """Draws folder/plots/*.png from folder/metrics.jsonl."""
    rows = read_metrics(folder)
    names = list(dict.fromkeys(name for row in rows for name in row))
    for picture, (unit, wanted) in PICTURES.items():
        chosen = [n for n in names if any(n == w or (w.endswith("/") and n.startswith(w)) for w in wanted)]
        lines = {name: series(rows, name) for name in chosen if name not in UNDRAWN}
        if any(steps for steps, _ in lines.values()):
            path = Path(folder) / "plots" / f"{picture}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            curve(path, lines, picture, unit)


def smooth(values: Sequence[float], width: int) -> list[float]:
    """The mean of the neighbours within width // 2: evenly on both sides at a steep start, what there is at the end."""
    half = width // 2
    windows = [values[i - min(half, i) : i + min(half, i) + 1] for i in range(len(values))]
    return [math.fsum(window) / len(window) for window in windows]


def curve(
    path: Path | str | None,
    lines: Mapping[str, Series],
    title: str,
    ylabel: str,
    xlabel: str = "step",
    *,
    size: tuple[float, float] = (5.6, 3.0),
    dark: bool = False,
) -> bytes:
    """Draws the lines into a PNG file (None: nowhere) and returns its bytes.

    A line of many points is smoothed lightly, with the raw one faint behind it. ylabel carries the unit.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=160, layout="constrained")
    axes = figure.add_subplot()
    for i, (name, (steps, values)) in enumerate(lines.items()):
        draw(axes, name, steps, values, (ON_DARK if dark else ON_LIGHT)[i % 7], STYLES[i % 7])
    dress(axes, title, ylabel, xlabel, dark)
    look: dict[str, Any] = {"frameon": False, "fontsize": 9, "labelcolor": INKS[dark][0], "handlelength": 2.6}
    if len(lines) > 3:
        wide = 0.7 + 0.07 * max(map(len, lines))  # inches that a name takes, with its piece of line
        figure.legend(loc="outside lower center", ncols=min(4, max(1, int(size[0] / wide))), **look)
    elif len(lines) > 1:
        axes.legend(**look)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", transparent=True) if dark else figure.savefig(picture, format="png")
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(picture.getvalue())
    return picture.getvalue()


def draw(axes: Any, name: str, steps: Sequence[float], values: Sequence[float], colour: str, style: Any) -> None:
    if len(values) <= FEW:
        axes.plot(steps, values, color=colour, linestyle=style, label=name, linewidth=1.8, marker="o", markersize=3.5)
        return
    axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
    width = max(3, len(values) // 25)
    axes.plot(steps, smooth(values, width), color=colour, linestyle=style, label=name, linewidth=1.8)


def dress(axes: Any, title: str, ylabel: str, xlabel: str, dark: bool) -> None:
    """Axes without boxes: a faint grid, quiet labels, the title at the left."""
    ink, grid = INKS[dark]
    axes.set_title(title, loc="left", fontsize=11, color=ink, pad=10)
    axes.set_xlabel(xlabel, fontsize=9, color=ink)
    axes.set_ylabel(ylabel, fontsize=9, color=ink)
    axes.tick_params(colors=ink, labelsize=9, length=0)
    axes.grid(axis="y", color=grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.01)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(grid)
