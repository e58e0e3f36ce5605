"""What a model is made of: one flat dataclass for all families; presets.py names published sizes."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a language model. Zero means: derived from the other fields."""

    preset: str = ""
    """a published size from models/presets.py; other keys change it"""
    family: Literal["decoder", "lstm"] = "decoder"
    """decoder (Llama) or lstm"""
    vocab: int = 0
    """entries of the vocabulary; 0 = the tokenizer's size"""
    width: int = 128
    """size of a token's vector (hidden_size)"""
    layers: int = 4
    heads: int = 4
    kv_heads: int = 0
    """heads of keys and values: heads = MHA, 1 = MQA, between = GQA; 0 = heads"""
    head_dim: int = 0
    """0 = width / heads"""
    feedforward: Literal["swiglu", "swiglu-single"] = "swiglu"
    """three matrices without biases, or one biased double matrix in and one out"""
    ffn_dim: int = 0
    """inner width of the feed-forward; 0 = 8/3 width, times ffn_dim_multiplier, rounded up to multiple_of"""
    ffn_dim_multiplier: float = 1.0
    multiple_of: int = 32
    context: int = 512
    """longest sequence, tokens"""
    norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    rope_factor: float = 1.0
    """Llama 3.1 scaling of the rotary frequencies: 8 stretches the context eightfold; 1 = off"""
    rope_low: float = 1.0
    rope_high: float = 4.0
    rope_original: int = 8192
    """context before scaling, tokens"""
    tied: bool = True
    """the head shares the embedding's weights"""
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.family != "decoder":
            return  # the rest is about attention
        if not self.head_dim and self.width % self.heads:
            raise ValueError(f"model.width {self.width} is not a multiple of model.heads {self.heads}")
        if self.heads % self.key_heads:
            raise ValueError(f"model.heads {self.heads} is not a multiple of model.kv_heads {self.key_heads}")
        if self.head_size % 2:
            raise ValueError(f"model.head_dim must be even for rotary positions, not {self.head_size}")

    @property
    def key_heads(self) -> int:
        return self.kv_heads or self.heads

    @property
    def head_size(self) -> int:
        return self.head_dim or self.width // self.heads

    @property
    def inner(self) -> int:
        """Inner width of the feed-forward, by Llama's rule where ffn_dim is not given."""
        if self.ffn_dim:
            return self.ffn_dim
        size = int(self.ffn_dim_multiplier * int(8 * self.width / 3))
        return -(-size // self.multiple_of) * self.multiple_of
