"""The only place where losses meet logits: cross-entropy, log-probabilities with entropy, and exact KL, in chunks.

None of them holds a [tokens, vocabulary] tensor for the whole batch, and positions whose target is IGNORE are dropped
before the projection.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pronk.models import jit, kernels_logps, kernels_loss
from pronk.models.heads import Head, Output

IGNORE = -100  # the same as data.batch.IGNORE; models imports nothing of ours
CHUNK = 1 << 23  # logits held at a time, elements
GPU_CHUNK = 1 << 30  # and on a GPU, where fewer rows would mostly read the head's weights and add up its gradients,
GPU_SHARE = 128  # but at most one for so many bytes of its memory: a 64th of it in bfloat16
TILE = 256  # a GPU's products are made of tiles: rows in whole ones
WIDE = 64  # and it is several times slower where a vocabulary is not a multiple of this (LOG.md)


def _chunks(total: int, head: Tensor) -> Iterator[slice]:
    held = CHUNK
    if head.is_cuda:
        held = min(GPU_CHUNK, torch.cuda.get_device_properties(head.device).total_memory // GPU_SHARE)
    step = max(1, held // len(head))
    if head.is_cuda and step > TILE:
        step -= step % TILE
    for start in range(0, total, step):
        yield slice(start, min(start + step, total))


class _CrossEntropy(torch.autograd.Function):
    """Sum of negative log-likelihoods; gradients are made beside the loss, so logits live for one chunk only.

    keep [N, 1]: 1 for targets that count, 0 for others; None = all count.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, keep: Tensor | None, wants: bool
    ) -> tuple[Tensor, Tensor]:
        losses = torch.empty(len(targets), device=hidden.device, dtype=torch.float32)
        V = len(weight)
        grad_hidden = torch.empty_like(hidden) if wants else None
        grad_bias = torch.zeros_like(bias) if wants and bias is not None else None
        dtype = F.linear(hidden[:0], weight[:1]).dtype  # autocast's
        inputs, (matrix, shift) = hidden.to(dtype), _widened(weight, bias, dtype)
        wants_weight = wants and ctx.needs_input_grad[1]  # not that of a frozen head
        grad_weight = torch.zeros_like(matrix, dtype=weight.dtype) if wants_weight else None
        spend = kernels_loss.spend if weight.is_cuda and jit.found else _spend
        for part in _chunks(len(targets), weight):
            errors = F.linear(inputs[part], matrix, shift)  # columns from V on are zeros and stay so
            losses[part] = spend(errors[:, :V], targets[part], None if keep is None else keep[part, 0], wants)
            if grad_hidden is None:
                continue
            if grad_bias is not None:
                grad_bias += errors[:, :V].sum(0, dtype=torch.float32)
            grad_hidden[part] = errors @ matrix
            if grad_weight is not None:
                _add_product(grad_weight, errors, inputs[part])
        ctx.save_for_backward(grad_hidden, None if grad_weight is None else grad_weight[:V], grad_bias)
        ctx.mark_non_differentiable(losses)
        return losses.sum(), losses

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        found = [None if grad is None else grad * grads[0] for grad in ctx.saved_tensors]
        return *found, None, None, None


def _add_product(total: Tensor, errors: Tensor, inputs: Tensor) -> None:
    """total += errors^T inputs; on a GPU the product of bfloat16 itself adds to a float32 total."""
    if total.is_cuda and total.dtype != errors.dtype:
        torch.addmm(total, errors.T, inputs, out_dtype=total.dtype, out=total)
    else:
        total += errors.T @ inputs


def _widening(weight: Tensor) -> int:
    """Rows of zeros that a head gets on a GPU, so that its products are aligned."""
    return -len(weight) % WIDE if weight.is_cuda else 0


