"""A twin's products, and its step of one token a row; functions of tensors alone, so that TorchScript can run them."""

from typing import NamedTuple

import torch
from torch import Tensor


class Layer(NamedTuple):
    """One block's weights."""

    attention_norm: Tensor  # as `norm` takes it
    qkv: Tensor  # [D, (H + 2 G) K]; all products' weights lie transposed, as views of the model's
    o: Tensor
    feedforward_norm: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor
    gate_bias: Tensor | None
    up_bias: Tensor | None
    down_bias: Tensor | None


class Weights(NamedTuple):
    """A decoder's weights; its numbers of heads and their size."""

    layers: list[Layer]
    embed: Tensor
    turns: Tensor  # [context, K / 2], complex
    norm: Tensor
    head: Tensor  # [D, V]
    least: Tensor  # root of eps D
    eps: float
    heads: int
    key_heads: int
    head_size: int
    few: int  # rows from which oneDNN takes a product


def norm(x: Tensor, weight: Tensor, w: Weights) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight; in float32 `weight` comes times the root of D, and the root of a sum of two
    squares is one step where torch's norm takes six."""
    if x.element_size() < 4:
        return torch.rms_norm(x, weight.shape, weight, w.eps)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x.div(length.hypot_(w.least)).mul_(weight)


def plain(x: Tensor, weight: Tensor, bias: Tensor | None, few: int) -> Tensor:
    """x weight + bias"""
    if x.shape[0] >= few:
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight.t(), bias, "none", (), "")
        return found
    return torch.mm(x, weight) if bias is None else torch.addmm(bias, x, weight)


def silu(x: Tensor, weight: Tensor, bias: Tensor | None, few: int) -> Tensor:
    if x.shape[0] >= few:
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight.t(), bias, "swish", (), "")
        return found
    return torch.nn.functional.silu(plain(x, weight, bias, few), inplace=True)


def times(y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, few: int) -> Tensor:
    """y * (x weight + bias)"""
    if x.shape[0] >= few:
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, y, weight.t(), bias, "mul")
        return found
    return plain(x, weight, bias, few).mul_(y)


def plus(y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, few: int) -> Tensor:
    """y + (x weight + bias); y is spent."""
    if x.shape[0] >= few:
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, y, weight.t(), bias, "add")
        return found
    if bias is not None:
        y = y.add_(bias)
    return y.addmm_(x, weight)


def joined(x: Tensor, layer: Layer, turns: Tensor, w: Weights, dtype: torch.dtype) -> Tensor:
    """Queries, keys and values [N, H + 2 G, K] of x [N, D], the former two turned by turns [N, 1, K / 2]."""
    both = w.heads + w.key_heads
    found = plain(norm(x, layer.attention_norm, w), layer.qkv, None, w.few).to(dtype)
    found = found.view(x.shape[0], both + w.key_heads, w.head_size)
    torch.view_as_complex(found[:, :both].view(x.shape[0], both, w.head_size // 2, 2)).mul_(turns)
    return found


def rest(x: Tensor, heard: Tensor, layer: Layer, w: Weights) -> Tensor:
    """A block's output, of its input x [N, D], which is spent, and what its heads heard [N, H K]."""
    x = plus(x, heard.to(x.dtype), layer.o, None, w.few)
    y = norm(x, layer.feedforward_norm, w)
    gate = silu(y, layer.gate, layer.gate_bias, w.few)
    return plus(x, times(gate, y, layer.up, layer.up_bias, w.few), layer.down, layer.down_bias, w.few)


class Kept(NamedTuple):
    """What a layer keeps of some rows, as views of the memory: to make them takes longer than what they serve."""

    places: Tensor  # [2 rows G columns, K]: of all rows
    keys: Tensor  # [R G, K, columns]
    values: Tensor  # [R G, columns, K]


def views(memory: Tensor, start: int, end: int) -> list[Kept]:
    """Each layer's views of the memory, [2 layers, rows, G, columns, K], for the rows from start to end."""
    found: list[Kept] = []
    for number in range(0, memory.shape[0], 2):
        keys, values = memory[number, start:end].flatten(0, 1), memory[number + 1, start:end].flatten(0, 1)
        found.append(Kept(memory[number : number + 2].flatten(0, 3), keys.transpose(1, 2), values))
    return found


def homes(memory: Tensor, rows: Tensor) -> Tensor:
    """Where in a layer's memory the keys, then the values of rows [B] begin, [B, 2 heads]."""
    total, heads, columns = memory.shape[1], memory.shape[2], memory.shape[3]
    kinds = torch.arange(2)[:, None] * (total * heads * columns) + torch.arange(heads) * columns
    return kinds.flatten() + rows[:, None] * (heads * columns)


def places(memory: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
    """Where the keys, then the values of rows [B] at positions [B, T] stand in a layer's memory, [B T 2 heads]."""
    columns = torch.where(positions < 0, memory.shape[3] - 1, positions)
    return (homes(memory, rows)[:, None] + columns[:, :, None]).flatten()


def hidden(w: Weights, kept: list[Kept], homes: Tensor, tokens: Tensor, positions: Tensor, span: int) -> Tensor:
    """Hidden vectors [R, D] of one token [R, 1] for each of R rows, of which `views` and `homes` tell.

    The memory's first `span` columns are in use.
    """
    R, H, G, K, columns = tokens.shape[0], w.heads, w.key_heads, w.head_size, kept[0].values.shape[1]
    at = positions.clamp(min=0)
    turns = w.turns.index_select(0, at[:, 0])[:, None]
    unseen = torch.arange(span) > at.expand(R, G).reshape(R * G, 1, 1)
    bias = torch.zeros(R * G, 1, span, dtype=kept[0].values.dtype).masked_fill_(unseen, float("-inf"))
    slots = (homes + torch.where(positions < 0, columns - 1, positions)).flatten()
    x = torch.nn.functional.embedding(tokens[:, 0], w.embed)
    for layer, (store, keys, values) in zip(w.layers, kept):
        whole = joined(x, layer, turns, w, store.dtype)
        store.index_copy_(0, slots, whole[:, H:].flatten(0, 1))
        queries = whole[:, :H].reshape(R * G, H // G, K)
        # Plain products read the state twice as fast as torch's attention.
        scores = torch.baddbmm(bias, queries, keys.narrow(2, 0, span), alpha=K**-0.5)
        x = rest(x, torch.bmm(scores.softmax(-1), values.narrow(1, 0, span)).view(R, H * K), layer, w)
    return norm(x, w.norm, w)
