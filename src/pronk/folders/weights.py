"""Fills a model from stored tensors, wherever they lie: checks all of them first, then copies one at a time."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pronk.errors import UserError
from pronk.folders.names import Place, Rename
from pronk.models.build import Model
from pronk.models.heads import Scorer
from pronk.models.positions import Table

FLOATS = ("F64", "F32", "F16", "BF16")
KINDS = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: what its header says, and how to read it."""

    path: Path
    kind: str  # safetensors' name of the type
    shape: list[int]
    load: Callable[[], Tensor]


def fill(
    model: Model | Scorer,
    found: Mapping[str, Stored],
    rename: Rename,
    source: Path,
    device: torch.device | str,
    described: str = "config.json",
) -> None:
    """Give a model that was built on the meta device its memory, and its weights.

    One tensor is in flight at a time, cast to the parameter's type. source: what errors name; described: the file that
    gave the model's shape. Raises UserError naming the file and tensor.
    """
    body: Model = model.body if isinstance(model, Scorer) else model  # type: ignore[assignment]
    wanted = wanted_by(model, rename)
    names = {place.name for place, _ in wanted}
    found, head = with_base(found, names), rename("head.weight")
    ignored = {head.name} if body.config.tied and head else set()
    compare(names, set(found), ignored, source, described)
    for place, parameter in wanted:
        check(found[place.name], place.shape(tuple(parameter.shape)), place.name, described)
    materialise(model, device)
    for place, parameter in wanted_by(model, rename):
        with torch.no_grad():
            parameter.copy_(place.take(found[place.name].load()))
    for name in ignored & set(found):
        check_tied(found[name], name, body.embed.weight)


def wanted_by(model: nn.Module, rename: Rename) -> list[tuple[Place, nn.Parameter]]:
    """The model's parameters that files hold, and where."""
    found = [(rename(name), parameter) for name, parameter in model.named_parameters()]
    return [(place, parameter) for place, parameter in found if place]


def with_base(found: Mapping[str, Stored], wanted: set[str]) -> Mapping[str, Stored]:
    """Some files leave out the first word of every name but the head's, such as GPT-2's "transformer."; put it back."""
    heads = {"lm_head", "score"}
    bases = {name.split(".")[0] for name in wanted} - heads
    if len(bases) != 1 or any(name in found for name in wanted if name.split(".")[0] not in heads):
        return found
    (base,) = bases
    return {name if name.split(".")[0] in heads else f"{base}.{name}": one for name, one in found.items()}


def compare(wanted: set[str], found: set[str], ignored: set[str], source: Path, described: str) -> None:
    if missing := sorted(wanted - found):
        raise UserError(f"{source}: tensor {named(missing)} missing; {described} describes a model that has it")
    if extra := sorted(found - wanted - ignored):
        raise UserError(f"{source}: tensor {named(extra)} unexpected; {described} describes a model without it")


def named(names: list[str]) -> str:
    return f"{names[0]} is" if len(names) == 1 else f"{names[0]} and {len(names) - 1} more are"


def check(stored: Stored, shape: list[int], name: str, described: str) -> None:
    if stored.kind not in FLOATS:
        raise UserError(f"{stored.path}: tensor {name} has type {stored.kind}, expected one of {', '.join(FLOATS)}")
    if stored.shape != shape:
        raise UserError(f"{stored.path}: tensor {name} has shape {stored.shape}, but {described} describes {shape}")


def check_tied(stored: Stored, name: str, embedding: Tensor) -> None:
    """Some files hold a tied matrix twice: harmless while both are the same."""
    other = stored.load()
    if other.shape != embedding.shape or not torch.equal(other.to(embedding), embedding):
        raise UserError(
            f"{stored.path}: {name} differs from the embedding; set tie_word_embeddings to false in config.json"
        )


def materialise(model: nn.Module, device: torch.device | str) -> None:
    """Memory for a model on the meta device; what was shared stays shared, and tables of positions are filled."""
    fresh = {id(p): nn.Parameter(torch.empty_like(p, device=device)) for p in model.parameters()}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, fresh[id(parameter)])
        if isinstance(module, Table):
            module.to_empty(device=device)
            module.reset()
