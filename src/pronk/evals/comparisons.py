"""How well scores predict comparisons, beside what length and position alone would give; leaves scoring to engine."""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pronk.data.records import Comparison
from pronk.evals.calibration import bins, bootstrap, calibration_error
from pronk.feedback.standing import wilson

Facts = dict[str, Any]


@dataclass(frozen=True)
class Judged:
    """A comparison with the scores of its answers; spread: deviation of an ensemble's differences."""

    comparison: Comparison
    chosen: float
    rejected: float
    group: Hashable = None  # comparisons of one prompt depend on one another
    spread: float = 0.0

    @property
    def difference(self) -> float:
        return self.chosen - self.rejected


def report(judged: Sequence[Judged], training: Sequence[Comparison]) -> Facts:
    """Accuracy and log loss with intervals, calibration, and baselines, as plain values for JSON.

    Accuracy leaves ties out and counts equal scores as half right. training decides which way the length baseline
    goes (longer or shorter wins), so that it, too, is measured on comparisons it has not seen.
    """
    decided = [one for one in judged if one.comparison.strength]
    wins = [1.0 if one.comparison.strength else 0.5 for one in judged]
    differences = [one.difference for one in judged]
    found = bins(differences, wins)
    return {
        "comparisons": len(judged),
        "ties": len(judged) - len(decided),
        "prompts": len({one.group for one in judged}),
        "accuracy": share([half(one.difference) for one in decided], [one.group for one in decided]),
        "log_loss": _mean([log_loss(d, w) for d, w in zip(differences, wins)]),
        "calibration_error": calibration_error(found),
        "bins": [asdict(one) for one in found],
        "by_strength": _by_strength(decided),
        "baselines": baselines(decided, training),
        "length_correlation": rank_correlation(differences, [_longer(one.comparison) for one in judged]),
        "disagreement": _mean([one.spread for one in judged]),
    }


def baselines(decided: Sequence[Judged], training: Sequence[Comparison]) -> Facts:
    """What a rule that reads nothing reaches: by length, and by which answer the judge saw first (if that is known)."""
    groups = [one.group for one in decided]
    longer = [half(_longer(one.comparison)) for one in decided]
    learned = [half(_longer(one)) for one in training if one.strength]
    way = "longer wins" if _mean(learned) >= 0.5 else "shorter wins"
    facts = {"length": {"rule": way} | share(longer if way == "longer wins" else [1 - x for x in longer], groups)}
    known = [one for one in decided if one.comparison.first]
    first = [float(one.comparison.first == "chosen") for one in known]
    seen = [float(one.first == "chosen") for one in training if one.strength and one.first]
    side = "first wins" if not seen or _mean(seen) >= 0.5 else "second wins"
    shares = share(first if side == "first wins" else [1 - x for x in first], [one.group for one in known])
    return facts | {"position": {"rule": side} | shares if known else None}


def share(values: Sequence[float], groups: Sequence[Hashable]) -> Facts:
    """A mean of halves and ones with its 95 % intervals: Wilson's, and by resampling whole prompts."""
    return {
        "value": _mean(values),
        "count": len(values),
        "wilson": list(wilson(_mean(values), len(values))),
        "by_prompt": list(bootstrap(values, groups)),
    }


def table(facts: Facts) -> list[tuple[str, str]]:
    """The report's lines for the console."""
    length, position = facts["baselines"]["length"], facts["baselines"]["position"]
    rows = [
        ("comparisons", f"{facts['comparisons']:,} of {facts['prompts']:,} prompts, {facts['ties']:,} ties"),
        ("accuracy", _said(facts["accuracy"])),
        (f"  {length['rule']}", _said(length)),
    ]
    rows += [(f"  {position['rule']}", _said(position))] if position else []
    rows += [
        ("log loss", f"{facts['log_loss']:.4f} nats (ln 2 = 0.6931 knows nothing)"),
        ("calibration", f"error {facts['calibration_error']:.3f}"),
        ("leans on length", f"rank correlation {facts['length_correlation']:+.2f}"),
    ]
    return rows + ([("disagreement", f"{facts['disagreement']:.3f}")] if facts["disagreement"] else [])


def _said(part: Facts) -> str:
    low, high = part["wilson"]
    return f"{100 * part['value']:.1f} %  (95 %: {100 * low:.1f} to {100 * high:.1f})"


def _by_strength(decided: Sequence[Judged]) -> Facts:
    rows: dict[int, list[float]] = {}
    for one in decided:
        rows.setdefault(one.comparison.strength, []).append(half(one.difference))
    return {
        str(strength): {"accuracy": _mean(rows[strength]), "count": len(rows[strength])} for strength in sorted(rows)
    }


def half(difference: float) -> float:
    """1 above zero, 0 below, one half at zero."""
    return 0.5 + 0.5 * float(np.sign(difference))


def log_loss(difference: float, win: float) -> float:
    """-log chance of what happened, nats; a tie is half a win each way."""
    softplus: Callable[[float], float] = lambda x: max(x, 0.0) + math.log1p(math.exp(-abs(x)))  # noqa: E731
    return win * softplus(-difference) + (1 - win) * softplus(difference)


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's, equal values sharing their mean rank; 0 where one side never changes."""
    a, b = _ranks(first), _ranks(second)
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale else 0.0


def _ranks(values: Sequence[float]) -> "np.ndarray[Any, np.dtype[np.float64]]":
    _, place, counts = np.unique(np.array(values, float), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[place].astype(float)


def _longer(comparison: Comparison) -> float:
    """Characters by which the chosen answer is longer."""
    return float(len(comparison.chosen) - len(comparison.rejected))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
