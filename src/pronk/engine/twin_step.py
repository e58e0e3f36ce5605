"""A twin's products, and its step of one token a row; functions of tensors alone, so that TorchScript can run them."""

from typing import NamedTuple

import torch
from torch import Tensor


class Layer(NamedTuple):
    """One block's weights."""

    attention_norm: Tensor  # as `norm` takes it
    qkv: Tensor  # [(H + 2 G) K, D]
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
    head: Tensor
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
    """x weight^T + bias"""
    if x.shape[0] >= few:
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", (), "")
        return found
    return torch.nn.functional.linear(x, weight, bias)


def silu(x: Tensor, weight: Tensor, bias: Tensor | None, few: int) -> Tensor:
    if x.shape[0] >= few:
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "swish", (), "")
        return found
    return torch.nn.functional.silu(torch.nn.functional.linear(x, weight, bias), inplace=True)


def times(y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, few: int) -> Tensor:
    """y * (x weight^T + bias)"""
    if x.shape[0] >= few:
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, y, weight, bias, "mul")
        return found
    return torch.nn.functional.linear(x, weight, bias).mul_(y)


def plus(y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, few: int) -> Tensor:
    """y + (x weight^T + bias); y is spent."""
    if x.shape[0] >= few:
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, y, weight, bias, "add")
        return found
    if bias is not None:
        y = y.add_(bias)
    return y.addmm_(x, weight.t())


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


def places(memory: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
    """Where the keys, then the values of rows [B] at positions [B, T] stand in a layer's memory, [B T 2 heads]."""
    total, heads, columns = memory.shape[1], memory.shape[2], memory.shape[3]
    kinds = torch.arange(2)[:, None] * (total * heads * columns) + torch.arange(heads) * columns
    base = kinds.flatten() + rows[:, None] * (heads * columns)
    return (base[:, None] + torch.where(positions < 0, columns - 1, positions)[:, :, None]).flatten()


def hidden(w: Weights, memory: Tensor, tokens: Tensor, positions: Tensor, start: int, span: int) -> Tensor:
    """Hidden vectors [R, D] of one token [R, 1] for each of R rows of the memory from `start` on.

    memory: each layer's keys and values in turn, [2 layers, rows, G, columns, K]; the first `span` columns are in use.
    """
    R, H, G, K = tokens.shape[0], w.heads, w.key_heads, w.head_size
    at = positions.clamp(min=0)
    turns = w.turns.index_select(0, at[:, 0])[:, None]
    unseen = torch.arange(span) > at
    bias = torch.zeros(R, span, dtype=memory.dtype).masked_fill_(unseen, float("-inf"))
    bias = bias[:, None].expand(R, H, span).reshape(R * G, H // G, span)
    slots = places(memory, torch.arange(start, start + R), positions)
    x = torch.nn.functional.embedding(tokens[:, 0], w.embed)
    for number, layer in enumerate(w.layers):
        store = memory[2 * number : 2 * number + 2]
        whole = joined(x, layer, turns, w, memory.dtype)
        store.flatten(0, 3).index_copy_(0, slots, whole[:, H:].flatten(0, 1))
        live = store[:, start : start + R].flatten(1, 2)[:, :, :span]  # [2, R G, span, K]
        # Plain products read the state twice as fast as torch's attention.
        scores = torch.baddbmm(bias, whole[:, :H].reshape(R * G, H // G, K), live[0].transpose(1, 2), alpha=K**-0.5)
        x = rest(x, torch.bmm(scores.softmax(-1), live[1]).view(R, H * K), layer, w)
    return norm(x, w.norm, w)
