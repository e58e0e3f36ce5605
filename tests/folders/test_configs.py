"""config.json is read with suspicion: each key that is wrong or beyond us is named."""

import json
import re

import pytest

from pronk.errors import UserError
from pronk.folders.configs import from_json, to_json
from pronk.folders.huggingface import load_model, read_config
from pronk.models.config import ModelConfig

from .make import edit_config, saved

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def refuses(tmp_path, values, says):
    with pytest.raises(UserError, match=re.escape(says)):
        from_json(values, tmp_path / "config.json")


def test_missing_keys_take_transformers_defaults(tmp_path):
    config = from_json(LLAMA, tmp_path)
    assert (config.norm_eps, config.context, config.rope_theta, config.tied) == (1e-6, 2048, 10_000.0, False)
    assert (config.key_heads, config.head_size) == (4, 8)
    assert (
        from_json({k: v for k, v in LLAMA.items() if k != "architectures"} | {"model_type": "llama"}, tmp_path)
        == config
    )


def test_rope_of_older_and_newer_files(tmp_path):
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
    old = LLAMA | {"rope_theta": 5e5, "rope_scaling": scaling | {"rope_type": "llama3"}}
    new = LLAMA | {"rope_parameters": scaling | {"rope_type": "llama3", "rope_theta": 5e5}}
    assert from_json(old, tmp_path) == from_json(new, tmp_path)
    assert from_json(new, tmp_path).rope_factor == 8.0
    assert from_json(LLAMA | {"rope_theta": 5e5, "rope_scaling": None}, tmp_path).rope_theta == 5e5
    assert from_json(LLAMA | {"rope_parameters": {"type": "default", "rope_theta": 77}}, tmp_path).rope_theta == 77


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"attention_bias": True}, "config.json: attention_bias = true is not supported, only false"),
        ({"mlp_bias": True}, "mlp_bias = true"),
        ({"hidden_act": "gelu"}, 'hidden_act = "gelu" is not supported, only "silu"'),
        ({"attention_dropout": 0.1}, "attention_dropout = 0.1"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, 'rope_scaling.rope_type "linear" is not supported'),
        ({"rope_parameters": {"rope_type": "yarn"}}, 'rope_parameters.rope_type "yarn" is not supported'),
        ({"rope_parameters": {"rope_type": "llama3"}}, "factor is missing; expected a number"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"rope_parameters": [1]}, "rope_parameters is [1], expected an object"),
        (
            {"architectures": ["BloomForCausalLM"]},
            "architecture BloomForCausalLM is not supported (supported: Llama",
        ),
        ({"architectures": None}, "architecture None is not supported"),
        ({"architectures": {"a": 1}}, "is not supported"),
        ({"architectures": [["LlamaForCausalLM"]]}, "is not supported"),
        ({"hidden_size": None}, "hidden_size is missing; expected a whole number"),
        ({"hidden_size": "32"}, 'hidden_size is "32", expected a whole number'),
        ({"hidden_size": 32.0}, "hidden_size is 32.0"),
        ({"hidden_size": True}, "hidden_size is true"),
        ({"hidden_size": 10**15}, "hidden_size is 1000000000000000"),
        ({"hidden_size": -32}, "hidden_size is -32"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0, expected at least 1"),
        ({"num_key_value_heads": 3}, "config.json: model.heads 4 is not a multiple of model.kv_heads 3"),
        ({"num_hidden_layers": 0}, "layers is 0, expected more than 0"),
        ({"num_hidden_layers": 10**6}, "layers is 1000000, expected at most 10000"),
        ({"max_position_embeddings": 10**9}, "context is 1000000000, expected at most"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is NaN, expected a number"),
        ({"rope_theta": float("inf")}, "rope_theta is Infinity"),
        ({"tie_word_embeddings": "yes"}, 'tie_word_embeddings is "yes", expected true or false'),
    ],
)
def test_llama_options_we_lack_are_refused_by_name(tmp_path, keys, says):
    refuses(tmp_path, LLAMA | keys, says)


NEO = {"architectures": ["GPTNeoForCausalLM"], "vocab_size": 100, "hidden_size": 32, "num_layers": 4, "num_heads": 4}


