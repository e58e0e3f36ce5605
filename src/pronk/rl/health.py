"""Says in plain words whether a run is healthy, and stops one whose numbers cannot be; changes nothing itself."""

import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import nn

FEW, MANY = 5, 20  # rounds that a quick and a slow judgement look at
FIRST = 1e-2  # how far the mean ratio of a round's first step may lie from 1: bf16's rounding, and ten times that
CLEARLY = 3.5  # standard errors of a fall: of many quarters the best is compared
WELL = "healthy"
Rows = Sequence[Mapping[str, float]]


def check_step(metrics: Mapping[str, float], vocab: int | None, first: bool) -> None:
    """Numbers that only a mistake of ours can make: raises RuntimeError, naming them.

    first: the step is its round's first, so the policy is the one that sampled and the ratio is 1. vocab: None = the
    entropy is not checked from above.
    """
    highest = math.log(vocab) + 1e-3 if vocab else math.inf
    for name, value in metrics.items():
        if name == "policy/entropy" and not (-1e-3 <= value <= highest or math.isnan(value)):
            raise RuntimeError(f"{name} is {value:.4f}, outside of 0 to ln(vocabulary) = {highest:.4f}")
        if name.endswith("clipfrac") and not (0 <= value <= 1 or math.isnan(value)):
            raise RuntimeError(f"{name} is {value:.4f}, which is no share")
    ratio = metrics.get("policy/ratio_mean", 1.0)
    if first and abs(ratio - 1) > FIRST * 10:
        raise RuntimeError(
            f"before a round's first update the ratio of new to old probability is {ratio:.4f} on average, not 1: "
            "what is learned is not what was sampled"
        )


class Still:
    """Which trainable tensors have not moved yet: told by a fingerprint of each, not by a copy."""

    def __init__(self, model: nn.Module) -> None:
        self.before = _fingerprints(model)

    def names(self, model: nn.Module) -> list[str]:
        """Those whose values are what they were."""
        after = _fingerprints(model)
        return [name for name, mark in self.before.items() if torch.equal(after[name], mark)]


@torch.no_grad()
def _fingerprints(model: nn.Module) -> dict[str, torch.Tensor]:
    """Sum and sum of squares of each trainable tensor, float64, weighted by place so that swaps show."""
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            flat = parameter.detach().flatten().double()
            places = torch.arange(1, len(flat) + 1, device=flat.device, dtype=flat.dtype)
            found[name] = torch.stack([flat.sum(), (flat**2).sum(), (flat * places).sum()])
    return found


class Health:
    """Hears of each round's statistics and of its last step's metrics; `words` says what ails the run."""

    def __init__(self) -> None:
        self.first: list[dict[str, float]] = []
        self.recent: deque[dict[str, float]] = deque(maxlen=2 * MANY)
        self.watched: list[dict[str, float]] = []  # gold and proxy of all rounds: the peak may lie far back

    def hear(self, found: Mapping[str, float]) -> None:
        (self.first if len(self.first) < FEW else self.recent).append(dict(found))
        if "gold/mean" in found:
            self.watched.append({name: found[name] for name in ("gold/mean", "reward/mean")})

    def words(self) -> list[str]:
        """One sentence an ailment, the worst first; none where the run is healthy."""
        rules = (runaway, collapsed, flat_groups, cut_answers, blind_critic, too_large, standstill)
        rounds = [*self.first, *self.recent]
        said = [hacking(self.watched), *(rule(rounds) for rule in rules)]
        return [sentence for sentence in said if sentence]


def column(rounds: Rows, name: str) -> list[float]:
    return [row[name] for row in rounds if name in row and math.isfinite(row[name])]


