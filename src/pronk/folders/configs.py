"""Between a ModelConfig and config.json: Llama's keys where the model is a Llama, our own under "pronk" elsewhere."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pronk.errors import UserError
from pronk.models.config import ModelConfig

OURS = {"decoder": "PronkDecoder", "lstm": "PronkLSTM"}
SCORES = "ForSequenceClassification"
LLAMA_ALLOWS: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "hidden_act": ("silu", "swish"),
    "attention_dropout": (0, None),
    "partial_rotary_factor": (1, None),
    "quantization_config": (None,),
    "sliding_window": (None,),
}
LARGEST = {"layers": 10_000, "context": 1 << 24, "ffn_dim_multiplier": 1000.0, "dropout": 1.0}


@dataclass(frozen=True)
class Keys:
    """Checked reading of one JSON object; a config from elsewhere is untrusted."""

    values: Mapping[str, Any]
    file: Path

    def whole(self, key: str, default: int | None = None) -> int:
        value = self.values.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 31:
            raise self.wrong(key, value, "a whole number")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.values.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise self.wrong(key, value, "a number, zero or more")
        return float(value)

    def flag(self, key: str, default: bool | None = None) -> bool:
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, value, "true or false")
        return value

    def word(self, key: str, choices: tuple[str, ...]) -> str:
        value = self.values.get(key)
        if value not in choices:
            raise self.wrong(key, value, "one of " + ", ".join(choices))
        return str(value)

    def table(self, key: str) -> "Keys":
        value = self.values.get(key) or {}
        if not isinstance(value, dict):
            raise self.wrong(key, value, "an object")
        return Keys(value, self.file)

    def wrong(self, key: str, value: Any, expected: str) -> UserError:
        if value is None:
            return UserError(f"{self.file}: {key} is missing; expected {expected}")
        return UserError(f"{self.file}: {key} is {json.dumps(value)[:60]}, expected {expected}")


def is_llama(config: ModelConfig) -> bool:
    """Whether transformers' Llama computes the same; it demands that heads divide the width."""
    return config.family == "decoder" and config.feedforward == "swiglu" and config.width % config.heads == 0


def to_json(config: ModelConfig, ids: Mapping[str, int | None], dtype: str) -> dict[str, Any]:
    """The content of config.json. ids: bos_token_id and the like. Dropout belongs to training and stays out."""
    shared = {"dtype": dtype, "tie_word_embeddings": config.tied, "vocab_size": config.vocab, **ids}
    if is_llama(config):
        return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **shared, **_llama_keys(config)}
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


def _llama_keys(config: ModelConfig) -> dict[str, Any]:
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.rope_factor != 1.0:
        rope |= {"rope_type": "llama3", "factor": config.rope_factor, "low_freq_factor": config.rope_low}
        rope |= {"high_freq_factor": config.rope_high, "original_max_position_embeddings": config.rope_original}
    old = {} if config.rope_factor == 1.0 else {"rope_scaling": rope}
    return {
        "hidden_size": config.width,
        "intermediate_size": config.inner,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.key_heads,
        "head_dim": config.head_size,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "max_position_embeddings": config.context,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "rope_parameters": rope,
        "rope_theta": config.rope_theta,  # this and rope_scaling: for readers older than transformers 5
        **old,
    }


def from_json(values: Mapping[str, Any], file: Path) -> ModelConfig:
    """The ModelConfig that a config.json describes; UserError names the key that is wrong or that we lack."""
    keys = Keys(values, file)
    names = values.get("architectures") or {"llama": ["LlamaForCausalLM"]}.get(str(values.get("model_type")), [None])
    name = names[0] if isinstance(names, list) else names
    if is_scorer(values):  # the body is the language model's
        name = next((one for one in READERS if scorer_name(one) == name), name)
    if not isinstance(name, str) or name not in READERS:
        raise UserError(f"{file}: architecture {name} is not supported (supported: {', '.join(READERS)})")
    try:
        config = READERS[name](keys)
    except UserError:
        raise
    except (ValueError, ArithmeticError) as error:
        raise UserError(f"{file}: {error}") from error
    _check_sizes(config, file)
    return config


def _read_llama(keys: Keys) -> ModelConfig:
    for key, allowed in LLAMA_ALLOWS.items():
        if key in keys.values and keys.values[key] not in allowed:
            given = json.dumps(keys.values[key])[:60]
            raise UserError(f"{keys.file}: {key} = {given} is not supported, only {json.dumps(allowed[0])}")
    heads = keys.whole("num_attention_heads")
    return ModelConfig(
        vocab=keys.whole("vocab_size"),
        width=keys.whole("hidden_size"),
        layers=keys.whole("num_hidden_layers"),
        heads=_positive(keys, "num_attention_heads", heads),
        kv_heads=_positive(keys, "num_key_value_heads", keys.whole("num_key_value_heads", heads)),
        head_dim=keys.whole("head_dim", 0),
        ffn_dim=keys.whole("intermediate_size"),
        context=keys.whole("max_position_embeddings", 2048),
        norm_eps=keys.number("rms_norm_eps", 1e-6),
        tied=keys.flag("tie_word_embeddings", False),
        **_read_rope(keys),
    )


def _read_rope(keys: Keys) -> dict[str, Any]:
    name = "rope_scaling" if keys.values.get("rope_scaling") else "rope_parameters"
    rope = keys.table(name)
    kind = rope.values.get("rope_type", rope.values.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise UserError(f"{keys.file}: {name}.rope_type {json.dumps(kind)} is not supported, only default and llama3")
    if rope.values.get("partial_rotary_factor", 1) != 1:
        raise UserError(f"{keys.file}: {name}.partial_rotary_factor is not supported, only 1")
    found = {"rope_theta": rope.number("rope_theta", keys.number("rope_theta", 10_000.0))}
    if kind == "default":
        return found
    return found | {
        "rope_factor": rope.number("factor"),
        "rope_low": rope.number("low_freq_factor"),
        "rope_high": rope.number("high_freq_factor"),
        "rope_original": rope.whole("original_max_position_embeddings", keys.whole("max_position_embeddings", 2048)),
    }


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


def _positive(keys: Keys, key: str, value: int) -> int:
    if value < 1:
        raise keys.wrong(key, value, "at least 1")
    return value


def _check_sizes(config: ModelConfig, file: Path) -> None:
    """No number of a config may make us loop or allocate without end."""
    for name in ("vocab", "width", "layers", "heads", "context", "rope_theta", "rope_factor", "rope_original"):
        if getattr(config, name) <= 0:
            raise UserError(f"{file}: the model's {name} is {getattr(config, name)}, expected more than 0")
    for name, most in LARGEST.items():
        if getattr(config, name) > most:
            raise UserError(f"{file}: the model's {name} is {getattr(config, name)}, expected at most {most}")
    if config.rope_high <= config.rope_low:
        raise UserError(f"{file}: high_freq_factor {config.rope_high} must be above low_freq_factor {config.rope_low}")


READERS: dict[str, Callable[[Keys], ModelConfig]] = {
    "LlamaForCausalLM": _read_llama,
    "PronkDecoder": _read_ours,
    "PronkLSTM": _read_ours,
}
