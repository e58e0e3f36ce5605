"""How the next pair is chosen, as options; pick.py does it."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Rule:
    """How pairs are chosen. Whatever the rule, pairs of the evaluation part come in a uniform order."""

    choose: Literal["uniform", "doubt"] = "uniform"
    """the next pair: any, or the one about which the reward models (--score) agree least"""
    evaluation: float = 0.2
    """share of the prompts kept for evaluation: chosen uniformly and judged by everyone"""
    repeat: float = 0.05
    """share of the questions that show a person what they judged before, to see whether they agree with themselves"""
    gap: int = 10
    """answers between a pair and its repetition"""
    seed: int = 0
    """of sides and repetitions"""
