"""Tiny models and batches, with weights large enough that a mistake shows in the numbers."""

import copy
import random

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pronk.data.batch import IGNORE, Batch, Pairs, Rollouts
from pronk.learn.learner import Learner
from pronk.learn.optim import OptimConfig
from pronk.models.build import build
from pronk.models.config import ModelConfig
from pronk.models.heads import ActorCritic, Scorer

V, D = 13, 16
FAMILIES = ("decoder", "lstm")
PLAIN = OptimConfig(lr=1e-2, warmup=0, schedule="constant", eps=1e-5, weight_decay=0.0, clip=0.0)


def model(family="decoder", seed=0, **keys):
    torch.manual_seed(seed)
    sizes = {"vocab": V, "width": D, "layers": 2, "heads": 2, "kv_heads": 1, "context": 256, "multiple_of": 8}
    made = build(ModelConfig(family=family, **(sizes | keys)))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            noise = torch.randn(parameter.shape)
            if parameter.dim() == 2:
                parameter.copy_(0.5 * noise if "embed" in name else noise / parameter.shape[1] ** 0.5)
            else:
                parameter.copy_(0.1 * noise + ("norm" in name))
    return made


def actor_critic(family="decoder", seed=0):
    """A policy and a separate critic, wider and deeper."""
    return ActorCritic(model(family, seed), Scorer(model(family, seed + 1, width=24, layers=3), 24))


class Unasked(TorchDispatchMode):
    """Fails where a number is read from a tensor or brought to its device: a CUDA graph can hold neither."""

    ASKS = ("aten._local_scalar_dense", "aten.scalar_tensor", "aten.lift_fresh", "aten.nonzero", "aten.is_nonzero")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert not str(function).startswith(self.ASKS), f"{function} asks"
        return function(*args, **(kwargs or {}))


def copy_of(module):
    return copy.deepcopy(module)


def logits_of(module):
    """tokens [B, T] -> logits [B, T, V] with gradients: all that an oracle may know of a model."""

    def logits(tokens):
        output = module(tokens)
        return output.head(output.hidden)

    return logits


def rows(lengths, seed=0):
    """Lists of random tokens."""
    dice = random.Random(seed)
    return [[dice.randrange(1, V) for _ in range(length)] for length in lengths]


def padded(lists, fill, length=0):
    length = max(length, max(map(len, lists)))
    return torch.tensor([list(row) + [fill] * (length - len(row)) for row in lists])


def text(lengths=(9, 4, 7, 2, 9, 5, 3, 8), seed=0, pad=0):
    """Rows of unequal length with some targets masked inside."""
    found = rows(lengths, seed)
    targets = [[t if i % 4 != 1 else IGNORE for i, t in enumerate(row[1:])] for row in found]
    longest = max(lengths) - 1 + pad
    return Batch(padded([r[:-1] for r in found], 0, longest), padded(targets, IGNORE, longest))


def answers(prompt_lengths, lengths, seed=0, pad=0):
    """(tokens, targets) of prompts followed by answers; only the answers are learned."""
    prompts, replies = rows(prompt_lengths, seed), rows(lengths, seed + 100)
    longest = max(len(p) + len(r) - 1 for p, r in zip(prompts, replies)) + pad
    tokens = padded([p + r[:-1] for p, r in zip(prompts, replies)], 0, longest)
    targets = padded([[IGNORE] * (len(p) - 1) + r for p, r in zip(prompts, replies)], IGNORE, longest)
    return tokens, targets


def pairs(seed=0, pad=0):
    """Four comparisons with made-up reference log-probabilities."""
    tokens, targets = answers((3, 3, 2, 2, 5, 5, 1, 1), (4, 2, 6, 6, 1, 3, 5, 2), seed, pad)
    reference = -5 * torch.rand(4, 2, generator=torch.Generator().manual_seed(seed))
    return Pairs(tokens.view(4, 2, -1), targets.view(4, 2, -1), ref_logps=reference)


def rollouts(seed=0, pad=0, lengths=(4, 2, 6, 1, 3, 5)):
    """Six answers with made-up log-probabilities, values and advantages; the numbers do not depend on pad."""
    tokens, targets = answers((3, 2, 5, 4, 1, 3), lengths, seed, pad)
    mask = (targets != IGNORE).float()
    dice = torch.Generator().manual_seed(seed)

    def numbers(scale, shift=0.0):
        found = torch.zeros_like(mask)
        found[:, : mask.shape[1] - pad] = shift + scale * torch.randn(
            mask.shape[0], mask.shape[1] - pad, generator=dice
        )
        return found * mask

    return Rollouts(
        tokens,
        targets,
        logps=numbers(0.5, -2.5),
        ref_logps=numbers(0.5, -2.5),
        advantages=numbers(1.0),
        values=numbers(0.3),
        returns=numbers(1.0),
    )


def learner(module, config=PLAIN, steps=100, **keys):
    return Learner(module, config, steps, **keys)


def weights(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def gap(a, b):
    """Largest difference between two dictionaries of tensors."""
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)
