"""An RL algorithm is one row: how rewards become advantages, which loss spends them, how often samples are used."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from pronk.rl import advantages, losses
from pronk.rl.kl import KLConfig


@dataclass(frozen=True)
class AlgorithmConfig:
    """Knobs of the algorithms; a row uses those it needs."""

    epochs: int = 0
    """passes over each round's samples; 0 = the algorithm's own"""
    gamma: float = 1.0
    lam: float = 0.95
    whiten: bool = True
    """ppo: advantages get mean 0 and variance 1 over the round's tokens"""
    whiten_rewards: bool = False
    """ppo: rewards are scaled to variance 1, keeping their mean"""
    clip: losses.ClipConfig = field(default_factory=losses.ClipConfig)


@dataclass(frozen=True)
class Algorithm:
    """advantage: (token rewards, values, mask, prompts, config) -> (advantages, returns), [B, T]; prompts is [B]."""

    advantage: Callable[[Tensor, Tensor, Tensor, Tensor, AlgorithmConfig], tuple[Tensor, Tensor]]
    loss: Callable[[float, AlgorithmConfig, KLConfig], losses.Loss]
    critic: bool = False
    epochs: int = 1


def _reinforce(
    rewards: Tensor, values: Tensor, mask: Tensor, prompts: Tensor, config: AlgorithmConfig
) -> tuple[Tensor, Tensor]:
    return advantages.reward_to_go(rewards, mask, prompts), advantages.to_go(rewards, mask)


def _ppo(
    rewards: Tensor, values: Tensor, mask: Tensor, prompts: Tensor, config: AlgorithmConfig
) -> tuple[Tensor, Tensor]:
    if config.whiten_rewards:
        rewards = advantages.whiten(rewards, mask, keep_mean=True)
    found, returns = advantages.gae(rewards, values, mask, config.gamma, config.lam)
    return (advantages.whiten(found, mask) if config.whiten else found), returns


ALGORITHMS = {
    "reinforce": Algorithm(_reinforce, lambda t, config, kl: losses.policy_gradient(t, kl)),
    "ppo": Algorithm(_ppo, lambda t, config, kl: losses.clipped_with_value(t, config.clip, kl), critic=True, epochs=4),
}
