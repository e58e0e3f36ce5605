"""What `pronk rl` does beside learning: notes samples, says how healthy the run is, draws gold against proxy."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from pronk.data.batch import IGNORE
from pronk.evals.plots import curve
from pronk.learn.learner import Learner
from pronk.learn.track import Track, keep_until, read_metrics
from pronk.rl.health import WELL, Health, Still
from pronk.rl.rollouts import Round

APART = 10  # rounds between notes of samples


class Watch:
    """Hears of each round and each step of a run in the folder `out`."""

    def __init__(self, out: Path, learner: Learner, track: Track, show: int) -> None:
        self.path, self.learner, self.track, self.show = out / "health.jsonl", learner, track, show
        self.statistics: dict[str, float] = {}
        self.health, self.said = Health(), ""
        self.still: Still | None = None  # where the weights are whole
        self.moves = 0

    def start(self) -> None:
        """Once it is known at which step the run begins."""
        keep_until(self.path, self.learner.steps)
        if not self.learner.steps:
            self.path.unlink(missing_ok=True)
            self.still = Still(self.learner.model) if self.learner.ranks is None else None

    def hear(self, found: Round) -> None:
        self.statistics = found.statistics
        if self.show and found.number % APART == 0:
            self.track.sample(self.learner.steps, table(found, self.show))

    def step(self, metrics: Mapping[str, float], round_over: bool) -> None:
        self.moves += not metrics["skipped"]
        if self.still is not None and self.moves == 2:  # the first leaves the inner half of adapters where it is
            self.tell_of_still(self.still.names(self.learner.model))
            self.still = None
        if round_over and not self.track.quiet:
            self.health.hear({**self.statistics, **metrics})
            self.say(self.health.words())

    def tell_of_still(self, names: list[str]) -> None:
        """The first step moves every trainable tensor, or it is said which not (pitfall 35)."""
        if names:
            alone = len(names) == len(self.still.before) if self.still else False
            which = "nothing" if alone else f"these parts did not: {', '.join(names[:5])}" + ", ..." * (len(names) > 5)
            self.print(
                f"the first step moved {'nothing: all advantages may be 0' if alone else 'some parts; ' + which}"
            )

    def say(self, words: list[str]) -> None:
        """Prints and notes the line where it changed; numbers in it may move without its being said again."""
        line = "; ".join(words) or WELL
        kind = "".join(letter for letter in line if not letter.isdigit())
        if kind == self.said or (not self.said and not words):
            return
        self.said = kind
        self.print(line)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": self.learner.steps, "health": line}) + "\n")

    def print(self, line: str) -> None:
        text = f"{self.track.name}: step {self.learner.steps}: {line}"
        self.track.console().print(text, markup=False, highlight=False, soft_wrap=True)


def table(found: Round, count: int) -> list[dict[str, str]]:
    """A few samples: the sequence, its reward, and each token's advantage and value."""
    rows = []
    for i, sample in enumerate(found.samples[:count]):
        last = sample.prompt.messages[-1].content if sample.prompt.messages else ""
        row = {"prompt": last, "answer": sample.text, "reward": f"{sample.reward:.3f}"}
        for name in ("advantages", "values"):
            numbers = getattr(found.rollouts, name)[i][found.rollouts.targets[i] != IGNORE]
            row[name] = " ".join(f"{number:.2f}" for number in numbers.tolist())
        rows.append(row)
    return rows


def plot_gold(out: Path) -> None:
    """Draws plots/gold.png, proxy and gold reward against the square root of KL (Gao et al. 2022), where both are."""
    rows = [row for row in read_metrics(out) if row.get("gold/mean") is not None and row.get("kl/sequence") is not None]
    if not rows:
        return
    rows.sort(key=lambda row: row["kl/sequence"])
    far = [math.sqrt(max(0.0, row["kl/sequence"])) for row in rows]
    lines = {
        "proxy": (far, [row["reward/mean"] for row in rows]),
        "gold": (far, [row["gold/mean"] for row in rows]),
    }
    curve(out / "plots" / "gold.png", lines, "what is rewarded, what is wanted", "mean of a round", "√KL, nats")
