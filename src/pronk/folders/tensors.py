"""Weights in safetensors files: names, shards, checks of what a file holds, and a copy tensor by tensor."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pronk.errors import UserError
from pronk.folders.names import Place, Rename
from pronk.models.build import Model
from pronk.models.heads import Scorer
from pronk.models.positions import Table

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD = 5_000_000_000  # bytes of one file
FLOATS = ("F64", "F32", "F16", "BF16")
HARMLESS = (  # tables that older folders carry
    *("rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".attn.attention.bias", ".attn.attention.masked_bias"),
)


# ── writing


def write(model: Model | Scorer, folder: Path, rename: Rename) -> None:
    """The model's parameters, a tied matrix once, in one file or in shards with an index."""
    tensors = stored(model, rename)
    shards = split(tensors, SHARD)
    if len(shards) == 1:
        return write_file(shards[0], folder / SINGLE)
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_file(shard, folder / name)
        places |= dict.fromkeys(shard, name)
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": places}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def stored(model: nn.Module, rename: Rename) -> dict[str, Tensor]:
    """The tensors of the files, by name: parameters, joined and transposed where the architecture has them so."""
    parts: dict[str, list[Tensor]] = {}
    for place, parameter in wanted_by(model, rename):
        parts.setdefault(place.name, []).append(parameter.detach().T if place.transposed else parameter.detach())
        transposed = place.transposed
        if len(parts[place.name]) == place.parts > 1:
            parts[place.name] = [torch.cat(parts[place.name], dim=1 if transposed else 0)]
    return {name: one[0] for name, one in parts.items()}


def wanted_by(model: nn.Module, rename: Rename) -> list[tuple[Place, nn.Parameter]]:
    """The model's parameters that files hold, and where."""
    found = [(rename(name), parameter) for name, parameter in model.named_parameters()]
    return [(place, parameter) for place, parameter in found if place]


def split(tensors: Mapping[str, Tensor], most: int) -> list[dict[str, Tensor]]:
    """In order, as many tensors to a shard as `most` bytes hold."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > most:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    return shards


def write_file(tensors: Mapping[str, Tensor], path: Path) -> None:
    try:
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path, {"format": "pt"})
    except SafetensorError as error:  # its own word for a full disk
        raise OSError(f"{path.name}: {error}") from error


# ── reading


def read(model: Model | Scorer, folder: Path, rename: Rename, device: torch.device | str) -> None:
    """Give a model that was built on the meta device its memory, and its weights from the folder's files.

    One tensor is in flight at a time, cast to the parameter's type. Raises UserError naming the file and tensor.
    """
    body: Model = model.body if isinstance(model, Scorer) else model  # type: ignore[assignment]
    wanted = wanted_by(model, rename)
    names = {place.name for place, _ in wanted}
    places = with_base(locate(folder), names)
    head = rename("head.weight")
    ignored = {head.name} if body.config.tied and head else set()
    compare(names, set(places), ignored, folder)
    by_file: dict[Path, list[tuple[Place, nn.Parameter]]] = {}
    for place, parameter in wanted:
        by_file.setdefault(places[place.name][0], []).append((place, parameter))
    for path, group in by_file.items():
        with opened(path) as file:
            for place, parameter in group:
                check(file.get_slice(places[place.name][1]), place.shape(tuple(parameter.shape)), place.name, path)
    materialise(model, device)
    for place, parameter in wanted_by(model, rename):
        path, name = places[place.name]
        with opened(path) as file, torch.no_grad():  # opened anew each time: what was read leaves memory
            parameter.copy_(place.take(file.get_tensor(name)))
    for one in ignored & set(places):
        check_tied(*places[one], body.embed.weight)


def with_base(places: dict[str, Path], wanted: set[str]) -> dict[str, tuple[Path, str]]:
    """File and stored name of each tensor. Some files leave out the first word of every name but the head's, such as
    GPT-2's "transformer."."""
    bases = {name.split(".")[0] for name in wanted} - {"lm_head", "score"}
    found = {name: (path, name) for name, path in places.items()}
    if len(bases) != 1 or wanted & set(places) - {"lm_head.weight", "score.weight"}:
        return found
    (base,) = bases
    return {name if name in wanted else f"{base}.{name}": place for name, place in found.items()}


def locate(folder: Path) -> dict[str, Path]:
    """Every tensor of the folder and the file that holds it, by the files' own headers."""
    places: dict[str, Path] = {}
    for path in weight_files(folder):
        with opened(path) as file:
            for name in file.keys():  # noqa: SIM118  a safetensors file is no mapping
                if name in places:
                    raise UserError(f"{path}: {name} is in {places[name].name} too; copy the folder again")
                if not name.endswith(HARMLESS):
                    places[name] = path
    return places


def weight_files(folder: Path) -> list[Path]:
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    if not (folder / INDEX).exists():
        pickled = any(folder.glob("pytorch_model*.bin"))
        why = "only pickled weights (.bin), which can run code: save them as safetensors" if pickled else "no weights"
        raise UserError(f"{folder}: expected {SINGLE} or {INDEX}, found {why}")
    names = read_json(folder / INDEX).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise UserError(f"{folder / INDEX}: weight_map is missing; copy the file again")
    files = sorted({str(name) for name in names.values()})
    for name in files:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise UserError(f"{folder / INDEX}: {name!r} is no name of a shard in this folder")
        if not (folder / name).exists():
            raise UserError(f"{folder / name}: the index names this shard, but it is missing; copy the folder again")
    return [folder / name for name in files]


def read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; is {path.parent} a model folder?") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # bad UTF-8 is a ValueError too
        raise UserError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a JSON object")
    return values


def opened(path: Path) -> Any:
    """The safetensors file; its sizes are checked against its header here, so a truncated one never opens."""
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); copy or save it again") from None


def compare(wanted: set[str], found: set[str], ignored: set[str], folder: Path) -> None:
    if missing := sorted(wanted - found):
        raise UserError(f"{folder}: tensor {named(missing)} missing; config.json describes a model that has it")
    if extra := sorted(found - wanted - ignored):
        raise UserError(f"{folder}: tensor {named(extra)} unexpected; config.json describes a model without it")


def named(names: list[str]) -> str:
    return f"{names[0]} is" if len(names) == 1 else f"{names[0]} and {len(names) - 1} more are"


def check(stored: Any, shape: list[int], name: str, path: Path) -> None:
    if stored.get_dtype() not in FLOATS:
        raise UserError(f"{path}: tensor {name} has type {stored.get_dtype()}, expected one of {', '.join(FLOATS)}")
    if list(stored.get_shape()) != shape:
        raise UserError(
            f"{path}: tensor {name} has shape {list(stored.get_shape())}, but config.json describes {shape}"
        )


def check_tied(path: Path, name: str, embedding: Tensor) -> None:
    """Some files hold a tied matrix twice: harmless while both are the same."""
    with opened(path) as file:
        other = file.get_tensor(name)
    if other.shape != embedding.shape or not torch.equal(other.to(embedding), embedding):
        raise UserError(f"{path}: {name} differs from the embedding; set tie_word_embeddings to false in config.json")


def materialise(model: nn.Module, device: torch.device | str) -> None:
    """Memory for a model on the meta device; what was shared stays shared, and tables of positions are filled."""
    fresh = {id(p): nn.Parameter(torch.empty_like(p, device=device)) for p in model.parameters()}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, fresh[id(parameter)])
        if isinstance(module, Table):
            module.to_empty(device=device)
            module.reset()
