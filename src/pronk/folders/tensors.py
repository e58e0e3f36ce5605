"""Weights in safetensors files: names, shards, checks of what a file holds, and a copy tensor by tensor."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pronk.errors import UserError
from pronk.folders.names import Rename
from pronk.folders.weights import Stored, wanted_by
from pronk.models.build import Model
from pronk.models.heads import Scorer

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
LONGEST_HEADER = 100_000_000  # bytes, safetensors' own limit
SHARD = 5_000_000_000  # bytes of one file
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


def locate(folder: Path) -> dict[str, Stored]:
    """Every tensor of the folder, by the files' own headers."""
    found: dict[str, Stored] = {}
    for path in weight_files(folder):
        with opened(path) as file:
            for name in file.keys():  # noqa: SIM118  a safetensors file is no mapping
                if name in found:
                    raise UserError(f"{path}: {name} is in {found[name].path.name} too; copy the folder again")
                if not name.endswith(HARMLESS):
                    part = file.get_slice(name)
                    found[name] = Stored(path, part.get_dtype(), list(part.get_shape()), partial(load, path, name))
    return found


def load(path: Path, name: str) -> Tensor:
    with opened(path) as file:  # opened anew each time: what was read leaves memory
        tensor: Tensor = file.get_tensor(name)
    return tensor


def weight_files(folder: Path) -> list[Path]:
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    if not (folder / INDEX).exists():
        pickled = any(folder.glob("pytorch_model*.bin"))
        why = "only pickled weights (.bin), which can run code: `pronk convert` them" if pickled else "no weights"
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
        lost = first_lost(path)
        why = f"it ends within tensor {lost}" if lost else str(error)
        raise UserError(f"{path}: not a whole safetensors file ({why}); copy or save it again") from None


def first_lost(path: Path) -> str:
    """The first tensor that a truncated file does not hold whole; empty where its header does not say."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, LONGEST_HEADER)))
        room = path.stat().st_size - 8 - length
        ends = {name: one["data_offsets"][1] for name, one in header.items() if name != "__metadata__"}
        return min((name for name, end in ends.items() if end > room), key=ends.__getitem__, default="")
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return ""
