"""What packed documents and windows let each query see, in blocks: compiled attention passes over what none sees.

FlexAttention (Dong et al. 2024, arXiv 2412.05496) makes the kernel; only compiled blocks on a GPU take this way.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

BLOCK = 128  # tokens


def fits(tokens: Tensor, compiled: bool) -> bool:
    """Whether a forward over tokens [B, T] may see by blocks: of a training step, on a GPU, compiled, whole blocks."""
    return compiled and tokens.is_cuda and torch.is_grad_enabled() and tokens.shape[1] % BLOCK == 0


def blocks(documents: Tensor | None, length: int, window: int, device: torch.device) -> BlockMask:
    """As attention.visible without a state; documents [B, T] or None, T = length, a multiple of BLOCK.

    A block of keys is left out where the documents of its tokens and of the queries' lie apart, and needs no look at
    single tokens where both are of one document.
    """
    first = torch.arange(0, length, BLOCK, device=device)
    age = (first[:, None] - first)[None]  # of the first query to the first key of two blocks, [1, Q, K]
    some, every = age >= 0, age > 0
    if window:
        some, every = some & (age < window + BLOCK - 1), every & (age < window - BLOCK + 1)
    if documents is not None:
        low, high = documents.view(len(documents), -1, BLOCK).aminmax(dim=2)
        some = some & (low[:, :, None] <= high[:, None]) & (low[:, None] <= high[:, :, None])
        every = every & (low[:, :, None] == high[:, None]) & (low[:, None] == high[:, :, None])
    partly = _ordered(some & ~every)
    return BlockMask.from_kv_blocks(*partly, *_ordered(every), BLOCK, _seen(documents, window))


def _ordered(dense: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks each row of dense [B, Q, K] has, [B, 1, Q], and which, those first, [B, 1, Q, K]."""
    chosen = dense[:, None].int()
    return chosen.sum(-1, dtype=torch.int32), chosen.argsort(dim=-1, descending=True, stable=True).int()


def _seen(documents: Tensor | None, window: int) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    def near(query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (query - key < window) if window else query >= key

    if documents is None:
        return lambda row, head, query, key: near(query, key)
    return lambda row, head, query, key: near(query, key) & (documents[row, query] == documents[row, key])


def attend(q: Tensor, k: Tensor, v: Tensor, seen: BlockMask, scale: float | None = None) -> Tensor:
    """As attention.attend, seen in blocks."""
    found = flex_attention(q, k, v, block_mask=seen, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
    assert isinstance(found, Tensor)
    return found
