"""Weights in torch's own files (pytorch_model.bin, consolidated.00.pth), read without running what they might hold."""

import warnings
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pronk.errors import UserError
from pronk.folders.tensors import HARMLESS, read_json
from pronk.folders.weights import KINDS, Stored

SINGLE, INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


def locate(folder: Path) -> dict[str, Stored]:
    """Every tensor of the folder's pytorch_model*.bin."""
    found: dict[str, Stored] = {}
    for path in files(folder):
        for name, stored in tensors_of(path).items():
            if name in found:
                raise UserError(f"{path}: {name} is in {found[name].path.name} too; copy the folder again")
            if not name.endswith(HARMLESS):
                found[name] = stored
    return found


def files(folder: Path) -> list[Path]:
    if not (folder / INDEX).exists():
        return [folder / SINGLE]
    places = read_json(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise UserError(f"{folder / INDEX}: weight_map is missing; copy the file again")
    names = sorted({str(name) for name in places.values()})
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise UserError(f"{folder / INDEX}: the index names {name!r}, but it is missing; copy the folder again")
    return [folder / name for name in names]


def tensors_of(path: Path) -> dict[str, Stored]:
    """The tensors of one file, on disk until they are loaded; anything but tensors is refused unread."""
    held = opened(path)
    wrong = next((name for name, tensor in held.items() if not isinstance(tensor, Tensor)), None)
    if wrong is not None:
        raise UserError(f"{path}: {wrong} is no tensor; this is not a file of weights")
    mapped = zipfile.is_zipfile(path)  # then a tensor is read anew where it is needed; older files are held whole
    found = {}
    for name, tensor in held.items():
        kind = KINDS.get(tensor.dtype, str(tensor.dtype).removeprefix("torch."))
        get = partial(load, path, name) if mapped else partial(torch.Tensor.detach, tensor)
        found[name] = Stored(path, kind, list(tensor.shape), get)
    return found


def load(path: Path, name: str) -> Tensor:
    tensor: Tensor = opened(path)[name]
    return tensor


def opened(path: Path) -> dict[str, Any]:
    """The file's dictionary, its tensors mapped from disk where the file is of the newer kind."""
    try:
        with warnings.catch_warnings(action="ignore"):
            held = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; is {path.parent} a model folder?") from None
    except Exception as error:  # broken files fail in many ways: RuntimeError, UnpicklingError, EOFError, KeyError ..
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a whole file of weights ({reason}); fetch it again") from None
    if not isinstance(held, dict):
        raise UserError(f"{path}: expected names and tensors, found {type(held).__name__}")
    return held
