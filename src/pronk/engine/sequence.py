"""What a caller asks of the engine and what it gets back, and one sample on its way between; knows no model."""

from dataclasses import dataclass, field
from math import isfinite
from typing import Literal

from pronk.engine.text import TextStream
from pronk.errors import UserError

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. Order of the rules: logit bias, presence and frequency penalty, repetition penalty,
    temperature, top-k, top-p, min-p."""

    max_tokens: int = 128
    """longest answer, tokens"""
    temperature: float = 1.0
    """below 1 keeps to the likely, above 1 wanders; 0 always takes the likeliest token (greedy)"""
    top_k: int = 0
    """only the k likeliest tokens; 0 = all"""
    top_p: float = 1.0
    """only the likeliest tokens that together reach this probability; 1 = all"""
    min_p: float = 0.0
    """only tokens at least this fraction as likely as the likeliest; 0 = all"""
    repetition_penalty: float = 1.0
    """above 1 makes tokens of the prompt and the answer less likely to come again (arXiv 1909.05858); 1 = off"""
    presence_penalty: float = 0.0
    """above 0 makes tokens of the answer less likely to come again; 0 = off (CPU only)"""
    frequency_penalty: float = 0.0
    """the same for each time that a token came; 0 = off (CPU only)"""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """token ids, and what is added to their logits (CPU only)"""
    seed: int | None = None
    """the same seed gives the same text, whatever else is generated beside it; none = drawn from torch's generator"""
    stop: tuple[int, ...] = ()
    """ids that end the answer; the id itself stays in the answer's ids"""
    stop_texts: tuple[str, ...] = ()
    """strings that end the answer; cut off its text"""
    n: int = 1
    """answers to each prompt"""

    def __post_init__(self) -> None:
        wants = {
            "max_tokens": (self.max_tokens >= 0, "0 or more"),
            "temperature": (0 <= self.temperature < float("inf"), "0 (greedy) or more"),
            "top_k": (self.top_k >= 0, "0 (off) or more"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1 (off)"),
            "min_p": (0 <= self.min_p <= 1, "from 0 (off) to 1"),
            "repetition_penalty": (0 < self.repetition_penalty < float("inf"), "above 0 (1 = off)"),
            "presence_penalty": (isfinite(self.presence_penalty), "finite (0 = off)"),
            "frequency_penalty": (isfinite(self.frequency_penalty), "finite (0 = off)"),
            "logit_bias": (all(i >= 0 and isfinite(bias) for i, bias in self.logit_bias), "ids with finite numbers"),
            "seed": (self.seed is None or 0 <= self.seed < 1 << 63, "from 0 to 2^63 - 1"),
            "stop_texts": (all(self.stop_texts), "texts of at least one character"),
            "n": (self.n >= 1, "1 or more"),
        }
        for name, (good, wanted) in wants.items():
            if not good:
                raise UserError(f"{name} must be {wanted}, not {getattr(self, name)!r}")

    @property
    def adjusts(self) -> bool:
        """Whether a rule counts what was sampled, or adds a bias."""
        return bool(self.presence_penalty or self.frequency_penalty or self.logit_bias)


@dataclass
class Completion:
    """One answer. logps are those of the distribution really sampled from; of temperature 1 where it was greedy."""

    prompt: list[int]
    ids: list[int]  # as sampled, the stop id included
    logps: list[float]  # one for each of ids
    finish: Finish
    text: str | None  # without stop id and stop text; None where the engine has no decode
    seed: int  # Sampling(seed=this) gives this very answer again


@dataclass(frozen=True)
class Piece:
    """What a stream yields: the ids of one step, and the text that can be shown since (it may lag behind the ids)."""

    text: str
    ids: list[int]
    logps: list[float]
    finish: Finish | None = None  # set on the last piece


@dataclass(eq=False, slots=True)
class Request:
    """One sample of one prompt, on its way through the engine."""

    prompt: list[int]
    sampling: Sampling
    seed: int
    last: int  # the highest position its tokens may take
    text: TextStream | None = None  # where text decides when it ends, or is streamed
    born: int = 0  # the scheduler's step count when it came in, and
    full: int = 0  # when it has its full length
    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    finish: Finish | None = None
