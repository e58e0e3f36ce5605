"""Published model sizes, one line each: keys of ModelConfig."""

from typing import Any

_llama2: dict[str, Any] = {"vocab": 32_000, "context": 4096, "multiple_of": 256, "tied": False, "norm_eps": 1e-5}
_gpt: dict[str, Any] = {"norm": "layer", "positions": "learned", "feedforward": "gelu", "attention_bias": "all"}
_gpt2: dict[str, Any] = _gpt | {"vocab": 50_257, "context": 1024}
_neo: dict[str, Any] = _gpt2 | {"attention_bias": "output", "attention_scaled": False, "window": 256, "window_every": 2}
_neo |= {"context": 2048}
_llama3: dict[str, Any] = _llama2 | {"vocab": 128_256, "context": 8192, "rope_theta": 500_000.0, "kv_heads": 8}

PRESETS: dict[str, dict[str, Any]] = {
    "story-1m": {"width": 128, "layers": 4, "heads": 4, "context": 256},
    "story-15m": {"width": 288, "layers": 6, "heads": 6, "vocab": 32_000, "context": 256},
    "gpt2": _gpt2 | {"width": 768, "layers": 12, "heads": 12},
    "gpt2-medium": _gpt2 | {"width": 1024, "layers": 24, "heads": 16},
    "gpt2-large": _gpt2 | {"width": 1280, "layers": 36, "heads": 20},
    "gpt2-xl": _gpt2 | {"width": 1600, "layers": 48, "heads": 25},
    "tinystories-1m": _neo | {"width": 64, "layers": 8, "heads": 16},
    "tinystories-33m": _neo | {"width": 768, "layers": 4, "heads": 16},
    "gpt-neo-125m": _neo | {"width": 768, "layers": 12, "heads": 12},
    "gpt-neo-1.3b": _neo | {"width": 2048, "layers": 24, "heads": 16},
    "gpt-neo-2.7b": _neo | {"width": 2560, "layers": 32, "heads": 20},
    "llama-134m": _llama2 | {"width": 768, "layers": 12, "heads": 12, "context": 1024, "tied": False},
    "llama-1.1b": _llama2 | {"width": 2048, "layers": 22, "heads": 32, "kv_heads": 4, "context": 2048, "ffn_dim": 5632},
    "llama2-7b": _llama2 | {"width": 4096, "layers": 32, "heads": 32},
    "llama2-13b": _llama2 | {"width": 5120, "layers": 40, "heads": 40},
    "llama2-70b": _llama2
    | {"width": 8192, "layers": 80, "heads": 64, "kv_heads": 8, "ffn_dim_multiplier": 1.3, "multiple_of": 4096},
    "llama3-8b": _llama3 | {"width": 4096, "layers": 32, "heads": 32, "ffn_dim_multiplier": 1.3, "multiple_of": 1024},
    "llama3-70b": _llama3 | {"width": 8192, "layers": 80, "heads": 64, "ffn_dim_multiplier": 1.3, "multiple_of": 4096},
}
