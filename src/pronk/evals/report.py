"""Writes the demo's report: one page that tells what happened, and its facts as JSON; measures nothing itself."""

import base64
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pronk.evals.plots import Series, curve, series
from pronk.feedback.standing import wilson as interval
from pronk.learn.track import clock, read_metrics

Facts = Mapping[str, Any]
PARTS = {  # seconds of facts, and how the page calls them; the page's order
    "world": "write stories",
    "tokenizer": "learn a vocabulary",
    "prepare": "prepare data",
    "pretrain": "pretraining",
    "sft": "instruction tuning",
    "compare": "your votes",
    "align": "alignment",
    "evaluate": "evaluation",
}
WHOLE, HALF = (5.0, 2.8), (4.4, 2.8)  # inches of a chart that fills the column, and of one beside another


@dataclass
class Chart:
    """One picture in the page, for light and dark."""

    title: str
    alt: str
    light: str  # data: addresses
    dark: str


@dataclass
class Rate:
    """A share of n requests, with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass
class Measure:
    name: str
    before: Rate | None
    after: Rate
    meaning: str


def write_report(folder: Path | str, facts: Facts) -> None:
    """Writes folder/report.html, folder/report.json and folder/plots/*.png.

    facts: what the issue asks of report.json (seconds, params, tokens, pretrain, sft, align), pretrain.tokens, and
      hardware: str, seed: int, counts: {"subject_rate": n, "cat_rate": n, …} requests behind each rate,
      samples: [{"prompt", "before", "after"}], stories: {"pretrain": text, "sft": text, "align": text},
      runs: {"pretrain": folder of metrics.jsonl, …} for the curves, model: the folder to chat with.
    align.reward_kind is in words; align.kl in nats per story. stories, samples, runs and model may be left out.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    (folder / "report.html").write_text(page(facts, folder / "plots"), encoding="utf-8")


def page(facts: Facts, plots: Path) -> str:
    """The whole page; everything that a model wrote is escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"clock": clock, "percent": percent, "count": count, "exp": math.exp, "spoken": spoken}
    template = environment.from_string(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))
    runs = facts.get("runs", {})
    return template.render(
        facts=facts,
        total=sum(facts["seconds"].values()),
        parts=list(time_parts(facts["seconds"])),
        measures=list(measures(facts)),
        charts={stage: list(charts(stage, read_metrics(runs[stage]), plots)) for stage in runs},
        model=facts.get("model", "out/demo/model"),
    )


# ── numbers


def wilson(rate: float, n: float) -> Rate:
    """The share with its 95 % score interval (Wilson, 1927): sensible near 0 and 1, where rates of ours live."""
    return Rate(rate, *interval(rate, n))


def measures(facts: Facts) -> Iterator[Measure]:
    """The page's table of rates."""
    align, counts = facts["align"], facts["counts"]

    def both(name: str, n: int, meaning: str, title: str) -> Measure:
        return Measure(title, wilson(align[f"{name}_before"], n), wilson(align[f"{name}_after"], n), meaning)

    yield both(
        "cat_rate",
        counts["cat_rate"],
        "Open requests, such as “Tell a story.”, that were answered with a story about a cat. "
        "Half of them are worded as none was in training.",
        "Cats, when free to choose",
    )
    yield both(
        "named_kept",
        counts["named_kept"],
        "Requests that name another animal, and got that animal. Alignment should not override what was asked.",
        "Other animals, when asked",
    )
    yield both(
        "wellformed",
        counts["wellformed"],
        "Stories that hold together from opening to ending: names, pronouns and order, read back by a checker.",
        "Well formed",
    )
    yield Measure(
        "On the subject, before alignment",
        None,
        wilson(facts["sft"]["subject_rate"], counts["subject_rate"]),
        "Unseen requests whose story is about what was asked for, after instruction tuning.",
    )


def time_parts(seconds: Mapping[str, float]) -> Iterator[tuple[str, float, float]]:
    """Name, seconds and percent of the whole, in the order of the story; unknown stages last."""
    total = sum(seconds.values()) or 1.0
    order = [name for name in PARTS if name in seconds] + [name for name in seconds if name not in PARTS]
    for name in order:
        yield PARTS.get(name, name), seconds[name], 100 * seconds[name] / total


def percent(share: float) -> str:
    """0.9876 as 98.8 %; whole where it is exact."""
    text = f"{100 * share:.1f}".removesuffix(".0")
    return f"{text}\N{NO-BREAK SPACE}%"


def spoken(seconds: float) -> str:
    """260 as 4 min 20 s."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} seconds"


def count(value: float) -> str:
    """1043200 as 1.04 million."""
    if value >= 1e6:
        return f"{value / 1e6:.3g} million"
    return f"{value:,.0f}"


# ── curves


def charts(stage: str, rows: list[dict[str, Any]], plots: Path) -> Iterator[Chart]:
    """The curves that a stage's metrics have points for; each is also a PNG file in plots."""
    for name, title, unit, lines in wanted(stage, rows):
        found = {label: series(rows, metric) for label, metric in lines.items()}
        found = {label: line for label, line in found.items() if len(line[1]) > 1}
        if found:
            size = HALF if name in ("align-kl", "align-length") else WHOLE
            light = curve(plots / f"{name}.png", found, title, unit, size=size)
            dark = curve(None, found, title, unit, size=size, dark=True)
            yield Chart(title, describe(title, found), address(light), address(dark))


def wanted(stage: str, rows: list[dict[str, Any]]) -> Iterator[tuple[str, str, str, dict[str, str]]]:
    """File name, title, unit and lines (label: metric)."""
    if stage != "align":
        title = {"pretrain": "Loss while reading", "sft": "Loss while learning to answer"}.get(
            stage, f"Loss of {stage}"
        )
        yield f"{stage}-loss", title, "nats per token", {"training": "loss", "unseen stories": "val_loss"}
        return
    parts = sorted({key for row in rows for key in row if key.startswith("reward/")} - {"reward/mean", "reward/std"})
    labels = {part.removeprefix("reward/").replace("_", " "): part for part in parts} if len(parts) > 1 else {}
    yield "align-reward", "Reward", "mean of a round", {"all": "reward/mean", **labels}
    yield "align-kl", "Distance from the tuned model (KL)", "nats per story", {"KL": "kl/sequence"}
    yield "align-length", "Length of the stories", "tokens", {"length": "length"}


def describe(title: str, lines: Mapping[str, Series]) -> str:
    """The picture in words, for those who cannot see it."""
    parts = [f"{name} goes from {values[0]:.3g} to {values[-1]:.3g}" for name, (_, values) in lines.items()]
    return f"{title}: {', '.join(parts)}."


def address(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