def hacking(rounds: Rows) -> str:
    """The proxy rises while the gold falls: what is rewarded is no longer what is wanted (Gao et al. 2022).

    The last quarter of the run is held against its best quarter before: a few rounds are too noisy to see a slow fall,
    and the best few of many look good by luck.
    """
    gold, proxy = column(rounds, "gold/mean"), column(rounds, "reward/mean")
    width = max(FEW, len(gold) // 4)
    if len(gold) < 2 * width or len(gold) != len(proxy):
        return ""
    ends = range(width, len(gold) - width + 1)
    end = max(ends, key=lambda i: statistics.fmean(gold[i - width : i]))
    (best, last), (before, now) = ([statistics.fmean(x[i - width : i]) for i in (end, len(x))] for x in (gold, proxy))
    error = statistics.pstdev([b - a for a, b in pairwise(gold)]) / math.sqrt(width)  # of the two means' difference
    if best - last <= max(CLEARLY * error, 1e-9) or now <= before:
        return ""
    return (
        f"the reward is being hacked: it rises while the gold reward falls since round {end - width // 2} "
        f"({best:.3f} to {last:.3f}): take the model of that round, or raise --kl.coef"
    )


def runaway(rounds: Rows) -> str:
    kl, per_token = column(rounds, "kl/sequence"), column(rounds, "kl/token")
    if len(kl) < 2 * FEW or not column(rounds, "kl/coef")[-1]:
        return ""
    now, before = statistics.fmean(kl[-FEW:]), statistics.fmean(kl[-2 * FEW : -FEW])
    if now > 15 and now > 1.2 * before and statistics.fmean(per_token[-FEW:]) > 0.2:
        return f"KL is running away ({now:.1f} nats a sequence): raise --kl.coef"
    return ""


def collapsed(rounds: Rows) -> str:
    """Hardly any choice is left, and yet the reward's variance is not gone because the task is solved."""
    entropy, flat = column(rounds, "policy/entropy"), column(rounds, "groups/flat")
    if len(entropy) < FEW or statistics.fmean(entropy[-FEW:]) > 0.01 or max(flat[-FEW:], default=0.0) > 0.5:
        return ""
    return "the policy hardly explores any more (entropy below 0.01): raise --kl.coef or lower --optim.lr"


def flat_groups(rounds: Rows) -> str:
    flat = column(rounds, "groups/flat")
    if len(flat) < 3 or min(flat[-3:]) < 0.999:
        return ""
    return "every group has zero variance: all answers to a prompt earn the same, and nothing is learned from them"


def cut_answers(rounds: Rows) -> str:
    finished = column(rounds, "finished")
    if len(finished) < FEW or statistics.fmean(finished[-FEW:]) > 0.1:
        return ""
    return "answers hit the length limit: raise --rollout.max-tokens, or set --rollout.missing-end -1"


def blind_critic(rounds: Rows) -> str:
    explained = column(rounds, "value/explained")
    if len(explained) < MANY or statistics.fmean(explained[-FEW:]) > 0.0:
        return ""
    return "the critic explains nothing: raise --critic-optim.lr or --rl.epochs"


def too_large(rounds: Rows) -> str:
    clipped = column(rounds, "policy/clipfrac")
    if len(clipped) < FEW or statistics.fmean(clipped[-FEW:]) < 0.4:
        return ""
    return "steps are too large (over 40 % of the ratios are clipped): lower --optim.lr or --rl.epochs"


def standstill(rounds: Rows) -> str:
    """Less than two standard errors between the first and the last half of the last rounds."""
    reward, spread = column(rounds, "reward/mean"), column(rounds, "reward/std")
    if len(reward) < 2 * MANY or len(spread) != len(reward) or not any(spread[-MANY:]):
        return ""
    early, late = reward[-2 * MANY : -MANY], reward[-MANY:]
    error = math.sqrt((statistics.pvariance(early) + statistics.pvariance(late)) / MANY)
    best = statistics.fmean(reward[:FEW])
    risen = statistics.fmean(late) - best > 2 * max(error, statistics.fmean(spread[-MANY:]) / 10)
    if statistics.fmean(late) - statistics.fmean(early) > 2 * error or risen:
        return ""
    return "the reward stands still: raise --optim.lr, sample more answers (--rollout.n), or ease --kl.coef"
