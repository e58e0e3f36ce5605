"""Between a ModelConfig and config.json: transformers' keys where it has the architecture, else ours under "pronk"."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pronk.errors import UserError
from pronk.folders.architectures import ARCHITECTURES, equal
from pronk.folders.keys import Keys
from pronk.models.config import ModelConfig

OURS = {"decoder": "PronkDecoder", "rnn": "PronkRNN", "gru": "PronkGRU", "lstm": "PronkLSTM"}
SCORES = "ForSequenceClassification"
LARGEST = {"layers": 10_000, "context": 1 << 24, "ffn_dim_multiplier": 1000.0, "dropout": 1.0}


def to_json(config: ModelConfig, ids: Mapping[str, int | None], dtype: str) -> dict[str, Any]:
    """The content of config.json. ids: bos_token_id and the like. Dropout belongs to training and stays out."""
    shared = {"dtype": dtype, "tie_word_embeddings": config.tied, "vocab_size": config.vocab, **ids}
    if known := equal(config):
        return {"architectures": [known.name], "model_type": known.model_type, **shared, **known.write(config)}
    own = asdict(replace(config, preset="", dropout=0.0))
    return {"architectures": [OURS[config.family]], "model_type": "pronk", **shared, "pronk": own}


def scorer_json(values: Mapping[str, Any], bias: float) -> dict[str, Any]:
    """config.json of a reward model whose body's is `values`: transformers' SequenceClassification with one label.

    Its score layer has no bias, so ours stands here: our scores are transformers' logits + score_bias.
    """
    label = {"id2label": {"0": "score"}, "label2id": {"score": 0}, "score_bias": bias}
    return {**values, "architectures": [scorer_name(values["architectures"][0])], **label}


def scorer_name(name: str) -> str:
    """LlamaForCausalLM -> LlamaForSequenceClassification, PronkLSTM -> PronkLSTMForSequenceClassification."""
    return name.removesuffix("ForCausalLM").removesuffix("LMHeadModel") + SCORES


def is_scorer(values: Mapping[str, Any]) -> bool:
    """Whether a config.json says that its folder holds a reward model."""
    names = values.get("architectures")
    return isinstance(names, list) and bool(names) and str(names[0]).endswith(SCORES)


def score_bias(values: Mapping[str, Any], file: Path) -> float:
    """What is added to each score; 0 in folders that are not ours."""
    value = values.get("score_bias", 0.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{file}: score_bias is {json.dumps(value)[:60]}, expected a number")
    return float(value)


def from_json(values: Mapping[str, Any], file: Path) -> ModelConfig:
    """The ModelConfig that a config.json describes; UserError names the key that is wrong or that we lack."""
    keys = Keys(values, file)
    name = _name(values)
    if not isinstance(name, str) or name not in [*ARCHITECTURES, *OURS.values()]:
        known = [*ARCHITECTURES, *OURS.values()]
        raise UserError(f"{file}: architecture {name} is not supported (supported: {', '.join(known)})")
    try:
        config = ARCHITECTURES[name].config(keys) if name in ARCHITECTURES else _read_ours(keys)
    except UserError:
        raise
    except (ValueError, ArithmeticError) as error:
        raise UserError(f"{file}: {error}") from error
    check_sizes(config, file)
    return config


def _name(values: Mapping[str, Any]) -> Any:
    """The architecture's name; in older files only the model type gives it."""
    types = {row.model_type: [row.name] for row in ARCHITECTURES.values()}
    names = values.get("architectures") or types.get(str(values.get("model_type")), [None])
    name = names[0] if isinstance(names, list) else names
    if is_scorer(values):  # the body is the language model's
        name = next((one for one in [*ARCHITECTURES, *OURS.values()] if scorer_name(one) == name), name)
    return name


def _read_ours(keys: Keys) -> ModelConfig:
    own = keys.table("pronk")
    hints = get_type_hints(ModelConfig)
    for key in own.values:
        if key not in hints:
            raise UserError(f"{keys.file}: pronk.{key} is unknown; was it saved by a newer pronk?")
    return ModelConfig(**{key: _field(own, key, hints[key]) for key in own.values})


def _field(keys: Keys, name: str, kind: Any) -> Any:
    if get_origin(kind) is Literal:
        return keys.word(name, get_args(kind))
    readers: dict[Any, Callable[[str], Any]] = {int: keys.whole, float: keys.number, bool: keys.flag}
    return readers[kind](name) if kind in readers else ""  # the preset: only a name, and its row is written out


def check_sizes(config: ModelConfig, file: Path) -> None:
    """No number of a config may make us loop or allocate without end."""
    for name in ("vocab", "width", "layers", "heads", "context", "rope_theta", "rope_factor", "rope_original"):
        if getattr(config, name) <= 0:
            raise UserError(f"{file}: the model's {name} is {getattr(config, name)}, expected more than 0")
    for name, most in LARGEST.items():
        if getattr(config, name) > most:
            raise UserError(f"{file}: the model's {name} is {getattr(config, name)}, expected at most {most}")
    if config.rope_high <= config.rope_low:
        raise UserError(f"{file}: high_freq_factor {config.rope_high} must be above low_freq_factor {config.rope_low}")
