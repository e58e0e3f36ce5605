"""Opens Meta's Llama folders: params.json and consolidated.*.pth, shards of model parallelism merged."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pronk.errors import UserError
from pronk.folders.configs import check_sizes
from pronk.folders.keys import Keys
from pronk.folders.names import Place, Rename
from pronk.folders.pickled import tensors_of
from pronk.folders.tensors import read_json
from pronk.folders.weights import Stored
from pronk.models.config import ModelConfig

NAMES = {
    "embed": "tok_embeddings",
    "norm": "norm",
    "head": "output",
    "attention_norm": "attention_norm",
    "feedforward_norm": "ffn_norm",
    "attention.q": "attention.wq",
    "attention.k": "attention.wk",
    "attention.v": "attention.wv",
    "attention.o": "attention.wo",
    "feedforward.gate": "feed_forward.w1",
    "feedforward.up": "feed_forward.w3",
    "feedforward.down": "feed_forward.w2",
}
SMALL = {(2048, 16), (3072, 28)}  # Llama 3.2's 1B and 3B, whose stretching of 32 params.json does not tell


def is_meta(folder: Path) -> bool:
    return (folder / "params.json").is_file() and bool(shards(folder))


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("consolidated.*.pth"))


def rename(name: str) -> Place:
    """blocks.3.attention.q.weight -> layers.3.attention.wq.weight"""
    module, _, kind = name.rpartition(".")
    if not module.startswith("blocks."):
        return Place(f"{NAMES[module]}.{kind}")
    _, layer, part = module.split(".", 2)
    return Place(f"layers.{layer}.{NAMES[part]}.{kind}")


def opened(folder: Path) -> tuple[ModelConfig, dict[str, Stored], Rename]:
    """The shape of the model, its tensors merged and with their heads in our order, and their names."""
    parts = [(path, tensors_of(path)) for path in shards(folder)]
    names = set(parts[0][1])
    for path, part in parts[1:]:
        if lost := sorted(names ^ set(part)):
            raise UserError(f"{path}: tensor {lost[0]} is not in every shard; fetch the folder again")
    embedding = [part["tok_embeddings.weight"] for _, part in parts if "tok_embeddings.weight" in part]
    if not embedding:
        raise UserError(f"{parts[0][0]}: tensor tok_embeddings.weight is missing; is this a Llama?")
    config = read_config(folder, embedding, tied="output.weight" not in names)
    shapes = _shapes(config)
    merged = {}
    for name in sorted(names - {"rope.freqs"}):
        pieces = [part[name] for _, part in parts]
        merged[name] = merge(name, pieces, shapes[name]) if name in shapes else pieces[0]
        if name.endswith(("wq.weight", "wk.weight")) and name in shapes:
            merged[name] = halved(merged[name], config.head_size)
    return config, merged, rename


def read_config(folder: Path, embedding: list[Stored], tied: bool) -> ModelConfig:
    """From params.json; the vocabulary's size, which older files leave at -1, from the embedding."""
    file = folder / "params.json"
    keys = Keys(read_json(file), file)
    width, layers, heads = keys.positive("dim"), keys.positive("n_layers"), keys.positive("n_heads")
    vocab = math.prod(embedding[0].shape) * len(embedding) // width
    scaled = keys.flag("use_scaled_rope", False)
    rope: dict[str, Any] = {"rope_theta": keys.number("rope_theta", 10_000.0)}
    if scaled:
        usual = 32.0 if (width, layers) in SMALL else 8.0
        rope |= {"rope_factor": keys.number("rope_scaling_factor", usual), "rope_original": 8192}
    eps = keys.number("norm_eps", 1e-5)
    context = 131_072 if scaled else 8192 if rope["rope_theta"] > 10_000 else 2048 if eps < 1e-5 else 4096
    try:
        config = ModelConfig(
            vocab=vocab,
            width=width,
            layers=layers,
            heads=heads,
            kv_heads=keys.whole("n_kv_heads", 0),
            ffn_dim_multiplier=keys.number("ffn_dim_multiplier", 1.0),
            multiple_of=keys.positive("multiple_of", 256),
            norm_eps=eps,
            context=context,
            tied=tied,
            **rope,
        )
    except (ValueError, ArithmeticError) as error:
        raise UserError(f"{file}: {error}") from error
    check_sizes(config, file)
    return config


def _shapes(config: ModelConfig) -> dict[str, list[int]]:
    """What params.json says of each tensor."""
    from pronk.models.build import build

    return {rename(name).name: list(p.shape) for name, p in build(config, "meta").named_parameters()}


def merge(name: str, pieces: list[Stored], shape: list[int]) -> Stored:
    """The whole tensor: pieces that are slices of it are joined where they were cut, and copies of it count once."""
    first = pieces[0]
    if any(piece.shape != first.shape for piece in pieces):
        raise UserError(f"{first.path}: tensor {name} has another shape in other shards; fetch the folder again")
    if first.shape == shape:
        return first
    for dim in range(len(shape)):
        if [n * (len(pieces) if d == dim else 1) for d, n in enumerate(first.shape)] == shape:
            return Stored(first.path, first.kind, shape, partial(_joined, pieces, dim))
    raise UserError(
        f"{first.path}: tensor {name} has shape {first.shape} in {len(pieces)} shards, "
        f"but params.json describes {shape}"
    )


def _joined(pieces: list[Stored], dim: int) -> Tensor:
    return torch.cat([piece.load() for piece in pieces], dim)


def halved(stored: Stored, head_dim: int) -> Stored:
    """A query or key matrix with each head's pairs moved from neighbours, as Meta has them, to halves, as ours are."""
    return Stored(stored.path, stored.kind, stored.shape, partial(_halved, stored.load, head_dim))


def _halved(load: Callable[[], Tensor], head_dim: int) -> Tensor:
    whole = load()
    return whole.view(-1, head_dim // 2, 2, whole.shape[1]).transpose(1, 2).reshape(whole.shape)
