"""Rollouts are a source of batches: pulling the next one samples it from the weights as they are now."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from pronk.data.batch import IGNORE, Batch, Rollouts
from pronk.data.collate import pad_rollouts, pad_values
from pronk.data.records import Prompt, Sample
from pronk.engine.engine import Engine
from pronk.engine.sequence import Sampling
from pronk.errors import UserError
from pronk.models import logps as head_math
from pronk.models.heads import ActorCritic, Output
from pronk.rl import statistics
from pronk.rl.advantages import place_scores
from pronk.rl.algorithms import Algorithm, AlgorithmConfig, Scored
from pronk.rl.health import check_step
from pronk.rl.kl import KLConfig, adapted
from pronk.rl.rewards import Given, Reward, placed
from pronk.rl.share import Share

NEAR = 1024  # tokens of a forward on a CPU: more write to new pages each time, at a sixth of its time (LOG.md)
MULTIPLE, GPU_MULTIPLE = 4, 32  # on a GPU, rows of one length, so that few shapes are met and steps can be captured
FIRST = 8  # and so with the columns that all prompts fill


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
    forward: int = 0
    """sequences of one forward when scoring under reference and critic; 0 = 64, on a CPU about 1024 tokens"""
    missing_end: float = 0.0
    """added to the score of an answer that was cut before its end token"""
    cut: Literal["learn", "mask"] = "learn"
    """mask: answers that were cut at the limit are not learned from (DAPO's overlong filter)"""
    soft_end: int = 0
    """tokens before the limit in which a penalty grows from 0 to -1 (DAPO's soft overlong punishment); 0 = off"""


class Round(NamedTuple):
    """What a listener hears of: the round's number, its samples and what they are learned from, its statistics."""

    number: int
    samples: list[Sample]
    rollouts: Rollouts
    statistics: dict[str, float]


class RolloutSource:
    """Yields Rollouts, round after round, without end; never prefetched, since each round needs the newest weights.

    Everything random is a pure function of (seed, round), so the state is the round and the KL coefficient.

    engine: samples from `policy`, whose weights it loads before each round.
    policy, critic: as trained; critic None where the algorithm has none. reference: frozen, None where kl.coef is 0.
    encode: prompt -> ids. rewards: {name: (weight, reward)}, added up. gold: the same, watched and never learned from.
    listen: called with each Round after it was scored.
    compute: the learner's forward context, so that old and new log-probabilities are made alike.
    share: this rank's part of the work. refresh: brings policy and critic up to date before a round, where the learner
    trains others (sharded over ranks).
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
        listen: Callable[[Round], None] | None = None,
        compute: Callable[[], AbstractContextManager[Any]] = nullcontext,
        gold: dict[str, tuple[float, Reward]] | None = None,
        share: Share | None = None,
        refresh: Callable[[], None] = lambda: None,
    ) -> None:
        self.settings, self.kl = algorithm.settled(settings or AlgorithmConfig(), kl or KLConfig())
        _check(prompts, algorithm, config, self.kl, reference, critic)
        self.engine, self.policy, self.prompts, self.encode, self.stop = engine, policy, prompts, encode, stop
        self.rewards, self.gold, self.algorithm, self.config = rewards, gold or {}, algorithm, config
        self.reference, self.critic, self.seed = reference, critic, seed
        self.listen, self.compute, self.share, self.refresh = listen, compute, share or Share(), refresh
        self.share.check("--rollout.prompts", config.prompts)
        self.share.check("--rollout.minibatch", config.minibatch)
        self.round, self.coef, self.border, self.stopped, self.first = 0, self.kl.coef, True, False, False
        self.device = next(policy.parameters()).device

    def __iter__(self) -> Iterator[Rollouts]:
        while True:
            samples = self.sample()
            whole, found = self.score(samples)
            if self.listen is not None:
                self.listen(Round(self.round, samples, whole, found))
            parts = list(self._minibatches(whole))
            self.round += 1
            if self.kl.adaptive:
                self.coef = adapted(self.coef, self.kl, found["kl/sequence"], len(samples))
            self.stopped = False
            for i, part in enumerate(parts):
                self.border, self.first = i == len(parts) - 1, i == 0
                yield part
                if self.stopped:
                    break
            self.border = True

    def tell(self, metrics: Mapping[str, float]) -> None:
        """Hear of the step that was just taken: numbers out of range are an error, an early stop ends the round."""
        check_step(metrics, self.engine.model.config.vocab, self.first)
        self.stopped = metrics.get("stopped", 0.0) > 0
        self.border = self.border or self.stopped

    def state(self) -> dict[str, Any]:
        assert self.border, "rollouts are saved between rounds only"
        return {"round": self.round, "coef": self.coef}

    def restore(self, state: dict[str, Any]) -> None:
        self.round, self.coef = state["round"], state["coef"]

    def steps(self) -> int:
        """Optimizer steps of a round."""
        rows = self.config.prompts * self.config.n
        return self.settings.epochs * -(-rows // (self.config.minibatch or rows))

    def sample(self) -> list[Sample]:
        """One round of answers from the present policy."""
        self.refresh()
        self.engine.load(self.policy)
        prompts = [self.prompts[i] for i in self._turn()]
        ids = [self.encode(prompt) for prompt in prompts]
        c = self.config
        seeds = [_number(self.seed, "sample", self.round, i) for i in range(len(prompts))]
        how = [Sampling(c.max_tokens, c.temperature, n=c.n, stop=(self.stop,), seed=s) for s in seeds]
        found = self.share.whole(self.engine.generate(self.share.mine(ids), self.share.mine(how)))
        return [
            Sample(prompts[i // c.n], x.text or "", list(x.prompt), x.ids, x.logps, x.finish)
            for i, x in enumerate(found)
        ]

    def score(self, samples: list[Sample]) -> tuple[Rollouts, dict[str, float]]:
        """Rewards, log-probabilities, values and advantages of a round, and its statistics."""
        on_gpu = self.device.type == "cuda"
        asked, answered = [s.prompt_ids for s in samples], [s.ids for s in samples]
        longest = max(len(s.prompt_ids) + len(s.ids) - 1 for s in samples)
        multiple = MULTIPLE if not on_gpu else GPU_MULTIPLE if longest > GPU_MULTIPLE else 1
        first = min(map(len, asked)) - 1
        first -= first % FIRST if longest > GPU_MULTIPLE else 0
        tokens, targets = pad_rollouts(asked, answered, pad=0, multiple=multiple)
        batch = Batch(tokens, targets, dense=on_gpu, first=first).map(lambda x: x.to(self.device))
        logps, values = self._judged(samples, batch)
        ref_logps = self._forward(self.reference, batch, self._read)[0] if self.reference is not None else logps
        rewards, judged, found = self._rewards(samples, (targets != IGNORE).float())
        for sample, reward in zip(samples, rewards.sum(1).tolist()):
            sample.reward = reward
        rewards, mask = rewards.to(self.device), judged.to(self.device)
        numbers = statistics.prompt_numbers(samples).to(self.device)
        gap = (logps - ref_logps) * mask
        shaped = rewards - self.coef * gap if self.kl.where == "reward" else rewards  # k1, detached
        advantages, returns = self.algorithm.advantage(Scored(shaped, values, mask, numbers), self.settings)
        found |= statistics.of_round(rewards, shaped, gap, values, returns, advantages, mask, numbers)
        found |= statistics.of_values(values, returns, mask) if self.algorithm.critic else {}
        found |= statistics.of_answers(samples) | {"kl/coef": self.coef}
        learned = torch.where(mask > 0, batch.targets, IGNORE)
        if self.config.cut == "mask":
            finished = torch.tensor([[s.finish != "length"] for s in samples], device=self.device)
            learned = torch.where(finished, learned, IGNORE)
        return (
            Rollouts(
                batch.tokens,
                learned,
                dense=on_gpu,
                first=first,
                logps=logps,
                ref_logps=ref_logps,
                advantages=advantages,
                values=values,
                returns=returns,
                fresh=self._fresh(),
            ),
            found,
        )

    def _fresh(self) -> bool:
        """Whether the old log-probabilities need no forward: the round's one step makes them itself."""
        in_reward = self.reference is not None and self.kl.where == "reward"
        return self.steps() == 1 and not in_reward

    def _judged(self, samples: list[Sample], batch: Batch) -> tuple[Tensor, Tensor]:
        """Log-probabilities under the policy, and the critic's values; one forward makes both where they share a body.

        The log-probabilities are the learner's own, or in a round of one step the engine's.
        """
        critic = self.critic if self.algorithm.critic else None
        if isinstance(critic, ActorCritic) and critic.policy is self.policy and not self._fresh():
            logps, values = self._forward(critic, batch, self._read, _read_values)
            return logps, values
        if self._fresh():
            noted = pad_values([s.prompt_ids for s in samples], [s.logps for s in samples], batch.tokens.shape[1])
            logps = noted.to(self.device)
        else:
            (logps,) = self._forward(self.policy, batch, self._read)
        return logps, self._forward(critic, batch, _read_values)[0] if critic is not None else torch.zeros_like(logps)

    def _rewards(self, samples: list[Sample], mask: Tensor) -> tuple[Tensor, Tensor, dict[str, float]]:
        """Weighted sum of the rewards for each token [B, T], the mask of tokens that all of them judge, and the mean
        of each part; on the CPU."""
        total, judged, parts = torch.zeros_like(mask), mask, {}
        for name, (weight, reward) in self.rewards.items():
            found, here = placed(name, self._scored(reward, samples), samples, mask)
            total += weight * found
            judged = judged * here
            parts[f"reward/{name}"] = float(found.sum() / len(samples))
        watched = torch.zeros_like(mask)
        for name, (weight, reward) in self.gold.items():
            found, _ = placed(name, self._scored(reward, samples), samples, mask)
            watched += weight * found
            parts[f"gold/{name}"] = float(found.sum() / len(samples))
        if self.gold:
            parts["gold/mean"] = float(watched.sum() / len(samples))
        c = self.config
        if c.missing_end:
            cut = torch.tensor([float(s.finish == "length") for s in samples])
            total += place_scores(c.missing_end * cut, mask)
        if c.soft_end:
            beyond = torch.tensor([float(len(s.ids) - (c.max_tokens - c.soft_end)) for s in samples])
            total -= place_scores(beyond.clamp(min=0) / c.soft_end, mask)
        return total, judged, parts

    def _scored(self, reward: Reward, samples: list[Sample]) -> Sequence[Given]:
        return self.share.whole(reward(list(self.share.mine(samples))))

    @torch.no_grad()
    def _forward(self, model: nn.Module, batch: Batch, *reads: Callable[[Output, Batch], Tensor]) -> list[Tensor]:
        """What each of `reads` makes of the model's output, [B, T] each."""
        found: list[list[Tensor]] = [[] for _ in reads]
        fitting = 64 if self.device.type == "cuda" else max(1, NEAR // batch.tokens.shape[1])
        for part in self.share.rows(batch).split(self.config.forward or fitting):
            with self.compute():
                output = model(**part.inputs())
                for rows, read in zip(found, reads):
                    rows.append(read(output, part).float())
        return [self.share.whole_tensor(torch.cat(rows)) for rows in found]

    def _read(self, output: Output, part: Batch) -> Tensor:
        return head_math.logps(output, part.targets, self.config.temperature, part.dense, part.first)[0]

    def _turn(self) -> list[int]:
        """Indices of this round's prompts: each prompt comes once before any comes again, in a seeded order."""
        start, total = self.round * self.config.prompts, len(self.prompts)
        chosen: list[int] = []
        for epoch in range(start // total, (start + self.config.prompts - 1) // total + 1):
            order = self._permutation(total, "prompts", epoch)
            chosen += order[max(start - epoch * total, 0) : start + self.config.prompts - epoch * total].tolist()
        return chosen

    def _minibatches(self, whole: Rollouts) -> Iterator[Rollouts]:
        """Each epoch in a fresh order, cut into equal parts; a shorter last part is kept."""
        for epoch in range(self.settings.epochs):
            order = self._permutation(len(whole), "minibatches", epoch, self.round).to(self.device)
            shuffled: Rollouts = whole.map(lambda x, order=order: x[order])  # type: ignore[misc]
            yield from map(self.share.rows, shuffled.split(self.config.minibatch or len(whole)))

    def _permutation(self, total: int, *key: str | int) -> Tensor:
        return torch.randperm(total, generator=torch.Generator().manual_seed(_number(self.seed, *key)))


def _read_values(output: Output, part: Batch) -> Tensor:
    assert output.values is not None
    return output.values * (part.targets != IGNORE)


def _check(
    prompts: Sequence[Prompt],
    algorithm: Algorithm,
    config: RolloutConfig,
    kl: KLConfig,
    reference: nn.Module | None,
    critic: nn.Module | None,
) -> None:
    if not prompts:
        raise UserError("there are no prompts to sample answers for")
    if config.n < algorithm.group:
        raise UserError(f"--rollout.n {config.n}: this algorithm compares a prompt's answers; give 2 or more")
    if not 0 <= config.soft_end <= config.max_tokens:
        raise UserError(f"--rollout.soft-end {config.soft_end}: give 0 (off) to --rollout.max-tokens")
    if kl.adaptive and kl.where == "loss":
        replace(kl)  # says what is wrong
    if kl.coef and reference is None:
        raise ValueError("kl.coef needs a reference model")
    if algorithm.critic and critic is None:
        raise ValueError("this algorithm needs a critic")


def _number(*key: str | int) -> int:
    """A number below 2^62 that is a pure function of the key."""
    return int.from_bytes(hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest(), "big") >> 2
