"""Causal self-attention with grouped queries (Ainslie et al. 2023) through torch's scaled_dot_product_attention."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pronk.models.config import ModelConfig
from pronk.models.positions import rotate
from pronk.models.state import KVState


class Attention(nn.Module):
    """Queries in `heads`, keys and values in `kv_heads`; no biases."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.heads, self.kv_heads, self.head_dim = layer, config.heads, config.key_heads, config.head_size
        self.q = nn.Linear(config.width, self.heads * self.head_dim, bias=False)
        self.k = nn.Linear(config.width, self.kv_heads * self.head_dim, bias=False)
        self.v = nn.Linear(config.width, self.kv_heads * self.head_dim, bias=False)
        self.o = nn.Linear(self.heads * self.head_dim, config.width, bias=False)

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor | None,
        state: KVState | None,
        columns: Tensor | None,
    ) -> Tensor:
        """x [B, T, D] -> [B, T, D]. mask [B, 1, T, S] says what is seen; None = causal among the T tokens."""
        B, T, _ = x.shape
        q = rotate(self.q(x).view(B, T, self.heads, self.head_dim).transpose(1, 2), *rotary)
        k = rotate(self.k(x).view(B, T, self.kv_heads, self.head_dim).transpose(1, 2), *rotary)
        v = self.v(x).view(B, T, self.kv_heads, self.head_dim).transpose(1, 2)
        if state is not None and columns is not None:
            state.write(self.layer, columns, k, v)
            if not state.fresh:
                k, v = state.read(self.layer)
        return self.o(attend(q, k, v, mask).transpose(1, 2).reshape(B, T, -1))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(K)) v with q [B, H, T, K], k and v [B, G, S, K]; mask None = causal.

    On a CPU in bfloat16 by plain products: torch's fused kernel takes four times as long to train there (LOG.md).
    """
    grouped = q.shape[1] != k.shape[1]
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped)
    if grouped:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril() if mask is None else mask
    bias = torch.zeros_like(seen, dtype=q.dtype).masked_fill_(~seen, float("-inf"))
    return ((q * q.shape[3] ** -0.5) @ k.mT + bias).softmax(-1) @ v


def visible(positions: Tensor | None, documents: Tensor | None, state: KVState | None, length: int) -> Tensor | None:
    """Which keys each query may see, [B, 1, T, S]; None where that is plain causal order.

    A token sees the tokens before it in its own document. With a state that is not fresh, S is the state's span and
    a query sees every stored position up to its own.
    """
    if state is not None and not state.fresh:
        if positions is None:
            raise ValueError("a forward that continues a state needs positions [B, T]")
        stored = torch.arange(state.span, device=positions.device)
        return (stored <= positions.clamp(min=0)[:, :, None])[:, None]
    if documents is None:
        return None
    same = documents[:, :, None] == documents[:, None, :]
    return (same & torch.ones_like(same[0]).tril())[:, None]
