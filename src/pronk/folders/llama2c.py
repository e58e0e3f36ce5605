"""Opens the .bin files of llama2.c (Karpathy 2023): a header, then float32 tensors one after another."""

import struct
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pronk.errors import UserError
from pronk.folders.meta import halved, rename
from pronk.folders.names import Rename
from pronk.folders.weights import Stored
from pronk.models.config import ModelConfig

MAGIC = 0x616B3432  # "ak42": version 1 and later
LARGEST = 1 << 24


def opened(path: Path) -> tuple[ModelConfig, dict[str, Stored], Rename]:
    """The shape of the model, its tensors with their heads in our order, and their names (Meta's)."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(36 + 1)
    if len(start) < 28:
        raise UserError(f"{path}: ends within its header; fetch it again")
    magic, version = struct.unpack_from("<Ii", start)
    if magic == MAGIC and (version != 1 or len(start) < 37):
        raise UserError(f"{path}: llama2.c's version {version} is not supported, only the first format and version 1")
    newer = magic == MAGIC
    numbers = struct.unpack_from("<7i", start, 8 if newer else 0)
    config = _config(path, numbers, tied=bool(start[36]) if newer else numbers[5] > 0)
    found: dict[str, Stored] = {}
    place = 256 if newer else 28
    for name, shape in _order(config, newer):
        end = place + 4 * int(np.prod(shape))
        if end > size:
            raise UserError(f"{path}: ends within tensor {name}: {size:,} bytes, expected at least {end:,}")
        found |= _split(path, name, shape, place, config)
        place = end
    if place != size:
        raise UserError(f"{path}: {size - place:,} bytes follow the last tensor, {name}; is it a llama2.c file?")
    return config, found, rename


def _config(path: Path, numbers: tuple[int, ...], tied: bool) -> ModelConfig:
    width, inner, layers, heads, kv_heads, vocab, context = numbers
    vocab = abs(vocab)
    if not all(0 < n < LARGEST for n in (width, inner, layers, heads, kv_heads, vocab, context)):
        raise UserError(f"{path}: its header holds {list(numbers)}; is it a llama2.c file?")
    shape = ModelConfig(vocab=vocab, width=heads * 2, layers=layers, heads=heads, ffn_dim=inner, context=context)
    try:
        return replace(shape, width=width, kv_heads=kv_heads, tied=tied)
    except ValueError as error:
        raise UserError(f"{path}: {error}; is it a llama2.c file?") from error


def _order(c: ModelConfig, newer: bool) -> list[tuple[str, tuple[int, ...]]]:
    """Tensors as they lie in the file; those of all layers together have the layer as first dimension."""
    keys, queries = c.key_heads * c.head_size, c.heads * c.head_size
    norms = [("attention_norm.weight", (c.layers, c.width)), ("ffn_norm.weight", (c.layers, c.width))]
    attention = [("wq", (queries, c.width)), ("wk", (keys, c.width)), ("wv", (keys, c.width))]
    attention += [("wo", (c.width, queries))]
    layers = [(f"attention.{name}.weight", (c.layers, *shape)) for name, shape in attention]
    feedforward = [("w1", (c.inner, c.width)), ("w2", (c.width, c.inner)), ("w3", (c.inner, c.width))]
    inner = [(f"feed_forward.{name}.weight", (c.layers, *shape)) for name, shape in feedforward]
    embedding, final = ("tok_embeddings.weight", (c.vocab, c.width)), ("norm.weight", (c.width,))
    head = [] if c.tied else [("output.weight", (c.vocab, c.width))]
    if newer:
        return [*norms, final, embedding, *layers, *inner, *head]
    tables = [(name, (c.context, c.head_size // 2)) for name in ("rope.cosine", "rope.sine")]
    return [embedding, norms[0], *layers, norms[1], *inner, final, *tables, *head]


def _split(path: Path, name: str, shape: tuple[int, ...], place: int, c: ModelConfig) -> dict[str, Stored]:
    if name.startswith("rope."):
        return {}
    if not name.startswith(("attention", "ffn", "feed_forward")):
        return {name: _stored(path, shape, place)}
    step = 4 * int(np.prod(shape[1:]))
    found = {f"layers.{n}.{name}": _stored(path, shape[1:], place + n * step) for n in range(c.layers)}
    turned = name.endswith(("wq.weight", "wk.weight"))
    return {key: halved(one, c.head_size) for key, one in found.items()} if turned else found


def _stored(path: Path, shape: tuple[int, ...], place: int) -> Stored:
    return Stored(path, "F32", list(shape), partial(_load, path, shape, place))


def _load(path: Path, shape: tuple[int, ...], place: int) -> Tensor:
    values = np.fromfile(path, dtype="<f4", count=int(np.prod(shape)), offset=place)
    return torch.from_numpy(values.reshape(shape))
