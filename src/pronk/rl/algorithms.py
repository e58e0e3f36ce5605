"""An RL algorithm is one row: how rewards become advantages, which loss spends them, how often samples are used."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from torch import Tensor

from pronk.errors import UserError
from pronk.rl import advantages, losses
from pronk.rl.kl import KLConfig


@dataclass(frozen=True)
class AlgorithmConfig:
    """Knobs of the algorithms; a row uses those it needs."""

    epochs: int = 0
    """passes over each round's samples; 0 = the algorithm's own"""
    aggregate: Literal["own", "tokens", "answers", "sum", "constant"] = "own"
    """the loss: mean over the batch's tokens (ppo, dapo), or over answers of each one's mean (grpo), of its sum
    (reinforce, rloo), or of its sum divided by --rollout.max-tokens (dr-grpo); own = the algorithm's"""
    gamma: float = 1.0
    lam: float = 0.95
    whiten: bool = True
    """ppo: advantages get mean 0 and variance 1 over the round's tokens"""
    whiten_rewards: bool = False
    """ppo: rewards are scaled to variance 1, keeping their mean"""
    entropy: float = 0.0
    """adds so much of each token's entropy to what is maximised, so that the policy keeps exploring (PPO, eq. 9)"""
    clip: losses.ClipConfig = field(default_factory=losses.ClipConfig)


class Scored(NamedTuple):
    """A round as advantages are made of it."""

    rewards: Tensor  # [B, T], one for each sampled token
    values: Tensor  # [B, T], the critic's, of the state before the token
    mask: Tensor  # [B, T], 1 on sampled tokens
    prompts: Tensor  # [B], which prompt a row answers


Advantage = Callable[[Scored, AlgorithmConfig], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Algorithm:
    """advantage: (a scored round, config) -> (advantages, returns), [B, T] each.

    made: (temperature, config, kl, longest answer) -> loss. aggregate, kl, ratio_high: its own, where the user leaves
    it the choice. group: fewest answers to a prompt.
    """

    advantage: Advantage
    made: Callable[[float, AlgorithmConfig, KLConfig, int], losses.Loss]
    critic: bool = False
    epochs: int = 1
    aggregate: losses.Aggregate = "sum"
    kl: Literal["reward", "loss"] = "reward"
    ratio_high: float = 0.0
    group: int = 1

    def settled(self, config: AlgorithmConfig, kl: KLConfig) -> tuple[AlgorithmConfig, KLConfig]:
        """The settings with this algorithm's own choices filled in."""
        aggregate = self.aggregate if config.aggregate == "own" else config.aggregate
        if self.made is _rloo and aggregate != "sum":
            raise UserError(f"--rl.aggregate {aggregate}: rloo takes an answer as one action, which is 'sum'")
        if self.made is _reinforce and aggregate == "constant":
            raise UserError("--rl.aggregate constant: reinforce has 'sum', which is the same but for the learning rate")
        clip = replace(config.clip, ratio_high=config.clip.ratio_high or self.ratio_high)
        epochs = config.epochs or self.epochs
        where = self.kl if kl.where == "own" else kl.where
        return replace(config, epochs=epochs, aggregate=aggregate, clip=clip), replace(kl, where=where)

    def loss(self, temperature: float, config: AlgorithmConfig, kl: KLConfig, longest: int = 0) -> losses.Loss:
        """Its loss under these settings; longest: tokens an answer may have."""
        return self.made(temperature, *self.settled(config, kl), longest)


def _reinforce(temperature: float, config: AlgorithmConfig, kl: KLConfig, longest: int) -> losses.Loss:
    return losses.policy_gradient(temperature, kl, _aggregate(config), config.entropy)


def _rloo(temperature: float, config: AlgorithmConfig, kl: KLConfig, longest: int) -> losses.Loss:
    return losses.clipped_answers(temperature, config.clip, kl, config.entropy)


def _clipped(temperature: float, config: AlgorithmConfig, kl: KLConfig, longest: int) -> losses.Loss:
    return losses.clipped(temperature, config.clip, kl, _aggregate(config), longest, entropy=config.entropy)


def _ppo(temperature: float, config: AlgorithmConfig, kl: KLConfig, longest: int) -> losses.Loss:
    aggregate = _aggregate(config)
    return losses.clipped(temperature, config.clip, kl, aggregate, longest, critic=True, entropy=config.entropy)


def _aggregate(config: AlgorithmConfig) -> losses.Aggregate:
    assert config.aggregate != "own", "settle the settings first"
    return config.aggregate


def _to_go(x: Scored, config: AlgorithmConfig) -> tuple[Tensor, Tensor]:
    return advantages.reward_to_go(x.rewards, x.mask, x.prompts), advantages.to_go(x.rewards, x.mask)


def _left_out(x: Scored, config: AlgorithmConfig) -> tuple[Tensor, Tensor]:
    return advantages.leave_one_out(x.rewards, x.mask, x.prompts), advantages.whole(x.rewards, x.mask)


def _normalized(x: Scored, config: AlgorithmConfig) -> tuple[Tensor, Tensor]:
    return advantages.group_relative(x.rewards, x.mask, x.prompts), advantages.whole(x.rewards, x.mask)


def _centred(x: Scored, config: AlgorithmConfig) -> tuple[Tensor, Tensor]:
    return advantages.group_relative(x.rewards, x.mask, x.prompts, scale=False), advantages.whole(x.rewards, x.mask)


def _estimated(x: Scored, config: AlgorithmConfig) -> tuple[Tensor, Tensor]:
    rewards = advantages.whiten(x.rewards, x.mask, keep_mean=True) if config.whiten_rewards else x.rewards
    found, returns = advantages.gae(rewards, x.values, x.mask, config.gamma, config.lam)
    return (advantages.whiten(found, x.mask) if config.whiten else found), returns


ALGORITHMS = {
    "reinforce": Algorithm(_to_go, _reinforce),
    "rloo": Algorithm(_left_out, _rloo, group=2),
    "grpo": Algorithm(_normalized, _clipped, aggregate="answers", kl="loss", group=2),
    "dr-grpo": Algorithm(_centred, _clipped, aggregate="constant", kl="loss", group=2),
    "dapo": Algorithm(_normalized, _clipped, aggregate="tokens", kl="loss", ratio_high=0.28, group=2),
    "ppo": Algorithm(_estimated, _ppo, critic=True, epochs=4, aggregate="tokens"),
}
