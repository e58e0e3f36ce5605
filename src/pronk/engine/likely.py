"""What else could have stood in each place of a text: every token's log-probability beside those of the likeliest."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pronk.engine.sampler import Rules, Use, adjust, distribution
from pronk.engine.sequence import Sampling
from pronk.errors import UserError
from pronk.models.build import Model

CHUNK = 1 << 23  # logits held at a time, elements
PLAIN = Sampling()
LOWEST = -9999.0  # stands for minus infinity, which JSON lacks


class Place(NamedTuple):
    """A token in its place; logp is None where nothing stands before it. top: ids and log-probabilities, best first."""

    id: int
    logp: float | None
    top: tuple[tuple[int, float], ...] = ()


@torch.no_grad()
def likeliest(model: Model, ids: Sequence[int], asked: int, sampling: Sampling, top: int) -> list[Place]:
    """Every token of ids with the `top` likeliest of its place. The model must be in eval mode.

    The first `asked` tokens are the prompt's: under the model's own distribution. The others were sampled: under the
    distribution that `sampling` makes. A token among the likeliest has the identical float there.
    """
    places = [Place(ids[0], None)]
    if len(ids) == 1:
        return places
    device = model.embed.weight.device
    tokens = torch.tensor([ids], device=device)
    output = model(tokens[:, :-1])
    size = max(1, CHUNK // model.config.vocab)
    for first, last, rule in ((1, asked, PLAIN), (max(asked, 1), len(ids), sampling)):
        for start in range(first, last, size):
            end = min(start + size, last)
            logits = output.head(output.hidden[0, start - 1 : end - 1]).float()  # [T, V]
            logps = _ruled(logits, rule, tokens[0], asked, start)
            places += _read(logps, tokens[0, start:end], top)
    return places


def _ruled(logits: Tensor, sampling: Sampling, tokens: Tensor, asked: int, start: int) -> Tensor:
    """Log-probabilities [T, V] under the rules; row t is followed by tokens[start + t], sampled from `asked` on."""
    T, V = logits.shape
    s, greedy = sampling, sampling.temperature == 0
    if s.adjusts:
        bias, times = torch.zeros(1, V, device=logits.device), torch.zeros_like(logits)
        for token, added in s.logit_bias:
            bias[0, token] = added
        for row in range(T):
            times[row] = tokens[asked : start + row].bincount(minlength=V)
        logits = adjust(logits, bias, times, *logits.new_tensor([[s.frequency_penalty], [s.presence_penalty]]))
    seen = None
    if s.repetition_penalty != 1:
        seen = torch.zeros(T, V, dtype=torch.bool, device=logits.device)
        for row in range(T):
            seen[row, tokens[: start + row]] = True
    top_k = V if greedy or not s.top_k else min(s.top_k, V)
    real = [s.temperature, 1.0 if greedy else s.top_p, 0.0 if greedy else s.min_p, s.repetition_penalty]
    temperature, top_p, min_p, penalty = logits.new_tensor(real)[:, None, None].expand(-1, T, 1)
    rules = Rules(temperature, torch.full((T, 1), top_k, device=logits.device), top_p, min_p, penalty)
    return distribution(logits, rules, Use(top_k=True, top_p=True, min_p=True, penalty=True), seen)


def _read(logps: Tensor, tokens: Tensor, top: int) -> list[Place]:
    if logps.isnan().any():
        raise UserError("the model's logits are not finite: its weights hold NaN or infinity, or overflow")
    chosen = logps.gather(1, tokens[:, None])[:, 0].clamp(min=LOWEST).tolist()
    best = logps.topk(min(top, logps.shape[1]), dim=1)
    rows = zip(tokens.tolist(), chosen, best.indices.tolist(), best.values.tolist())
    return [
        Place(token, logp, tuple((i, value) for i, value in zip(found, values) if value > LOWEST))
        for token, logp, found, values in rows
    ]
