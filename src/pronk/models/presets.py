"""Published model sizes, one line each: keys of ModelConfig."""

from typing import Any

_llama2: dict[str, Any] = {"vocab": 32_000, "context": 4096, "multiple_of": 256, "tied": False, "norm_eps": 1e-5}
_gpt: dict[str, Any] = {"norm": "layer", "positions": "learned", "feedforward": "gelu", "attention_bias": "all"}
_gpt2: dict[str, Any] = _gpt | {"vocab": 50_257, "context": 1024}
_neo: dict[str, Any] = _gpt2 | {"attention_bias": "output", "attention_scaled": False, "window": 256, "window_every": 2}
_neo |= {"context": 2048}
_llama3: dict[str, Any] = _llama2 | {"vocab": 128_256, "context": 8192, "rope_theta": 500_000.0, "kv_heads": 8}

_llama1: dict[str, Any] = _llama2 | {"context": 2048, "norm_eps": 1e-6}
_llama31: dict[str, Any] = _llama3 | {"context": 131_072, "rope_factor": 8.0}
_llama32: dict[str, Any] = _llama31 | {"rope_factor": 32.0, "tied": True, "ffn_dim": 8192}
_gpt3: dict[str, Any] = _gpt2 | {"context": 2048}
_phi1: dict[str, Any] = {"norm": "layer", "block": "parallel", "feedforward": "gelu", "attention_bias": "all"}
_phi1 |= {"head_bias": True, "tied": False, "vocab": 51_200, "context": 2048, "heads": 32, "rotary_share": 0.5}
_first: dict[str, Any] = {"norm": "layer", "block": "post", "feedforward": "relu", "positions": "sinusoidal"}
_first |= {"attention_bias": "all", "vocab": 37_000, "layers": 6}
_words: dict[str, Any] = {"vocab": 10_000, "tied": False}  # of the Penn Treebank

PRESETS: dict[str, dict[str, Any]] = {
    "story-1m": {"width": 128, "layers": 4, "heads": 4, "context": 256},
    "story-15m": {"width": 288, "layers": 6, "heads": 6, "vocab": 32_000, "context": 256},
    "rnn-300": _words | {"family": "rnn", "width": 300, "layers": 1},
    "lstm-medium": _words | {"family": "lstm", "width": 650, "layers": 2, "dropout": 0.5},
    "lstm-large": _words | {"family": "lstm", "width": 1500, "layers": 2, "dropout": 0.65},
    "gru-1000": {"family": "gru", "vocab": 15_000, "tied": False, "width": 1000, "layers": 1},
    "transformer-base": _first | {"width": 512, "heads": 8},
    "transformer-big": _first | {"width": 1024, "heads": 16},
    "gpt1": _gpt | {"block": "post", "vocab": 40_478, "context": 512, "width": 768, "layers": 12, "heads": 12},
    "gpt2": _gpt2 | {"width": 768, "layers": 12, "heads": 12},
    "gpt2-medium": _gpt2 | {"width": 1024, "layers": 24, "heads": 16},
    "gpt2-large": _gpt2 | {"width": 1280, "layers": 36, "heads": 20},
    "gpt2-xl": _gpt2 | {"width": 1600, "layers": 48, "heads": 25},
    "gpt3-small": _gpt3 | {"width": 768, "layers": 12, "heads": 12},
    "gpt3-medium": _gpt3 | {"width": 1024, "layers": 24, "heads": 16},
    "gpt3-large": _gpt3 | {"width": 1536, "layers": 24, "heads": 16},
    "gpt3-xl": _gpt3 | {"width": 2048, "layers": 24, "heads": 16},
    "gpt3-2.7b": _gpt3 | {"width": 2560, "layers": 32, "heads": 32},
    "gpt3-6.7b": _gpt3 | {"width": 4096, "layers": 32, "heads": 32},
    "gpt3-13b": _gpt3 | {"width": 5120, "layers": 40, "heads": 40},
    "gpt3-175b": _gpt3 | {"width": 12_288, "layers": 96, "heads": 96},
    "tinystories-1m": _neo | {"width": 64, "layers": 8, "heads": 16},
    "tinystories-33m": _neo | {"width": 768, "layers": 4, "heads": 16},
    "gpt-neo-125m": _neo | {"width": 768, "layers": 12, "heads": 12},
    "gpt-neo-1.3b": _neo | {"width": 2048, "layers": 24, "heads": 16},
    "gpt-neo-2.7b": _neo | {"width": 2560, "layers": 32, "heads": 20},
    "llama-134m": _llama2 | {"width": 768, "layers": 12, "heads": 12, "context": 1024, "tied": False},
    "llama-1.1b": _llama2 | {"width": 2048, "layers": 22, "heads": 32, "kv_heads": 4, "context": 2048, "ffn_dim": 5632},
    "llama1-7b": _llama1 | {"width": 4096, "layers": 32, "heads": 32},
    "llama1-13b": _llama1 | {"width": 5120, "layers": 40, "heads": 40},
    "llama1-33b": _llama1 | {"width": 6656, "layers": 60, "heads": 52},
    "llama1-65b": _llama1 | {"width": 8192, "layers": 80, "heads": 64},
    "llama2-7b": _llama2 | {"width": 4096, "layers": 32, "heads": 32},
    "llama2-13b": _llama2 | {"width": 5120, "layers": 40, "heads": 40},
    "llama2-70b": _llama2
    | {"width": 8192, "layers": 80, "heads": 64, "kv_heads": 8, "ffn_dim_multiplier": 1.3, "multiple_of": 4096},
    "llama3-8b": _llama3 | {"width": 4096, "layers": 32, "heads": 32, "ffn_dim_multiplier": 1.3, "multiple_of": 1024},
    "llama3-70b": _llama3 | {"width": 8192, "layers": 80, "heads": 64, "ffn_dim_multiplier": 1.3, "multiple_of": 4096},
    "llama3.1-8b": _llama31 | {"width": 4096, "layers": 32, "heads": 32, "ffn_dim": 14_336},
    "llama3.1-70b": _llama31 | {"width": 8192, "layers": 80, "heads": 64, "ffn_dim": 28_672},
    "llama3.1-405b": _llama31 | {"width": 16_384, "layers": 126, "heads": 128, "ffn_dim": 53_248},
    "llama3.2-1b": _llama32 | {"width": 2048, "layers": 16, "heads": 32},
    "llama3.2-3b": _llama32 | {"width": 3072, "layers": 28, "heads": 24},
    "mistral-7b": _llama2
    | {"width": 4096, "layers": 32, "heads": 32, "kv_heads": 8, "ffn_dim": 14_336, "window": 4096, "context": 32_768},
    "phi-1": _phi1 | {"width": 2048, "layers": 24},
    "phi-1.5": _phi1 | {"width": 2048, "layers": 24},
    "phi-2": _phi1 | {"width": 2560, "layers": 32, "rotary_share": 0.4},
    "qwen3-0.6b": {"qk_norm": True, "vocab": 151_936, "width": 1024, "layers": 28, "heads": 16, "kv_heads": 8}
    | {"head_dim": 128, "ffn_dim": 3072, "rope_theta": 1e6, "norm_eps": 1e-6, "context": 40_960},
}
