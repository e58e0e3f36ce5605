"""Causal self-attention with grouped queries (Ainslie et al. 2023) through torch's scaled_dot_product_attention."""

from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask

from pronk.models import flex, kernels_joined, kernels_short
from pronk.models.config import ModelConfig
from pronk.models.norms import RMSNorm
from pronk.models.positions import rotate, rotation
from pronk.models.state import KVState

# torch's kernels in the order in which compiled code tries them.
LASTING = [
    *(SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH),
]


class View(NamedTuple):
    """What a layer's queries see, and where its new keys and values are stored."""

    mask: Tensor | BlockMask | None  # [B, 1, T, S]; None = causal among the T tokens
    state: KVState | None = None
    columns: Tensor | None = None  # [B, T]


class Attention(nn.Module):
    """Queries in `heads`, keys and values in `kv_heads`."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.heads, self.kv_heads, self.head_dim = layer, config.heads, config.key_heads, config.head_size
        biased = config.attention_bias == "all"
        self.q = nn.Linear(config.width, self.heads * self.head_dim, bias=biased)
        self.k = nn.Linear(config.width, self.kv_heads * self.head_dim, bias=biased)
        self.v = nn.Linear(config.width, self.kv_heads * self.head_dim, bias=biased)
        self.o = nn.Linear(self.heads * self.head_dim, config.width, bias=config.attention_bias != "none")
        self.q_norm = RMSNorm(self.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(self.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()
        self.rotate = rotation(config)
        self.plain = self.rotate is rotate and not config.qk_norm  # nothing but the turning is done to heads
        self.scale = None if config.attention_scaled else 1.0  # None: by the root of head_dim

    def forward(self, x: Tensor, rotary: tuple[Tensor, ...], view: View) -> Tensor:
        """x [B, T, D] -> [B, T, D]."""
        B, T, _ = x.shape
        q, k, v = (y.transpose(1, 2) for y in self._heads(x, rotary))
        if view.state is not None and view.columns is not None:
            k, v = view.state.join(self.layer, view.columns, k, v)
        return self.o(attend(q, k, v, view.mask, self.scale).transpose(1, 2).reshape(B, T, -1))

    def _heads(self, x: Tensor, rotary: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of x [B, T, D], [B, T, heads, head_dim] each."""
        if self.plain and kernels_joined.fits(x, self.q, self.k, self.v):
            return kernels_joined.heads(x, self.q, self.k, self.v, rotary, self.head_dim)
        q, k, v = (layer(x).unflatten(-1, (-1, self.head_dim)) for layer in (self.q, self.k, self.v))
        return self.rotate(self.q_norm(q), *rotary), self.rotate(self.k_norm(k), *rotary), v


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | BlockMask | None, scale: float | None = None) -> Tensor:
    """softmax(scale q k^T) v with q [B, H, T, K], k and v [B, G, S, K]; mask None = causal, scale None = 1 / sqrt(K).

    Short rows have a kernel of their own on a GPU. On a CPU in bfloat16 by plain products: torch's fused kernel takes
    four times as long to train there (LOG.md).
    Compiled code, whose shapes last, may take cuDNN's kernel, which plans for tens of milliseconds at each new shape.
    """
    if isinstance(mask, BlockMask):
        return flex.attend(q, k, v, mask, scale)
    if mask is None and kernels_short.fits(q, k):
        return kernels_short.attend(q, k, v, scale)
    grouped = q.shape[1] != k.shape[1]
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        with sdpa_kernel(LASTING, set_priority=True) if torch.compiler.is_compiling() else nullcontext():
            return F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=grouped
            )
    if grouped:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril() if mask is None else mask
    bias = torch.zeros_like(seen, dtype=q.dtype).masked_fill_(~seen, float("-inf"))
    return ((q * (q.shape[3] ** -0.5 if scale is None else scale)) @ k.mT + bias).softmax(-1) @ v


def visible(
    positions: Tensor | None,
    documents: Tensor | None,
    state: KVState | None,
    length: int,
    window: int = 0,
    device: torch.device | None = None,
) -> Tensor | None:
    """Which keys each query may see, [B, 1, T, S]; None where that is plain causal order.

    A token sees the tokens before it in its own document, the newest `window` of them with itself (0 = all). With a
    state that is not fresh, S is what `KVState.join` returns, and a query sees every stored position up to its own.
    """
    if state is not None and not state.fresh:
        if positions is None:
            raise ValueError("a forward that continues a state needs positions [B, T]")
        if length > 1 and state.wraps(window):
            return _over_ring(positions, state, window)
        stored = torch.arange(min(state.span, state.size(window)), device=positions.device)
        return (stored <= positions.clamp(min=0)[:, :, None])[:, None]  # a ring's columns are all full once it wraps
    if documents is None and not 0 < window < length:
        return None
    order = torch.arange(length, device=device if documents is None else documents.device)
    age = order[:, None] - order
    seen = (age >= 0) & (age < (window or length))
    return seen[None, None] if documents is None else (seen & (documents[:, :, None] == documents[:, None, :]))[:, None]


def _over_ring(positions: Tensor, state: KVState, window: int) -> Tensor:
    """What a chunk [B, T] may see of a ring and of itself, [B, 1, T, ring + T]; padding sees itself, so no NaN arises.

    Before the chunk is written, column c holds the newest position below the chunk's first that is c modulo the size.
    """
    T, size = positions.shape[1], state.size(window)
    columns = torch.arange(min(state.span, size), device=positions.device)
    newest = positions.masked_fill(positions < 0, state.length).amin(1, keepdim=True) - 1
    keys = torch.cat((newest - (newest - columns) % size, positions), 1)[:, None]  # positions [B, 1, S]; below 0: none
    queries = positions[:, :, None]
    seen = (keys >= 0) & (keys <= queries) & (keys > queries - window)
    seen[:, :, -T:] |= torch.eye(T, dtype=torch.bool, device=positions.device)
    return seen[:, None]
