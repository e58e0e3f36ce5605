"""Linear layers that read one input, as one product where their block is compiled."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def products(x: Tensor, *layers: nn.Module) -> tuple[Tensor, ...]:
    """layer(x) for each of some linear layers, x [..., in].

    In compiled code plain layers are joined: one product forward, one for the weights' gradients and one for x's, each
    large enough to fill a GPU; joining the weights costs nothing beside the cast that autocast makes of them anyway.
    Parameters stay apart. Adapters, sharded layers (their hooks show them) and eager code take their own way.
    """
    if not torch.compiler.is_compiling() or not all(_plain(layer) for layer in layers):
        return tuple(layer(x) for layer in layers)
    linears = [layer for layer in layers if isinstance(layer, nn.Linear)]
    biases: list[Tensor] = [linear.bias for linear in linears if linear.bias is not None]
    weights: list[Tensor] = [linear.weight for linear in linears]
    if len(biases) not in (0, len(linears)):
        return tuple(layer(x) for layer in layers)
    joined = F.linear(x, torch.cat(weights), torch.cat(biases) if biases else None)
    return torch.split(joined, [linear.out_features for linear in linears], -1)


def _plain(layer: nn.Module) -> bool:
    return type(layer) is nn.Linear and not layer._forward_pre_hooks and not layer._forward_hooks
