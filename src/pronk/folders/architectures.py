"""The architectures of transformers that our decoder equals: which configs, and how config.json says them."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pronk.errors import UserError
from pronk.folders.keys import Keys
from pronk.models.config import ModelConfig

PLAIN: dict[str, Any] = {  # what sets no architecture apart; traits below say where one differs
    "family": "decoder",
    "block": "pre",
    "norm": "rms",
    "feedforward": "swiglu",
    "attention_bias": "none",
    "attention_scaled": True,
    "qk_norm": False,
    "positions": "rotary",
    "head_bias": False,
}
GPT: dict[str, Any] = {"norm": "layer", "feedforward": "gelu", "positions": "learned"}
SHARED: dict[str, tuple[Any, ...]] = {"attention_dropout": (0, None), "quantization_config": (None,)}
ROTARY = SHARED | {"hidden_act": ("silu", "swish"), "attention_bias": (False, None), "mlp_bias": (False, None)}
GELU = ("gelu_new", "gelu_pytorch_tanh")
GPT2_ALLOWS: dict[str, tuple[Any, ...]] = SHARED | {
    "activation_function": GELU,
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
}
PHI_ALLOWS: dict[str, tuple[Any, ...]] = SHARED | {"hidden_act": GELU, "qk_layernorm": (False,)}
MOST_LAYERS = 1000  # whose kinds a config may list one by one
QWEN_ALLOWS = ROTARY | {"use_sliding_window": (False,)}


@dataclass(frozen=True)
class Architecture:
    """One class of transformers.

    traits: what ModelConfig says of all its models, where it differs from PLAIN. allows: keys of config.json and the
    values that we can do. read and write: the other keys, from and to config.json. fits: what else must hold.
    """

    name: str
    model_type: str
    traits: Mapping[str, Any]
    allows: Mapping[str, tuple[Any, ...]]
    read: Callable[[Keys], dict[str, Any]]
    write: Callable[[ModelConfig], dict[str, Any]]
    fits: Callable[[ModelConfig], bool]

    def equals(self, config: ModelConfig) -> bool:
        """Whether transformers computes what our model of this config does."""
        traits = {**PLAIN, **self.traits}
        return all(getattr(config, key) == value for key, value in traits.items()) and self.fits(config)

    def config(self, keys: Keys) -> ModelConfig:
        keys.only(self.allows)
        return ModelConfig(**self.traits, **self.read(keys))


def equal(config: ModelConfig) -> Architecture | None:
    """The architecture of transformers that computes what our model does."""
    return next((row for row in ARCHITECTURES.values() if row.equals(config)), None)


# ── rotary: Llama, Mistral, Qwen 3, Phi


def _write_llama(config: ModelConfig) -> dict[str, Any]:
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
        **_write_rope(config),
    }


def _write_rope(config: ModelConfig) -> dict[str, Any]:
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.rope_factor != 1.0:
        rope |= {"rope_type": "llama3", "factor": config.rope_factor, "low_freq_factor": config.rope_low}
        rope |= {"high_freq_factor": config.rope_high, "original_max_position_embeddings": config.rope_original}
    old: dict[str, Any] = {} if config.rope_factor == 1.0 else {"rope_scaling": rope}
    # rope_theta and rope_scaling: for readers older than transformers 5
    return {"rope_parameters": rope, "rope_theta": config.rope_theta, **old}


def _write_mistral(config: ModelConfig) -> dict[str, Any]:
    return _write_llama(config) | {"sliding_window": config.window}


def _write_qwen(config: ModelConfig) -> dict[str, Any]:
    return _write_llama(config) | {"use_sliding_window": False}


def _write_phi(config: ModelConfig) -> dict[str, Any]:
    keys, part = _write_llama(config), {"partial_rotary_factor": config.rotary_share}  # a half where nothing is said
    keys |= {"hidden_act": "gelu_new", "layer_norm_eps": config.norm_eps, "qk_layernorm": False}
    return keys | part | {"rope_parameters": keys["rope_parameters"] | part}


def _read_body(keys: Keys, eps: str, default: float) -> dict[str, Any]:
    heads = keys.positive("num_attention_heads")
    return {
        "vocab": keys.whole("vocab_size"),
        "width": keys.whole("hidden_size"),
        "layers": keys.whole("num_hidden_layers"),
        "heads": heads,
        "kv_heads": keys.positive("num_key_value_heads", heads),
        "ffn_dim": keys.whole("intermediate_size"),
        "norm_eps": keys.number(eps, default),
        "tied": keys.flag("tie_word_embeddings", False),
    }


def _read_llama(keys: Keys) -> dict[str, Any]:
    keys.only({"sliding_window": (None,)})
    return _read_body(keys, "rms_norm_eps", 1e-6) | {
        "head_dim": keys.whole("head_dim", 0),
        "context": keys.whole("max_position_embeddings", 2048),
        **_read_rope(keys, 2048),
    }


def _read_mistral(keys: Keys) -> dict[str, Any]:
    window = 0 if keys.values.get("sliding_window", 4096) is None else keys.positive("sliding_window", 4096)
    return _read_body(Keys({"num_key_value_heads": 8} | dict(keys.values), keys.file), "rms_norm_eps", 1e-6) | {
        "head_dim": keys.whole("head_dim", 0),
        "context": keys.whole("max_position_embeddings", 131_072),
        "window": window,
        **_read_rope(keys, 131_072),
    }


def _read_qwen(keys: Keys) -> dict[str, Any]:
    if set(keys.values.get("layer_types") or ()) - {"full_attention"}:
        raise UserError(f"{keys.file}: layer_types is not supported, only full_attention")
    return _read_body(Keys({"num_key_value_heads": 32} | dict(keys.values), keys.file), "rms_norm_eps", 1e-6) | {
        "head_dim": keys.positive("head_dim", 128),
        "context": keys.whole("max_position_embeddings", 32_768),
        **_read_rope(keys, 32_768),
    }


def _read_phi(keys: Keys) -> dict[str, Any]:
    rope = _read_rope(keys, 2048, 0.5)
    return _read_body(keys, "layer_norm_eps", 1e-5) | {"context": keys.whole("max_position_embeddings", 2048), **rope}


def _read_rope(keys: Keys, context: int, share: float = 1.0) -> dict[str, Any]:
    """share: the model type's own part of a head that turns; no other is allowed where it is 1."""
    name = "rope_scaling" if keys.values.get("rope_scaling") else "rope_parameters"
    rope = keys.table(name)
    kind = rope.values.get("rope_type", rope.values.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise UserError(f"{keys.file}: {name}.rope_type {json.dumps(kind)} is not supported, only default and llama3")
    part = rope.number("partial_rotary_factor", keys.number("partial_rotary_factor", share))
    if share == 1 and part != 1:
        raise UserError(f"{keys.file}: partial_rotary_factor = {part} is not supported, only 1")
    found = {"rope_theta": rope.number("rope_theta", keys.number("rope_theta", 10_000.0)), "rotary_share": part}
    found = found if share != 1 else {"rope_theta": found["rope_theta"]}
    if kind == "default":
        return found
    return found | {
        "rope_factor": rope.number("factor"),
        "rope_low": rope.number("low_freq_factor"),
        "rope_high": rope.number("high_freq_factor"),
        "rope_original": rope.whole("original_max_position_embeddings", keys.whole("max_position_embeddings", context)),
    }


# ── learned positions: GPT, GPT-2, GPT-Neo


def _write_gpt2(config: ModelConfig) -> dict[str, Any]:
    return {
        "n_embd": config.width,
        "n_inner": config.inner,
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_positions": config.context,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": config.norm_eps,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop", "summary_first_dropout"), 0.0),
    }


def _write_gpt(config: ModelConfig) -> dict[str, Any]:
    return _write_gpt2(config) | {"afn": "gelu"}  # by its tanh formula


def _read_gpt2(keys: Keys) -> dict[str, Any]:
    width = keys.whole("n_embd", 768)
    return {
        "vocab": keys.whole("vocab_size"),
        "width": width,
        "layers": keys.whole("n_layer", 12),
        "heads": keys.positive("n_head", 12),
        "ffn_dim": keys.whole("n_inner", 4 * width),
        "context": keys.whole("n_positions", 1024),
        "norm_eps": keys.number("layer_norm_epsilon", 1e-5),
        "tied": keys.flag("tie_word_embeddings", True),
    }


def _read_gpt(keys: Keys) -> dict[str, Any]:
    return _read_gpt2(Keys({"n_positions": 512} | dict(keys.values), keys.file)) | {"ffn_dim": 0}


def _write_neo(config: ModelConfig) -> dict[str, Any]:
    kinds = ["local" if window else "global" for window in config.windows]
    return {
        "hidden_size": config.width,
        "intermediate_size": config.inner,
        "num_layers": config.layers,
        "num_heads": config.heads,
        "attention_types": [[[kind], 1] for kind in kinds],
        "window_size": config.window or 256,
        "max_position_embeddings": config.context,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": config.norm_eps,
        **dict.fromkeys(("resid_dropout", "embed_dropout", "attention_dropout", "classifier_dropout"), 0.0),
    }


def _read_neo(keys: Keys) -> dict[str, Any]:
    layers, width = keys.positive("num_layers", 24), keys.whole("hidden_size", 2048)
    return {
        "vocab": keys.whole("vocab_size"),
        "width": width,
        "layers": layers,
        "heads": keys.positive("num_heads", 16),
        "ffn_dim": keys.whole("intermediate_size", 4 * width),
        "context": keys.whole("max_position_embeddings", 2048),
        "norm_eps": keys.number("layer_norm_epsilon", 1e-5),
        "tied": keys.flag("tie_word_embeddings", True),
        **_read_kinds(keys, layers),
    }


def _read_kinds(keys: Keys, layers: int) -> dict[str, int]:
    """attention_types [[["global", "local"], 12]] = 12 times a global layer and a local one."""
    if layers > MOST_LAYERS:
        raise keys.wrong("num_layers", layers, f"at most {MOST_LAYERS}")
    types = keys.values.get("attention_types") or [[["global", "local"], 12]]
    try:
        kinds = [kind for pattern, times in types for kind in list(pattern) * min(int(times), layers)]
    except (TypeError, ValueError):
        raise keys.wrong("attention_types", types, 'a list like [[["global", "local"], 12]]') from None
    window = keys.positive("window_size", 256)
    for every in range(1, layers + 1):
        if kinds == ["global" if (layer + 1) % every else "local" for layer in range(layers)]:
            return {"window": window, "window_every": every}
    if kinds == ["global"] * layers:
        return {"window": 0}
    raise keys.wrong("attention_types", types, f"{layers} layers, each n-th of them local")


def _whole(config: ModelConfig) -> bool:
    """Whether heads make up the width, each with keys of its own: all that GPT's classes know."""
    return config.key_heads == config.heads and config.heads * config.head_size == config.width


def _global(config: ModelConfig) -> bool:
    return config.window == 0


def _turns_whole(config: ModelConfig) -> bool:
    return config.rotary_share == 1


LLAMA = Architecture(
    name="LlamaForCausalLM",
    model_type="llama",
    traits={},
    allows=ROTARY,
    read=_read_llama,
    write=_write_llama,
    fits=lambda c: _global(c) and _turns_whole(c) and c.width % c.heads == 0,
)
MISTRAL = Architecture(
    name="MistralForCausalLM",
    model_type="mistral",
    traits={},
    allows=ROTARY,
    read=_read_mistral,
    write=_write_mistral,
    fits=lambda c: c.window > 0 and c.window_every == 1 and _turns_whole(c),
)
QWEN3 = Architecture(
    name="Qwen3ForCausalLM",
    model_type="qwen3",
    traits={"qk_norm": True},
    allows=QWEN_ALLOWS,
    read=_read_qwen,
    write=_write_qwen,
    fits=lambda c: _global(c) and _turns_whole(c),
)
PHI = Architecture(
    name="PhiForCausalLM",
    model_type="phi",
    traits={"block": "parallel", "norm": "layer", "feedforward": "gelu", "attention_bias": "all", "head_bias": True},
    allows=PHI_ALLOWS,
    read=_read_phi,
    write=_write_phi,
    fits=lambda c: _global(c) and c.heads * c.head_size == c.width,
)
GPT2 = Architecture(
    name="GPT2LMHeadModel",
    model_type="gpt2",
    traits=GPT | {"attention_bias": "all"},
    allows=GPT2_ALLOWS,
    read=_read_gpt2,
    write=_write_gpt2,
    fits=lambda c: _global(c) and _whole(c),
)
GPT1 = Architecture(
    name="OpenAIGPTLMHeadModel",
    model_type="openai-gpt",
    traits=GPT | {"attention_bias": "all", "block": "post"},
    allows={"afn": ("gelu",)},
    read=_read_gpt,
    write=_write_gpt,
    fits=lambda c: _global(c) and _whole(c) and c.inner == 4 * c.width,
)
GPT_NEO = Architecture(
    name="GPTNeoForCausalLM",
    model_type="gpt_neo",
    traits=GPT | {"attention_bias": "output", "attention_scaled": False},
    allows=SHARED | {"activation_function": GELU},
    read=_read_neo,
    write=_write_neo,
    fits=_whole,
)
ARCHITECTURES = {row.name: row for row in (LLAMA, MISTRAL, QWEN3, PHI, GPT2, GPT1, GPT_NEO)}
