"""Saves and opens Hugging Face model folders: weights, tokenizer, template; Llamas load in transformers as they are."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pronk.errors import UserError
from pronk.folders import configs, tensors
from pronk.folders.swap import replaced, standing
from pronk.models.build import Model, build, count
from pronk.models.config import ModelConfig

if TYPE_CHECKING:
    from pronk.text.tokenizer import Tokenizer


def save(
    folder: Path | str,
    model: Model,
    tokenizer: "Tokenizer",
    generation: Mapping[str, Any] | None = None,
    card: str | None = None,
) -> None:
    """Write a model folder, whole or not at all; one that is there is replaced.

    generation: keys for generation_config.json beside the ids (temperature, ..). card: how the model was trained,
    Markdown for README.md. Decoders that are Llamas are saved as such; other models under pronk's own names.
    """
    folder, config = Path(folder), model.config
    check_fit(tokenizer, config, folder)
    ids = {"bos_token_id": tokenizer.bos, "eos_token_id": tokenizer.eos, "pad_token_id": tokenizer.pad}
    dtype = str(model.embed.weight.dtype).removeprefix("torch.")
    with replaced(folder) as fresh:
        write_json(fresh / "config.json", configs.to_json(config, ids, dtype))
        write_json(fresh / "generation_config.json", ids | dict(generation or {}))
        (fresh / "README.md").write_text(card_text(folder.resolve().name, model, card), encoding="utf-8")
        tokenizer.save(fresh)
        tensors.write(model, fresh, names_of(config))


def load(folder: Path | str, device: torch.device | str = "cpu") -> "tuple[Model, Tokenizer]":
    """A model, parameters in float32, and its tokenizer. Raises UserError naming what is wrong with the folder."""
    from pronk.text.tokenizer import Tokenizer

    config = read_config(folder)
    tokenizer = Tokenizer.load(standing(Path(folder)))
    check_fit(tokenizer, config, Path(folder))
    return load_model(folder, device), tokenizer


def load_model(folder: Path | str, device: torch.device | str = "cpu") -> Model:
    """The weights alone, parameters in float32; they are read tensor by tensor."""
    config = read_config(folder)
    model = build(config, "meta")
    tensors.read(model, standing(Path(folder)), names_of(config), device)
    return model


def read_config(folder: Path | str) -> ModelConfig:
    """The shape of the model in a folder, from its config.json."""
    file = standing(Path(folder)) / "config.json"
    if not file.parent.is_dir():
        raise UserError(f"{folder}: no such folder")
    return configs.from_json(tensors.read_json(file), file)


def names_of(config: ModelConfig) -> tensors.Rename:
    return tensors.as_llama if configs.is_llama(config) else tensors.unchanged


def check_fit(tokenizer: "Tokenizer", config: ModelConfig, folder: Path) -> None:
    if tokenizer.size > config.vocab:
        raise UserError(
            f"{folder}: the tokenizer has {tokenizer.size} tokens but the model's vocabulary only {config.vocab}; "
            "use the tokenizer that the model was trained with"
        )


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def card_text(name: str, model: Model, card: str | None) -> str:
    """README.md: what the model is and how it was trained, and no claim beyond that."""
    config = model.config
    llama = configs.is_llama(config)
    kind = "Llama decoder" if llama else f"{config.family} with {config.feedforward} (loads in pronk only)"
    kind = "LSTM (loads in pronk only)" if config.family == "lstm" else kind
    opened = "It loads in transformers (AutoModelForCausalLM) and in pronk" if llama else "It loads in pronk"
    return f"""---
library_name: {"transformers" if llama else "pronk"}
pipeline_tag: text-generation
tags: [pronk]
---
# {name}

A language model made with pronk: {kind}, {count(model):,} parameters, {config.layers} layers of width
{config.width}, {config.vocab:,} tokens of vocabulary, context {config.context:,} tokens.

{opened} (`model, tokenizer = pronk.load("{name}")`).

## Training

{card or "Not recorded."}

## Limits

Language models make things up. Nothing but what stands above is known of its quality or safety.
"""
