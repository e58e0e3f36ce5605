"""Small models with weights large enough that a mistake shows in the logits."""

import torch

from pronk.models.build import build
from pronk.models.config import ModelConfig

V = 53


def config(**keys):
    return ModelConfig(**{"vocab": V, "width": 32, "layers": 3, "heads": 4, "context": 128, "multiple_of": 8} | keys)


@torch.no_grad()
def shake(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() == 2:
            parameter.copy_(0.3 * noise if name.startswith("embed") else noise / parameter.shape[1] ** 0.5)
        else:
            parameter.copy_(0.2 * noise + ("norm" in name))
    return model


def make(seed=0, **keys):
    return shake(build(config(**keys)), seed)


def tokens(rows, length, seed=0):
    return torch.randint(V, (rows, length), generator=torch.Generator().manual_seed(seed))


def gap(a, b):
    return (a - b).abs().max().item()
