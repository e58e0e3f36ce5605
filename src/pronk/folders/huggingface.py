"""Saves and opens Hugging Face model folders: weights, tokenizer, template; Llamas load in transformers as they are."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pronk.errors import UserError
from pronk.folders import configs, tensors
from pronk.folders.architectures import equal
from pronk.folders.names import names_of, scorers
from pronk.folders.swap import replaced, standing
from pronk.folders.weights import fill
from pronk.models.build import Model, build, count
from pronk.models.config import ModelConfig
from pronk.models.heads import Scorer
from pronk.models.lora import merged

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
    LoRA adapters are merged.
    """
    model = merged(model)
    folder, config = Path(folder), model.config
    ids = ids_of(tokenizer)
    with written(folder, tokenizer, config, configs.to_json(config, ids, dtype_of(model))) as fresh:
        write_json(fresh / "generation_config.json", ids | dict(generation or {}))
        (fresh / "README.md").write_text(card_text(folder.resolve().name, model, card), encoding="utf-8")
        tensors.write(model, fresh, names_of(config))


def save_scorer(folder: Path | str, scorer: Scorer, tokenizer: "Tokenizer", card: str | None = None) -> None:
    """Write a reward model's folder: transformers' AutoModelForSequenceClassification where it has the architecture.

    Its score layer has no bias, so ours is written to config.json as score_bias: our scores are transformers' logits
    (rows padded on the right with pad_token_id) + score_bias. Differences of scores are the same in both.
    """
    scorer = merged(scorer)
    folder, body = Path(folder), scorer_body(scorer)
    config = replace(body.config, tied=True)
    values = configs.scorer_json(configs.to_json(config, ids_of(tokenizer), dtype_of(body)), scorer.value.bias.item())
    with written(folder, tokenizer, config, values) as fresh:
        text = scorer_card(folder.resolve().name, body, card)
        (fresh / "README.md").write_text(text, encoding="utf-8")
        tensors.write(scorer, fresh, scorers(names_of(config)))


@contextmanager
def written(folder: Path, tokenizer: "Tokenizer", config: ModelConfig, values: Mapping[str, Any]) -> Iterator[Path]:
    """A fresh folder with config.json and the tokenizer in it, which takes the place of `folder` at the end."""
    check_fit(tokenizer, config, folder)
    with replaced(folder) as fresh:
        write_json(fresh / "config.json", values)
        tokenizer.save(fresh)
        yield fresh


def ids_of(tokenizer: "Tokenizer") -> dict[str, int | None]:
    return {"bos_token_id": tokenizer.bos, "eos_token_id": tokenizer.eos, "pad_token_id": tokenizer.pad}


def dtype_of(model: Model) -> str:
    return str(model.embed.weight.dtype).removeprefix("torch.")


def scorer_body(scorer: Scorer) -> Model:
    body: Model = scorer.body  # type: ignore[assignment]
    return body


def load(folder: Path | str, device: torch.device | str = "cpu") -> "tuple[Model, Tokenizer]":
    """A model, parameters in float32, and its tokenizer. Raises UserError naming what is wrong with the folder."""
    from pronk.text.tokenizer import Tokenizer

    config = read_config(folder)
    tokenizer = Tokenizer.load(standing(Path(folder)))
    check_fit(tokenizer, config, Path(folder))
    return load_model(folder, device), tokenizer


def load_model(folder: Path | str, device: torch.device | str = "cpu") -> Model:
    """The weights alone, parameters in float32; they are read tensor by tensor."""
    file = config_file(folder)
    values = tensors.read_json(file)
    if configs.is_scorer(values):
        raise UserError(f"{folder}: holds a reward model, which only scores; name the folder of a language model")
    config = configs.from_json(values, file)
    model = build(config, "meta")
    fill(model, tensors.locate(file.parent), names_of(config), file.parent, device)
    return model


def load_scorer(folder: Path | str, device: torch.device | str = "cpu") -> "tuple[Scorer, Tokenizer]":
    """A reward model, parameters in float32, and its tokenizer; score with engine.score.score_rows.

    Ours, and transformers' sequence classifiers with one label on an architecture that we have.
    """
    from pronk.text.tokenizer import Tokenizer

    file = config_file(folder)
    values = tensors.read_json(file)
    if not configs.is_scorer(values):
        raise UserError(f"{folder}: holds no reward model; make one with `pronk reward`")
    config = configs.from_json(values, file)
    names, config = scorers(names_of(config)), replace(config, tied=True, head_bias=False)  # there is no head
    tokenizer = Tokenizer.load(file.parent)
    check_fit(tokenizer, config, Path(folder))
    with torch.device("meta"):
        scorer = Scorer(build(config, "meta"), config.width)
    fill(scorer, tensors.locate(file.parent), names, file.parent, device)
    with torch.no_grad():
        scorer.value.bias.fill_(configs.score_bias(values, file))
    return scorer, tokenizer


def read_config(folder: Path | str) -> ModelConfig:
    """The shape of the model in a folder, from its config.json."""
    file = config_file(folder)
    return configs.from_json(tensors.read_json(file), file)


def config_file(folder: Path | str) -> Path:
    file = standing(Path(folder)) / "config.json"
    if not file.parent.is_dir():
        raise UserError(f"{folder}: no such folder")
    return file


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
    known = equal(config)
    kind = f"{config.family} with {config.feedforward} (loads in pronk only)"
    kind = f"{config.family.upper()} (loads in pronk only)" if config.family != "decoder" else kind
    kind = f"{known.model_type} decoder" if known else kind
    opened = "It loads in transformers (AutoModelForCausalLM) and in pronk" if known else "It loads in pronk"
    return f"""---
library_name: {"transformers" if known else "pronk"}
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


def scorer_card(name: str, body: Model, card: str | None) -> str:
    """README.md of a reward model."""
    config = body.config
    known = equal(config)
    opened = "It loads in transformers (AutoModelForSequenceClassification, one label) and in pronk" if known else ""
    return f"""---
library_name: {"transformers" if known else "pronk"}
pipeline_tag: text-classification
tags: [pronk, reward-model]
---
# {name}

A reward model made with pronk: one number for a conversation, read at its last token; a higher one means a better
answer. {count(body):,} parameters, {config.layers} layers of width {config.width}, {config.vocab:,} tokens of
vocabulary, context {config.context:,} tokens.

{opened or "It loads in pronk"}. Pad on the right. Score a conversation through the chat template, the end token of the
answer included. `score_bias` in config.json is to be added to transformers' logits; it centres the scores.

## Training

{card or "Not recorded."}

## Limits

It has learned one set of comparisons. Far from them, and under optimisation, its scores can be wrong.
"""
