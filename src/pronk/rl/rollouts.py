"""Rollouts are a source of batches: pulling the next one samples it from the weights as they are now."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pronk.data.batch import IGNORE, Batch, Rollouts
from pronk.data.collate import pad_rollouts
from pronk.data.records import Prompt, Sample
from pronk.engine.engine import Engine
from pronk.engine.sequence import Sampling
from pronk.errors import UserError
from pronk.models import logps as head_math
from pronk.models.heads import Output
from pronk.rl.advantages import place_scores
from pronk.rl.algorithms import Algorithm, AlgorithmConfig
from pronk.rl.kl import KLConfig, adapted
from pronk.rl.rewards import Reward


@dataclass(frozen=True)
class RolloutConfig:
    """How a round of samples is drawn and cut into steps."""

    prompts: int = 32
    """prompts a round"""
    n: int = 2
    """samples of each prompt"""
    max_tokens: int = 128
    temperature: float = 1.0
    minibatch: int = 0
    """sequences an optimizer step; 0 = the whole round"""
    forward: int = 64
    """sequences of one forward when scoring under reference and critic"""
    missing_end: float = 0.0
    """added to the score of an answer that was cut before its end token"""


class RolloutSource:
    """Yields Rollouts, round after round, without end; never prefetched, since each round needs the newest weights.

    Everything random is a pure function of (seed, round), so the state is the round and the KL coefficient.

    engine: samples from `policy`, whose weights it loads before each round.
    policy, critic: as trained; critic None where the algorithm has none. reference: frozen, None where kl.coef is 0.
    encode: prompt -> ids. rewards: {name: (weight, reward)}, added up.
    listen: called with (round, samples, statistics) after each round was scored.
    compute: the learner's forward context, so that old and new log-probabilities are made alike.
    """

    def __init__(
        self,
        engine: Engine,
        policy: nn.Module,
        prompts: Sequence[Prompt],
        encode: Callable[[Prompt], list[int]],
        stop: int,
        rewards: dict[str, tuple[float, Reward]],
        algorithm: Algorithm,
        config: RolloutConfig,
        settings: AlgorithmConfig | None = None,
        kl: KLConfig | None = None,
        reference: nn.Module | None = None,
        critic: nn.Module | None = None,
        seed: int = 0,
        listen: Callable[[int, list[Sample], dict[str, float]], None] | None = None,
        compute: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.kl, self.settings = kl or KLConfig(), settings or AlgorithmConfig()
        if not prompts:
            raise UserError("there are no prompts to sample answers for")
        if self.kl.coef and reference is None:
            raise ValueError("kl.coef needs a reference model")
        if algorithm.critic and critic is None:
            raise ValueError("this algorithm needs a critic")
        self.engine, self.policy, self.prompts, self.encode, self.stop = engine, policy, prompts, encode, stop
        self.rewards, self.algorithm, self.config = rewards, algorithm, config
        self.reference, self.critic, self.seed = reference, critic, seed
        self.listen, self.compute = listen, compute
        self.round, self.coef, self.border, self.stopped = 0, self.kl.coef, True, False
        self.device = next(policy.parameters()).device

    def __iter__(self) -> Iterator[Rollouts]:
        while True:
            samples = self.sample()
            whole, statistics = self.score(samples)
            if self.listen is not None:
                self.listen(self.round, samples, statistics)
            parts = list(self._minibatches(whole))
            self.round += 1
            self._adapt(statistics, len(samples))
            self.stopped = False
            for i, part in enumerate(parts):
                self.border = i == len(parts) - 1
                yield part
                if self.stopped:
                    break
            self.border = True

    def tell(self, metrics: dict[str, float]) -> None:
        """Hear of the step that was just taken: an early stop ends the round."""
        self.stopped = metrics.get("stopped", 0.0) > 0
        self.border = self.border or self.stopped

    def state(self) -> dict[str, Any]:
        assert self.border, "rollouts are saved between rounds only"
        return {"round": self.round, "coef": self.coef}

    def restore(self, state: dict[str, Any]) -> None:
        self.round, self.coef = state["round"], state["coef"]

    def sample(self) -> list[Sample]:
        """One round of answers from the present policy."""
        self.engine.load(self.policy)
        prompts = [self.prompts[i] for i in self._turn()]
        ids = [self.encode(prompt) for prompt in prompts]
        c = self.config
        seeds = [_number(self.seed, "sample", self.round, i) for i in range(len(prompts))]
        how = [Sampling(c.max_tokens, c.temperature, n=c.n, stop=(self.stop,), seed=s) for s in seeds]
        found = self.engine.generate(ids, how)
        return [
            Sample(prompts[i // c.n], x.text or "", list(x.prompt), x.ids, x.logps, x.finish)
            for i, x in enumerate(found)
        ]

    def score(self, samples: list[Sample]) -> tuple[Rollouts, dict[str, float]]:
        """Rewards, log-probabilities, values and advantages of a round, and its statistics."""
        tokens, targets = pad_rollouts([s.prompt_ids for s in samples], [s.ids for s in samples], pad=0)
        batch = Batch(tokens, targets).map(lambda x: x.to(self.device))
        mask = (batch.targets != IGNORE).float()
        zeros = torch.zeros_like(mask)
        logps = self._logps(self.policy, batch) if self._needs_logps() else zeros
        ref_logps = self._logps(self.reference, batch) if self.reference is not None else logps
        values = self._values(batch) if self.algorithm.critic else zeros
        token_rewards, statistics = self._rewards(samples, mask)
        gap = (logps - ref_logps) * mask
        if self.kl.where == "reward":
            token_rewards = token_rewards - self.coef * gap  # k1, detached
        advantages, returns = self.algorithm.advantage(
            token_rewards, values, mask, _prompt_numbers(samples).to(self.device), self.settings
        )
        statistics |= _statistics(samples, gap, values, returns, advantages, mask) | {"kl/coef": self.coef}
        whole = Rollouts(
            batch.tokens,
            batch.targets,
            logps=logps,
            ref_logps=ref_logps,
            advantages=advantages,
            values=values,
            returns=returns,
        )
        return whole, statistics

    def _needs_logps(self) -> bool:
        return self.algorithm.critic or self.reference is not None

    def _rewards(self, samples: list[Sample], mask: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Weighted sum of the rewards for each token [B, T], and the mean of each part."""
        total, statistics = torch.zeros_like(mask), {}
        for name, (weight, reward) in self.rewards.items():
            found = reward(samples)
            if len(found) != len(samples):
                raise UserError(f"reward {name} returned {len(found)} values for {len(samples)} samples")
            placed = _placed(name, found, samples, mask)
            total += weight * placed
            statistics[f"reward/{name}"] = float(placed.sum() / len(samples))
        if self.config.missing_end:
            cut = torch.tensor([float(s.finish == "length") for s in samples], device=mask.device)
            total += place_scores(self.config.missing_end * cut, mask)
        scores = total.sum(1)
        statistics |= {"reward/mean": float(scores.mean()), "reward/std": float(scores.std(correction=0))}
        return total, statistics

    @torch.no_grad()
    def _forward(self, model: nn.Module, batch: Batch, read: Callable[[Output, Batch], Tensor]) -> Tensor:
        found = []
        for part in batch.split(self.config.forward):
            with self.compute():
                found.append(read(model(**part.inputs()), part).float())
        return torch.cat(found)

    def _logps(self, model: nn.Module, batch: Batch) -> Tensor:
        t = self.config.temperature
        return self._forward(model, batch, lambda output, part: head_math.logps(output, part.targets, t)[0])

    def _values(self, batch: Batch) -> Tensor:
        assert self.critic is not None

        def read(output: Output, part: Batch) -> Tensor:
            assert output.values is not None
            return output.values * (part.targets != IGNORE)

        return self._forward(self.critic, batch, read)

    def _turn(self) -> list[int]:
        """Indices of this round's prompts: each prompt comes once before any comes again, in a seeded order."""
        start, total = self.round * self.config.prompts, len(self.prompts)
        chosen = []
        for place in range(start, start + self.config.prompts):
            epoch, index = divmod(place, total)
            chosen.append(int(self._permutation(total, "prompts", epoch)[index]))
        return chosen

    def _minibatches(self, whole: Rollouts) -> Iterator[Rollouts]:
        """Each epoch in a fresh order, cut into equal parts; a shorter last part is kept."""
        for epoch in range(self.settings.epochs or self.algorithm.epochs):
            order = self._permutation(len(whole), "minibatches", epoch, self.round).to(self.device)
            yield from whole.map(lambda x, order=order: x[order]).split(self.config.minibatch or len(whole))  # type: ignore[misc]

    def _permutation(self, total: int, *key: str | int) -> Tensor:
        return torch.randperm(total, generator=torch.Generator().manual_seed(_number(self.seed, *key)))

    def _adapt(self, statistics: dict[str, float], sequences: int) -> None:
        if self.kl.adaptive:
            self.coef = adapted(self.coef, self.kl, statistics["kl/sequence"], sequences)


