"""Published model sizes, one line each: keys of ModelConfig."""

from typing import Any

_llama2: dict[str, Any] = {"vocab": 32_000, "context": 4096, "multiple_of": 256, "tied": False, "norm_eps": 1e-5}
_llama3: dict[str, Any] = _llama2 | {"vocab": 128_256, "context": 8192, "rope_theta": 500_000.0, "kv_heads": 8}

PRESETS: dict[str, dict[str, Any]] = {
    "story-1m": {"width": 128, "layers": 4, "heads": 4, "context": 256},
    "story-15m": {"width": 288, "layers": 6, "heads": 6, "vocab": 32_000, "context": 256},
    "llama-134m": _llama2 | {"width": 768, "layers": 12, "heads": 12, "context": 1024, "tied": False},
    "llama-1.1b": _llama2 | {"width": 2048, "layers": 22, "heads": 32, "kv_heads": 4, "context": 2048, "ffn_dim": 5632},
    "llama2-7b": _llama2 | {"width": 4096, "layers": 32, "heads": 32},
    "llama2-13b": _llama2 | {"width": 5120, "layers": 40, "heads": 40},
    "llama2-70b": _llama2
    | {"width": 8192, "layers": 80, "heads": 64, "kv_heads": 8, "ffn_dim_multiplier": 1.3, "multiple_of": 4096},
    "llama3-8b": _llama3 | {"width": 4096, "layers": 32, "heads": 32, "ffn_dim_multiplier": 1.3, "multiple_of": 1024},
    "llama3-70b": _llama3 | {"width": 8192, "layers": 80, "heads": 64, "ffn_dim_multiplier": 1.3, "multiple_of": 4096},
}
