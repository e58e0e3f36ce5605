"""Rotary positions (Su et al. 2021, arXiv 2104.09864) with the frequency scaling of Llama 3.1."""

import math

import torch
from torch import Tensor, nn

from pronk.models.config import ModelConfig


def frequencies(config: ModelConfig) -> Tensor:
    """Radians a position for each pair of a head's dimensions, [head_dim / 2].

    With rope_factor > 1 (Llama 3.1): waves longer than context / rope_low are stretched by the factor, waves shorter
    than context / rope_high are kept, and those between are blended.
    """
    exponents = torch.arange(0, config.head_size, 2, dtype=torch.float32) / config.head_size
    plain = 1.0 / config.rope_theta**exponents  # rounded as transformers does: an ulp here is 1e-3 at position 16,384
    if config.rope_factor == 1.0:
        return plain
    turns = config.rope_original / (2 * math.pi / plain)  # full turns within the original context
    share = ((turns - config.rope_low) / (config.rope_high - config.rope_low)).clamp(0, 1)
    return (1 - share) * plain / config.rope_factor + share * plain


class Rotary(nn.Module):
    """Tables of cosine and sine for every position up to the context, [context, head_dim / 2]."""

    cosine: Tensor
    sine: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("cosine", torch.empty(config.context, config.head_size // 2), persistent=False)
        self.register_buffer("sine", torch.empty(config.context, config.head_size // 2), persistent=False)
        self.reset()

    def reset(self) -> None:
        """Fill the tables; needed again after a model that was built on the meta device gets its memory."""
        angles = torch.outer(torch.arange(self.config.context, dtype=torch.float32), frequencies(self.config))
        self.cosine.copy_(angles.cos())
        self.sine.copy_(angles.sin())

    def forward(self, positions: Tensor | None, length: int) -> tuple[Tensor, Tensor]:
        """Cosine and sine to multiply with heads [B, H, T, head_dim]: [T, half] or [B, 1, T, half]."""
        if positions is None:
            return self.cosine[:length], self.sine[:length]
        places = positions.clamp(min=0)
        return self.cosine[places][:, None], self.sine[places][:, None]


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn each pair (i, i + half) of x [B, H, T, head_dim] by its angle; Hugging Face's order of the pairs."""
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)
    return turned.to(x.dtype)