def _widened(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """The head in the computing type, lengthened by rows of zeros."""
    more = _widening(weight)
    both = [None if x is None else x.to(dtype) for x in (weight, bias)]
    if more:
        both = [None if x is None else torch.cat((x, x.new_zeros(more, *x.shape[1:]))) for x in both]
    assert both[0] is not None
    return both[0], both[1]


def _spend(logits: Tensor, targets: Tensor, keep: Tensor | None, wants: bool) -> Tensor:
    """Losses [N] of logits [N, V]; with `wants`, logits become the gradient of their sum. See kernels_loss.spend."""
    scores, index = logits.float(), targets[:, None]
    log_sum = scores.logsumexp(-1)
    losses = log_sum - scores.gather(1, index)[:, 0]
    if keep is not None:
        losses *= keep
    if wants:
        scores.sub_(log_sum[:, None]).exp_()  # probabilities, in place
        scores.scatter_add_(1, index, torch.full_like(index, -1, dtype=scores.dtype))
        if keep is not None:
            scores.mul_(keep[:, None])
        logits.copy_(scores)
    return losses


class _Logps(torch.autograd.Function):
    """Log-probabilities and entropies [N] each by Triton kernels; backward makes the logits of each chunk again."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        ctx.dtype, ctx.temperature = F.linear(hidden[:0], weight[:1]).dtype, temperature  # autocast's
        V, inputs, (matrix, shift) = len(weight), hidden.to(ctx.dtype), _widened(weight, bias, ctx.dtype)
        found = [
            kernels_logps.read(F.linear(inputs[part], matrix, shift)[:, :V], targets[part], temperature)
            for part in _chunks(len(targets), weight)
        ]
        ctx.save_for_backward(hidden, weight, bias, targets, *found)
        both = torch.cat([one[:2] for one in found], 1) if found else hidden.new_zeros(2, 0, dtype=torch.float32)
        return both[0], both[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, *found = ctx.saved_tensors
        needs, V = ctx.needs_input_grad, len(weight)
        wanted, inputs, (matrix, shift) = torch.stack(grads), hidden.to(ctx.dtype), _widened(weight, bias, ctx.dtype)
        grad_hidden = torch.empty_like(hidden) if needs[0] else None
        grad_weight = torch.zeros_like(matrix, dtype=weight.dtype) if needs[1] else None  # none of a frozen head
        grad_bias = torch.zeros_like(bias) if bias is not None and needs[2] else None
        for part, known in zip(_chunks(len(targets), weight), found):
            slopes = F.linear(inputs[part], matrix, shift)  # columns from V on are zeros and stay so
            kernels_logps.spend(slopes[:, :V], targets[part], known, wanted[:, part].contiguous(), ctx.temperature)
            if grad_hidden is not None:
                grad_hidden[part] = slopes @ matrix
            if grad_weight is not None:
                _add_product(grad_weight, slopes, inputs[part])
            if grad_bias is not None:
                grad_bias += slopes[:, :V].sum(0, dtype=torch.float32)
        return grad_hidden, None if grad_weight is None else grad_weight[:V], grad_bias, None, None


def cross_entropy(output: Output, targets: Tensor, dense: bool = False) -> tuple[Tensor, Tensor]:
    """Sum of negative log-likelihoods in nats, and the detached loss of each target.

    targets [B, T]; IGNORE is left out. Returns (sum, losses [kept]) with kept = positions learned, in row order.
    dense: IGNORE costs as much as the rest, its losses are zeros, and losses are [B * T]; the device is asked nothing.
    """
    keep, weight = targets != IGNORE, output.head.weight
    if dense:
        hidden, wanted, kept = output.hidden.flatten(0, 1), targets.clamp(min=0).flatten(), keep.flatten()[:, None]
    else:
        hidden, wanted, kept = output.hidden[keep], targets[keep], None
    wants = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    total, losses = _CrossEntropy.apply(hidden, weight, output.head.bias, wanted, kept, wants)  # type: ignore[no-untyped-call]
    return total, losses


def logps(
    output: Output, targets: Tensor, temperature: float = 1.0, dense: bool = False, first: int = 0
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy of its distribution, nats, [B, T] each; 0 where target is IGNORE.

    The distribution is softmax(logits / temperature): log-probabilities that are compared with sampled ones must use
    the temperature they were sampled at. Logits are made again in backward where the batch takes several chunks.
    dense: IGNORE costs as much as the rest, so that the device is asked nothing; but for columns before `first`, in
    which the caller knows of no target.
    """
    keep = targets != IGNORE
    if dense:
        hidden, wanted = output.hidden[:, first:].flatten(0, 1), targets[:, first:].clamp(min=0).flatten()
    else:
        hidden, wanted = output.hidden[keep], targets[keep]

    def part(hidden: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        logits = output.head(hidden).float()
        all_logps = (logits / temperature if temperature != 1 else logits).log_softmax(-1)
        entropy = -(all_logps.exp() * all_logps).sum(-1)
        return all_logps.gather(1, wanted[:, None])[:, 0], entropy

    head = output.head
    if head.weight.is_cuda and jit.found:
        found, entropy = _Logps.apply(hidden, head.weight, head.bias, wanted, temperature)  # type: ignore[no-untyped-call]
    else:
        found, entropy = _in_chunks(part, head, hidden, wanted)
    if dense:
        both = [F.pad(x.view(len(targets), -1), (first, 0)).where(keep, 0.0) for x in (found, entropy)]
        return both[0], both[1]
    zeros = output.hidden.new_zeros(targets.shape, dtype=torch.float32)
    return zeros.masked_scatter(keep, found), zeros.masked_scatter(keep, entropy)


def exact_kl(output: Output, reference: Output, targets: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """KL of the full next-token distributions, nats, [B, T] each: (KL(policy, reference), KL(reference, policy)).

    Zero where the target is IGNORE. The reference is not differentiated.
    """
    keep = targets != IGNORE
    hidden, frozen = output.hidden[keep], reference.hidden[keep].detach()

    def part(hidden: Tensor, frozen: Tensor) -> tuple[Tensor, Tensor]:
        ours = (output.head(hidden).float() / temperature).log_softmax(-1)
        with torch.no_grad():
            theirs = (reference.head(frozen).float() / temperature).log_softmax(-1)
        gap = ours - theirs
        return (ours.exp() * gap).sum(-1), -(theirs.exp() * gap).sum(-1)

    forward, backward = _in_chunks(part, output.head, hidden, frozen)
    zeros = output.hidden.new_zeros(targets.shape, dtype=torch.float32)
    return zeros.masked_scatter(keep, forward), zeros.masked_scatter(keep, backward)


def _in_chunks(
    part: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], head: Head, first: Tensor, second: Tensor
) -> tuple[Tensor, Tensor]:
    """Apply part to slices of two tensors [N, ..] and join its two results [N]; recompute when N needs many slices."""
    slices = list(_chunks(len(first), head.weight)) or [slice(0, 0)]
    if len(slices) == 1:
        return part(first, second)
    pieces = [checkpoint(part, first[s], second[s], use_reentrant=False, preserve_rng_state=False) for s in slices]
    left, right = zip(*pieces)
    return torch.cat(left), torch.cat(right)


@torch.no_grad()
def logits(model: Any, tokens: Tensor) -> Tensor:
    """Logits [B, T, V] of tokens [B, T], without gradients: for looking, small inputs and tests."""
    output: Output = model(tokens)
    return output.head(output.hidden)
