"""Feed-forward layers: gated ones (Shazeer 2020, arXiv 2002.05202) and the plain ones before them."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pronk.models import kernels_joined
from pronk.models.config import ModelConfig


class SwiGLU(nn.Module):
    """(silu(x gate) * x up) down: three matrices without biases, as in Llama."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.width, config.inner, bias=False)
        self.up = nn.Linear(config.width, config.inner, bias=False)
        self.down = nn.Linear(config.inner, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if kernels_joined.fits(x, self.gate, self.up):
            return self.down(kernels_joined.gated(x, self.gate, self.up))
        return self.down(F.silu(self.gate(x)) * self.up(x))


class SwiGLUSingle(nn.Module):
    """The same gate from one biased matrix of twice the inner width, as in the Tiny-Llama from ground blocks."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.width, 2 * config.inner)
        self.down = nn.Linear(config.inner, config.width)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Gelu(nn.GELU):
    """GELU by its tanh formula (Hendrycks and Gimpel 2016, arXiv 1606.08415), on a GPU as the sigmoid it is equal to,
    whose exponential is quicker than a tanh where all around it is one kernel."""

    def __init__(self) -> None:
        super().__init__("tanh")

    def forward(self, x: Tensor) -> Tensor:
        return gelu(x) if torch.compiler.is_compiling() and x.is_cuda else super().forward(x)


def gelu(x: Tensor) -> Tensor:
    """The tanh formula's (1 + tanh(u)) / 2 as sigmoid(2u)."""
    return x * torch.sigmoid((8 / math.pi) ** 0.5 * (x + 0.044715 * x**3))


class Plain(nn.Module):
    """Two biased matrices around an activation: ReLU (Transformer, 2017), then GELU by its tanh formula (GPT)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, config.inner)
        self.down = nn.Linear(config.inner, config.width)
        self.activation = Gelu() if config.feedforward == "gelu" else nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x)))


FEEDFORWARDS = {"swiglu": SwiGLU, "swiglu-single": SwiGLUSingle, "gelu": Plain, "relu": Plain}
