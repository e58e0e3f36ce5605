"""Rules that turn logits into the distribution to sample, and the draw itself: pure functions, parameters a row."""

from typing import NamedTuple

import torch
from torch import Tensor

NEVER = float("-inf")  # an argument below: TorchScript, which runs these too, knows no constants


class Rules(NamedTuple):
    """Parameters of R rows, [R, 1] each."""

    temperature: Tensor  # 0 = greedy
    top_k: Tensor  # int64; the vocabulary's size = off
    top_p: Tensor  # 1 = off
    min_p: Tensor  # 0 = off
    penalty: Tensor  # 1 = off


class Use(NamedTuple):
    """Which rules any row needs: the others are skipped. A rule that is off in a row leaves that row bit-identical."""

    greedy: bool = True
    sampled: bool = True
    top_k: bool = False
    top_p: bool = False
    min_p: bool = False
    penalty: bool = False
    adjust: bool = False
    heat: bool = True  # a temperature other than 0 and 1

    @property
    def filtered(self) -> bool:
        return self.top_k or self.top_p or self.min_p or self.penalty


def adjust(logits: Tensor, bias: Tensor, times: Tensor, frequency: Tensor, presence: Tensor) -> Tensor:
    """OpenAI's rules: add a bias [R, V]; of tokens sampled before, `times` [R, V], take frequency for each time and
    presence once [R, 1]."""
    return logits + bias - times * frequency - (times > 0) * presence


def penalize(logits: Tensor, penalty: Tensor, seen: Tensor) -> Tensor:
    """Divide positive and multiply negative logits of the tokens seen [R, V] (Keskar et al. 2019)."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def heat(logits: Tensor, temperature: Tensor) -> Tensor:
    """logits / temperature; rows of temperature 0 as they are."""
    return logits / torch.where(temperature > 0, temperature, 1.0)


def keep_top_k(logits: Tensor, top_k: Tensor, never: float = NEVER) -> Tensor:
    """The k highest logits of each row, with all that equal the lowest of them."""
    ordered = logits.sort(-1, descending=True).values
    return logits.masked_fill(logits < ordered.gather(-1, top_k - 1), never)


def keep_top_p(logits: Tensor, top_p: Tensor, never: float = NEVER) -> Tensor:
    """The fewest likeliest tokens whose probabilities sum to top_p or more (Holtzman et al. 2019)."""
    ordered, order = logits.sort(-1, descending=True)
    chances = ordered.softmax(-1)
    before = chances.cumsum(-1) - chances  # mass of the likelier tokens
    drop = (before >= top_p) & (top_p < 1)
    drop[..., 0] = False
    return logits.masked_fill(torch.zeros_like(drop).scatter(-1, order, drop), never)


def keep_min_p(logits: Tensor, min_p: Tensor, never: float = NEVER) -> Tensor:
    """Tokens at least min_p times as likely as the likeliest (Nguyen et al. 2024)."""
    return logits.masked_fill(logits < logits.amax(-1, keepdim=True) + min_p.log(), never)


def shape(logits: Tensor, rules: Rules, use: Use, seen: Tensor | None = None) -> Tensor:
    """Logits [R, V] after all rules, -inf where a token may not be sampled; greedy rows at temperature 1."""
    if use.penalty and seen is not None:
        logits = penalize(logits, rules.penalty, seen)
    if use.heat:
        logits = heat(logits, rules.temperature)
    if use.top_k:
        logits = keep_top_k(logits, rules.top_k)
    if use.top_p:
        logits = keep_top_p(logits, rules.top_p)
    if use.min_p:
        logits = keep_min_p(logits, rules.min_p)
    return logits


def distribution(logits: Tensor, rules: Rules, use: Use, seen: Tensor | None = None) -> Tensor:
    """Log-probabilities [R, V] of what may be sampled, renormalised after all rules."""
    return shape(logits, rules, use, seen).log_softmax(-1)


def draw(logps: Tensor, uniforms: Tensor) -> Tensor:
    """Tokens [R, 1] by inverse CDF: the first token at which the summed probability reaches uniforms [R, 1].

    Uniforms are above 0 and at most 1 and scale the sum as it was rounded, so a token of no probability is never met.
    """
    sums = logps.exp().cumsum(-1)
    return torch.searchsorted(sums, uniforms * sums[:, -1:]).clamp(max=logps.shape[-1] - 1)


def sample(logps: Tensor, temperature: Tensor, uniforms: Tensor, use: Use) -> tuple[Tensor, Tensor]:
    """A token for each row, greedy or drawn, and its log-probability: [R, 1] each."""
    if not use.sampled:
        tokens = logps.argmax(-1, keepdim=True)
    elif not use.greedy:
        tokens = draw(logps, uniforms)
    else:
        tokens = torch.where(temperature > 0, draw(logps, uniforms), logps.argmax(-1, keepdim=True))
    return tokens, logps.gather(-1, tokens)
