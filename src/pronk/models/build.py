"""From a ModelConfig to a model; one row a family."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from pronk.models.config import ModelConfig
from pronk.models.decoder import Decoder
from pronk.models.heads import Head, Scorer
from pronk.models.positions import Learned
from pronk.models.recurrent import Recurrent

FAMILIES: dict[str, type[Decoder] | type[Recurrent]] = {
    "decoder": Decoder,
    **dict.fromkeys(("rnn", "gru", "lstm"), Recurrent),
}
Model = Decoder | Recurrent


def build(config: ModelConfig, device: torch.device | str = "cpu", seed: int | None = None) -> Model:
    """A model with fresh random weights, parameters in float32; seed None = torch's global generator as it stands."""
    if seed is not None:
        torch.manual_seed(seed)
    if config.vocab <= 0:
        raise ValueError("model.vocab must be set: it is the tokenizer's size")
    with torch.device(device):
        return FAMILIES[config.family](config)


def to_scorer(model: Model) -> Scorer:
    """The model's body under a fresh value head. Its vocabulary head goes where it is untied: no score reads it."""
    c = model.config
    if not c.tied or c.head_bias:
        model.config, model.head = replace(c, tied=True, head_bias=False), Head(c.vocab, c.width, model.embed)
    with next(model.parameters()).device:
        return Scorer(model, c.width)


def compile_blocks(model: nn.Module) -> None:
    """Compile every block and the norm after the last, in place: one of a kind costs its compiling once."""
    for body in (module for module in model.modules() if isinstance(module, Decoder | Recurrent)):
        for part in (*body.blocks, body.norm):
            part.compile()


def eager(model: nn.Module) -> AbstractContextManager[Any]:
    """A context in which compiled blocks run as plain ones: for another mode or shape they would be compiled anew."""
    if any(module._compiled_call_impl is not None for module in model.modules()):
        context: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
        return context
    return nullcontext()


def count(model: nn.Module) -> int:
    """Parameters, a tied matrix once."""
    return sum(p.numel() for p in model.parameters())


def multiplied(model: nn.Module) -> int:
    """Parameters that each token is multiplied with: all but learned positions and an input embedding that is no head
    too; a tied head counts once."""
    scored = {module.body for module in model.modules() if isinstance(module, Scorer)}  # their heads are never read
    embeddings = 0
    for module in model.modules():
        if isinstance(module, Decoder | Recurrent) and (module in scored or not module.config.tied):
            embeddings += module.embed.weight.numel()
        if isinstance(module, Learned):
            embeddings += module.weight.numel()
    return count(model) - embeddings
