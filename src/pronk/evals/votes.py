"""Draws what people's votes say: the standing of the models and the votes of each hour; feedback/facts.py counts."""

import io
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pronk.evals.plots import ON_DARK, ON_LIGHT, dress

NAMED = 5  # hours that have room for their names


def draw(facts: Mapping[str, Any], name: str, dark: bool = False) -> bytes:
    """The picture "standing" or "pace" as PNG, for a light ground or a dark one."""
    from matplotlib.figure import Figure

    rows = len(facts["standings"])
    height = 0.9 + 0.42 * max(1, rows) if name == "standing" else 2.6
    figure = Figure(figsize=(8.0, height), dpi=160, layout="constrained")
    axes = figure.add_subplot()
    colour = (ON_DARK if dark else ON_LIGHT)[0]
    PICTURES[name](axes, facts, colour, dark)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", transparent=True)
    return picture.getvalue()


def standing(axes: Any, facts: Mapping[str, Any], colour: str, dark: bool) -> None:
    """Each model's strength as a dot on its interval, the best on top."""
    rows = facts["standings"][::-1]
    for place, row in enumerate(rows):
        axes.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=2.2, solid_capstyle="round")
        axes.plot(row["strength"], place, color=colour, marker="o", markersize=7)
    dress(axes, "", "", "strength (log-odds against the average)", dark)
    axes.grid(visible=False, axis="y")
    axes.axvline(0, color=axes.spines["bottom"].get_edgecolor(), linewidth=1, zorder=0)
    axes.set_yticks(range(len(rows)), [row["model"] for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.margins(x=0.05)


def pace(axes: Any, facts: Mapping[str, Any], colour: str, dark: bool) -> None:
    """A bar for each hour since the first vote."""
    hours = facts["pace"]["hours"]
    start = hours[0]["start"] if hours else 0.0
    places = [round((hour["start"] - start) / 3600) for hour in hours]
    axes.bar(places, [hour["votes"] for hour in hours], width=0.8, color=colour)
    dress(axes, "", "votes", "hour", dark)
    shown = places[:: len(places) // NAMED + 1]
    axes.set_xticks(shown, [datetime.fromtimestamp(start + 3600 * place).strftime("%d %b, %H:00") for place in shown])
    axes.set_xlim(-1.0, max([*places, 6]) + 1.0)
    axes.yaxis.get_major_locator().set_params(integer=True)


PICTURES = {"standing": standing, "pace": pace}
