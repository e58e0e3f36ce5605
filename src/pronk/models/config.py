"""What a model is made of: one flat dataclass for all families; presets.py names published sizes."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a language model. Zero means: derived from the other fields."""

    preset: str = ""
    """a published size from models/presets.py; other keys change it"""
    family: Literal["decoder", "rnn", "gru", "lstm"] = "decoder"
    """decoder (a transformer: Llama's, unless the keys below say otherwise), or recurrent layers"""
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
    block: Literal["pre", "post", "parallel"] = "pre"
    """where a block normalizes: before each part, after each sum, or once for both parts side by side (Phi)"""
    norm: Literal["rms", "layer"] = "rms"
    feedforward: Literal["swiglu", "swiglu-single", "gelu", "relu"] = "swiglu"
    """swiglu: three matrices without biases; -single: one biased double matrix in and one out; others: in and out"""
    ffn_dim: int = 0
    """inner width of the feed-forward; 0 = 4 width for gelu and relu, 8/3 width for the others, times
    ffn_dim_multiplier, rounded up to multiple_of"""
    ffn_dim_multiplier: float = 1.0
    multiple_of: int = 32
    context: int = 512
    """longest sequence, tokens"""
    norm_eps: float = 1e-5
    attention_bias: Literal["none", "output", "all"] = "none"
    """which of attention's four matrices have biases"""
    attention_scaled: bool = True
    """divide scores by the root of head_dim; GPT-Neo does not"""
    qk_norm: bool = False
    """RMS-normalize each head's queries and keys (Qwen 3)"""
    window: int = 0
    """newest tokens that windowed layers see, the token's own among them; 0 = all"""
    window_every: int = 1
    """each n-th layer has the window, the others see all; GPT-Neo: 2"""
    positions: Literal["rotary", "learned", "sinusoidal"] = "rotary"
    rotary_share: float = 1.0
    """part of each head's dimensions that turns with the position"""
    rope_theta: float = 10_000.0
    rope_factor: float = 1.0
    """Llama 3.1 scaling of the rotary frequencies: 8 stretches the context eightfold; 1 = off"""
    rope_low: float = 1.0
    rope_high: float = 4.0
    rope_original: int = 8192
    """context before scaling, tokens"""
    tied: bool = True
    """the head shares the embedding's weights"""
    head_bias: bool = False
    recurrent_attention: bool = False
    """the last recurrent layer attends to its past states (Luong 2015)"""
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.family != "decoder":
            return  # the rest is about attention
        if not self.head_dim and self.width % self.heads:
            raise ValueError(f"model.width {self.width} is not a multiple of model.heads {self.heads}")
        if self.heads % self.key_heads:
            raise ValueError(f"model.heads {self.heads} is not a multiple of model.kv_heads {self.key_heads}")
        if self.positions == "rotary" and self.head_size % 2:
            raise ValueError(f"model.head_dim must be even for rotary positions, not {self.head_size}")
        if self.positions == "rotary" and (self.rotary_size < 2 or self.rotary_size % 2 or self.rotary_share > 1):
            raise ValueError(f"model.rotary_share {self.rotary_share} of {self.head_size} dimensions is no even number")
        if self.positions == "sinusoidal" and self.width % 2:
            raise ValueError(f"model.width must be even for sinusoidal positions, not {self.width}")
        if self.window < 0 or self.window_every < 1:
            raise ValueError("model.window must be 0 or more and model.window_every 1 or more")

    @property
    def key_heads(self) -> int:
        return self.kv_heads or self.heads

    @property
    def head_size(self) -> int:
        return self.head_dim or self.width // self.heads

    @property
    def rotary_size(self) -> int:
        """Dimensions of a head that rotary positions turn."""
        return int(self.head_size * self.rotary_share)

    @property
    def windows(self) -> tuple[int, ...]:
        """Each layer's window; 0 = it sees all."""
        return tuple(0 if (layer + 1) % self.window_every else self.window for layer in range(self.layers))

    @property
    def inner(self) -> int:
        """Inner width of the feed-forward: by Llama's rule where it is gated and ffn_dim is not given."""
        if self.ffn_dim:
            return self.ffn_dim
        if self.feedforward in ("gelu", "relu"):
            return 4 * self.width
        size = int(self.ffn_dim_multiplier * int(8 * self.width / 3))
        return -(-size // self.multiple_of) * self.multiple_of