@pytest.mark.parametrize(
    ("types", "window", "every"),
    [
        (None, 256, 2),
        ([[["global", "local"], 2]], 256, 2),
        ([[["local"], 4]], 256, 1),
        ([[["global"], 4]], 0, 1),
        ([[["global"], 2], [["local"], 1], [["global"], 1]], 256, 3),
    ],
)
def test_kinds_of_gpt_neos_layers(tmp_path, types, window, every):
    keys = NEO if types else NEO | {"num_layers": 24}
    config = from_json(keys | ({"attention_types": types} if types else {}), tmp_path)
    assert (config.window, config.window_every) == (window, every)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            NEO | {"attention_types": [[["global", "local"], 3]]},
            'attention_types is [[["global", "local"], 3]], expected 4',
        ),
        (NEO | {"attention_types": [[["local"], 2], [["global"], 2]]}, "expected 4 layers, each n-th of them local"),
        (NEO | {"attention_types": 7}, "attention_types is 7, expected a list like"),
        (NEO | {"num_layers": 10**9}, "num_layers is 1000000000, expected at most 1000"),
        (NEO | {"window_size": 0}, "window_size is 0, expected at least 1"),
        (NEO | {"activation_function": "relu"}, 'activation_function = "relu" is not supported, only "gelu_new"'),
        (LLAMA | {"sliding_window": 5}, "sliding_window = 5 is not supported, only null"),
        (LLAMA | {"architectures": ["Qwen3ForCausalLM"], "use_sliding_window": True}, "use_sliding_window = true"),
        (LLAMA | {"architectures": ["Qwen3ForCausalLM"], "layer_types": ["sliding_attention"]}, "layer_types is not"),
        (LLAMA | {"architectures": ["PhiForCausalLM"], "qk_layernorm": True}, "qk_layernorm = true is not supported"),
        (LLAMA | {"architectures": ["MistralForCausalLM"], "sliding_window": -1}, "sliding_window is -1"),
        ({"architectures": ["GPT2LMHeadModel"], "vocab_size": 9, "scale_attn_weights": False}, "scale_attn_weights"),
        ({"architectures": ["OpenAIGPTLMHeadModel"], "vocab_size": 9, "afn": "silu"}, 'afn = "silu" is not supported'),
    ],
)
def test_options_of_other_families_that_we_lack(tmp_path, values, says):
    refuses(tmp_path, values | ({"hidden_act": "gelu_new"} if "Phi" in values["architectures"][0] else {}), says)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"colour": 1}, "pronk.colour is unknown; was it saved by a newer pronk?"),
        ({"family": "mamba"}, 'family is "mamba", expected one of decoder, rnn, gru, lstm'),
        ({"heads": 0}, "config.json: "),
        ({"ffn_dim_multiplier": 1e300}, "ffn_dim_multiplier"),
        ({"dropout": 2.0}, "dropout is 2.0, expected at most 1.0"),
        ({"width": "big"}, 'width is "big"'),
    ],
)
def test_our_own_keys_are_checked(tmp_path, keys, says):
    own = {"family": "decoder", "feedforward": "swiglu-single", "vocab": 10, "width": 32, "heads": 4}
    assert from_json({"architectures": ["PronkDecoder"], "pronk": own}, tmp_path).width == 32
    refuses(tmp_path, {"architectures": ["PronkDecoder"], "pronk": own | keys}, says)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"family": "lstm"},
        {"family": "gru", "recurrent_attention": True},
        {"feedforward": "swiglu-single"},
        {"head_dim": 10, "width": 30},
    ],
)
def test_config_survives_the_way_through_json(tmp_path, keys):
    config = ModelConfig(vocab=100, preset="story-1m", dropout=0.2, **keys)
    values = json.loads(json.dumps(to_json(config, {"eos_token_id": 1}, "float32")))
    again = from_json(values, tmp_path)
    for name in (
        "family",
        "vocab",
        "width",
        "layers",
        "heads",
        "key_heads",
        "head_size",
        "feedforward",
        "inner",
        "tied",
    ):
        assert getattr(again, name) == getattr(config, name), name
    assert again.dropout == 0  # belongs to training
    assert values["eos_token_id"] == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "config.json: not valid JSON"),
        (b"\xff\xfe", "config.json: not valid JSON"),
        (b"[1]", "config.json: expected a JSON object"),
        (b"[" * 100_000, "config.json: not valid JSON"),
    ],
)
def test_broken_config_file(tmp_path, content, says):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=says):
        read_config(tmp_path)


def test_folder_without_config(tmp_path):
    with pytest.raises(UserError, match=r"config\.json: no such file; is .* a model folder\?"):
        read_config(tmp_path)


def test_config_that_does_not_match_the_weights(tmp_path):
    saved(tmp_path / "m")
    edit_config(tmp_path / "m", num_hidden_layers=1)
    with pytest.raises(UserError, match=r"tensor model\.layers\.1\.\S+ and 8 more are unexpected"):
        load_model(tmp_path / "m")
    edit_config(tmp_path / "m", num_hidden_layers=3)
    with pytest.raises(UserError, match=r"tensor model\.layers\.2\.\S+ and 8 more are missing"):
        load_model(tmp_path / "m")
