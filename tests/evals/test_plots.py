"""Curves: lines from a run's rows, smoothed honestly, in pictures."""

import pytest

from pronk.evals.plots import ON_DARK, ON_LIGHT, STYLES, curve, series, smooth


def test_series_leaves_out_gaps():
    rows = [{"step": 1, "loss": 2.0}, {"step": 2}, {"step": 3, "loss": None}, {"step": 4, "loss": 0.0}]
    assert series(rows, "loss") == ([1, 4], [2.0, 0.0])
    assert series([], "loss") == ([], [])


def test_smooth_keeps_straight_lines_and_lengths():
    assert smooth([5.0] * 9, 5) == [5.0] * 9
    assert smooth([float(i) for i in range(7)], 3)[:6] == pytest.approx([0, 1, 2, 3, 4, 5])
    assert smooth([0, 3, 0, 3, 0, 3], 3) == pytest.approx([0, 1, 2, 1, 2, 1.5])
    assert smooth([], 3) == []


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("dark", [False, True])
def test_curve_writes_the_bytes_it_returns(tmp_path, count, dark):
    steps = list(range(60))
    lines = {f"line {i}": (steps, [i + 1 / (1 + s) for s in steps]) for i in range(count)}
    png = curve(tmp_path / "plots" / "x.png", lines, "Loss", "nats per token", dark=dark)
    assert png.startswith(b"\x89PNG")
    assert (tmp_path / "plots" / "x.png").read_bytes() == png


def test_empty_and_short_lines_draw():
    assert curve(None, {"a": ([], []), "b": ([1], [2.0])}, "t", "y").startswith(b"\x89PNG")


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_first_colours_stand_out_from_their_ground():
    for colour in ON_LIGHT[:3]:
        assert 1.05 / (luminance(colour) + 0.05) > 3
    for colour in ON_DARK[:4]:
        assert (luminance(colour) + 0.05) / (luminance("#171513") + 0.05) > 3
    assert len(set(ON_LIGHT)) == len(set(ON_DARK)) == len(set(STYLES)) == 7
