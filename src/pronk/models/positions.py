"""How tokens know their places: rotary (Su et al. 2021, arXiv 2104.09864), learned, or sinusoidal positions."""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from pronk.models.config import ModelConfig


def frequencies(config: ModelConfig) -> Tensor:
    """Radians a position for each pair of a head's dimensions that turn, [rotary_size / 2].

    With rope_factor > 1 (Llama 3.1): waves longer than context / rope_low are stretched by the factor, waves shorter
    than context / rope_high are kept, and those between are blended.
    """
    exponents = torch.arange(0, config.rotary_size, 2, dtype=torch.float32) / config.rotary_size
    plain = 1.0 / config.rope_theta**exponents  # rounded as transformers does: an ulp here is 1e-3 at position 16,384
    if config.rope_factor == 1.0:
        return plain
    turns = config.rope_original / (2 * math.pi / plain)  # full turns within the original context
    share = ((turns - config.rope_low) / (config.rope_high - config.rope_low)).clamp(0, 1)
    return (1 - share) * plain / config.rope_factor + share * plain


def stretches(config: ModelConfig) -> Tensor:
    """How many times longer each wave is than without scaling, [rotary_size / 2]."""
    return frequencies(replace(config, rope_factor=1.0)) / frequencies(config)


class Table(nn.Module):
    """Numbers that follow from the config and are no weights."""

    @abstractmethod
    def reset(self) -> None:
        """Fill the tables; needed again after a model that was built on the meta device gets its memory."""


class Rotary(Table):
    """Tables of cosine and sine for every position up to the context, [context, rotary_size / 2]."""

    cosine: Tensor
    sine: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("cosine", torch.empty(config.context, config.rotary_size // 2), persistent=False)
        self.register_buffer("sine", torch.empty(config.context, config.rotary_size // 2), persistent=False)
        self.reset()

    def reset(self) -> None:
        angles = torch.outer(torch.arange(self.config.context, dtype=torch.float32), frequencies(self.config))
        self.cosine.copy_(angles.cos())
        self.sine.copy_(angles.sin())

    def forward(self, positions: Tensor | None, length: int) -> tuple[Tensor, Tensor]:
        """Cosine and sine for `rotate`: [T, 1, rotary_size] or [B, T, 1, rotary_size]."""
        if positions is None:
            return whole(self.cosine[:length, None], self.sine[:length, None])
        places = positions.clamp(min=0)
        return whole(self.cosine[places][:, :, None], self.sine[places][:, :, None])


def whole(cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
    """Tables of both halves of a head from those of a pair [.., half]; the sine of the first half is subtracted."""
    return torch.cat((cosine, cosine), dim=-1), torch.cat((-sine, sine), dim=-1)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn each pair (i, i + half) of x [B, T, H, head_dim] by its angle; Hugging Face's order of the pairs."""
    return (x * cosine + x.roll(x.shape[-1] // 2, dims=-1) * sine).to(x.dtype)


def rotate_part(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn the first dimensions of each head, as many as the tables know; leave the rest (Phi)."""
    turning = cosine.shape[-1]
    return torch.cat((rotate(x[..., :turning], cosine, sine), x[..., turning:]), dim=-1)


def unturned(x: Tensor, *tables: Tensor) -> Tensor:
    """What attention does to queries and keys whose positions are in the embedding."""
    return x


def rotation(config: ModelConfig) -> Callable[..., Tensor]:
    """What turns queries and keys: (x [B, H, T, head_dim], cosine, sine) -> x."""
    if config.positions != "rotary":
        return unturned
    return rotate if config.rotary_size == config.head_size else rotate_part


class Still(nn.Module):
    """No tables: nothing turns."""

    def forward(self, positions: Tensor | None, length: int) -> tuple[Tensor, ...]:
        return ()


class Unplaced(nn.Module):
    """The embedding as it is: attention itself turns by position."""

    def forward(self, x: Tensor, positions: Tensor | None) -> Tensor:
        return x


class Learned(nn.Embedding):
    """A learned vector for each position, added to the embedding x [B, T, D] (GPT)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config.context, config.width)

    def forward(self, x: Tensor, positions: Tensor | None) -> Tensor:  # type: ignore[override]
        if positions is None:
            return x + self.weight[: x.shape[1]]
        return x + super().forward(positions.clamp(min=0))


class Sinusoidal(Table):
    """x sqrt(D) + waves: sines on even dimensions, cosines on odd (Vaswani et al. 2017, sections 3.4 and 3.5)."""

    waves: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("waves", torch.empty(config.context, config.width), persistent=False)
        self.reset()

    def reset(self) -> None:
        width = self.config.width
        rates = 10_000.0 ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
        angles = torch.outer(torch.arange(self.config.context, dtype=torch.float32), rates)
        self.waves.copy_(torch.stack((angles.sin(), angles.cos()), -1).flatten(1))

    def forward(self, x: Tensor, positions: Tensor | None) -> Tensor:
        places = self.waves[: x.shape[1]] if positions is None else self.waves[positions.clamp(min=0)]
        return x * self.config.width**0.5 + places.to(x.dtype)


EMBEDDED: dict[str, Callable[[ModelConfig], nn.Module]] = {
    "rotary": lambda config: Unplaced(),
    "learned": Learned,
    "sinusoidal": Sinusoidal,
}