def _prompt_numbers(samples: list[Sample]) -> Tensor:
    """Which prompt each sample answers, by the prompt itself and not by its place: [B]."""
    numbers: dict[int, int] = {}
    return torch.tensor([numbers.setdefault(id(sample.prompt), len(numbers)) for sample in samples])


def _number(*key: str | int) -> int:
    """A number below 2^62 that is a pure function of the key."""
    return int.from_bytes(hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest(), "big") >> 2


def _placed(name: str, found: Sequence[float | list[float]], samples: list[Sample], mask: Tensor) -> Tensor:
    """Rewards as given, a number (on the last token) or a list (one a token) for each sample, as [B, T]."""
    wrong = f"reward {name}: give one number a sample, or a list of one number for each of its tokens"
    if not any(isinstance(value, list) for value in found):
        try:
            scores = [float(value) for value in found]  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise UserError(wrong) from None
        return place_scores(torch.tensor(scores, dtype=mask.dtype, device=mask.device), mask)
    placed = torch.zeros_like(mask)
    for row, (value, sample) in enumerate(zip(found, samples)):
        if not isinstance(value, list) or len(value) != len(sample.ids):
            raise UserError(wrong)
        placed[row, mask[row].bool()] = torch.tensor(value, dtype=mask.dtype, device=mask.device)
    return placed


def _statistics(
    samples: list[Sample], gap: Tensor, values: Tensor, returns: Tensor, advantages: Tensor, mask: Tensor
) -> dict[str, float]:
    """What tells whether a round was healthy; KL in nats, k1 per sequence and per token."""
    count = mask.sum().clamp(min=1)
    mean = (returns * mask).sum() / count
    spread = (((returns - mean) ** 2) * mask).sum()
    missed = (((returns - values) ** 2) * mask).sum()
    found = {
        "kl/sequence": gap.sum(1).mean(),
        "kl/token": gap.sum() / count,
        "length": mask.sum(1).mean(),
        "finished": torch.tensor([float(s.finish == "stop") for s in samples]).mean(),
        "returns/mean": mean,
        "returns/var": spread / count,
        "advantages/mean": (advantages * mask).sum() / count,
        "advantages/var": ((advantages**2) * mask).sum() / count,
        "value/explained": 1 - missed / spread.clamp(min=1e-8),
    }
    return {name: float(value) for name, value in found.items()}
