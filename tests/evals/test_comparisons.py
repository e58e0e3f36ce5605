"""Reports on scored comparisons: hand-made cases, known formulas, and scipy-like references written out."""

import math
import random

import pytest

from pronk.data.records import Comparison, Message
from pronk.evals.calibration import bins, bootstrap, calibration_error, plot_reliability
from pronk.evals.comparisons import Judged, log_loss, rank_correlation, report, table


def judged(difference, strength=1, chosen="aa", rejected="b", first="", group=0):
    one = Comparison((Message("user", str(group)),), chosen, rejected, strength, first)
    return Judged(one, difference, 0.0, group)


def test_bootstrap_by_groups_is_wider_where_groups_agree():
    dice = random.Random(0)
    groups = [i // 10 for i in range(400)]
    sides = [float(dice.random() < 0.7) for _ in range(40)]
    together = [sides[g] for g in groups]
    low, high = bootstrap(together, groups)
    narrow, wide = bootstrap(together, list(range(400)))
    assert low < sum(together) / 400 < high
    assert high - low > 2.5 * (wide - narrow)
    assert all(math.isnan(x) for x in bootstrap([], []))


def test_calibration_of_known_chances():
    """Outcomes drawn from the stated chances are calibrated; stated twice as surely, they are not."""
    dice = random.Random(0)
    odds = [dice.gauss(0, 1.5) for _ in range(20_000)]
    wins = [float(dice.random() < 1 / (1 + math.exp(-x))) for x in odds]
    assert calibration_error(bins(odds, wins)) < 0.015
    assert calibration_error(bins([2 * x for x in odds], wins)) > 0.08
    assert sum(one.count for one in bins(odds, wins)) == 20_000


def test_calibration_does_not_depend_on_which_answer_is_named_first():
    odds, wins = [2.0, -1.0, 0.3, 0.0], [1.0, 1.0, 0.5, 1.0]
    assert bins(odds, wins) == bins([-x for x in odds], [1 - w for w in wins])
    assert bins([9.0], [1.0])[0].right == 1.0 and bins([-9.0], [1.0])[0].right == 0.0


def test_report_leaves_ties_out_of_accuracy():
    found = report([judged(1.0, group=1), judged(-2.0, group=2), judged(0.0, group=3), judged(5.0, 0, group=3)], [])
    assert found["accuracy"]["value"] == pytest.approx(0.5)
    assert (found["comparisons"], found["ties"], found["prompts"]) == (4, 1, 3)
    tie = 0.5 * (log_loss(5.0, 1.0) + log_loss(5.0, 0.0))
    losses = [math.log(1 + math.exp(-1)), math.log(1 + math.exp(2)), math.log(2), tie]
    assert found["log_loss"] == pytest.approx(sum(losses) / 4)
    assert found["by_strength"] == {"1": {"accuracy": pytest.approx(0.5), "count": 3}}


def test_the_length_baseline_goes_the_way_of_the_training_side():
    longer, shorter = judged(1.0), judged(1.0, chosen="b", rejected="aa")
    training = [shorter.comparison] * 3 + [longer.comparison]
    found = report([longer, longer, shorter, judged(1.0, chosen="xy", rejected="ab")], training)
    length = found["baselines"]["length"]
    assert length["rule"] == "shorter wins"
    assert length["value"] == pytest.approx((0 + 0 + 1 + 0.5) / 4)
    assert found["baselines"]["position"] is None


def test_the_position_baseline_where_positions_are_known():
    seen = [judged(1.0, first=side) for side in ("chosen", "chosen", "rejected", "")]
    found = report(seen, [one.comparison for one in seen])["baselines"]["position"]
    assert found["rule"] == "first wins"
    assert found["value"] == pytest.approx(2 / 3)
    assert found["count"] == 3
    assert [name for name, _ in table(report(seen, []))][:4] == [
        "comparisons",
        "accuracy",
        "  shorter wins",
        "  first wins",
    ]


def test_rank_correlation_with_ties_among_the_values():
    assert rank_correlation([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1.0)
    assert rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1.0)
    assert rank_correlation([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(0.9486832980505138)
    assert rank_correlation([1, 1, 1], [1, 2, 3]) == 0.0


def test_the_picture_is_written(tmp_path):
    plot_reliability(tmp_path / "plots" / "r.png", bins([2.0, -1.0, 0.3], [1.0, 1.0, 0.5]))
    assert (tmp_path / "plots" / "r.png").read_bytes().startswith(b"\x89PNG")
