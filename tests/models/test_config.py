"""A shape that cannot be is refused, naming the key."""

import pytest
import torch

from pronk.models.build import build
from pronk.models.config import ModelConfig

from .make import make, tokens


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"width": 30}, "model.width 30 is not a multiple of model.heads 4"),
        ({"kv_heads": 3}, "model.heads 4 is not a multiple of model.kv_heads 3"),
        ({"head_dim": 7}, "model.head_dim must be even for rotary positions, not 7"),
        ({"width": 12}, "must be even"),
        ({"rotary_share": 0.35}, "model.rotary_share 0.35 of 32 dimensions is no even number"),
        ({"rotary_share": 0.0}, "model.rotary_share 0.0 of 32"),
        ({"rotary_share": 1.5}, "model.rotary_share 1.5 of 32"),
        ({"window_every": 0}, "model.window must be 0 or more and model.window_every 1 or more"),
        ({"positions": "sinusoidal", "width": 33, "heads": 3}, "model.width must be even for sinusoidal positions"),
    ],
)
def test_impossible_shape_is_refused(keys, says):
    with pytest.raises(ValueError, match=says):
        ModelConfig(vocab=10, **keys)


def test_vocabulary_must_be_set():
    with pytest.raises(ValueError, match=r"model\.vocab must be set"):
        build(ModelConfig())


def test_heads_may_be_odd_where_nothing_turns():
    assert ModelConfig(vocab=10, width=12, heads=4, positions="learned").head_size == 3


def test_windows_of_the_layers():
    assert ModelConfig(layers=5, window=8).windows == (8, 8, 8, 8, 8)
    assert ModelConfig(layers=5, window=8, window_every=2).windows == (0, 8, 0, 8, 0)
    assert ModelConfig(layers=2).windows == (0, 0)


def test_heads_do_not_bind_an_lstm():
    assert build(ModelConfig(family="lstm", vocab=10, width=30, layers=1)).embed.weight.shape == (10, 30)


def test_inner_width_follows_llama():
    assert ModelConfig(width=4096, multiple_of=256).inner == 11008
    assert ModelConfig(width=8192, heads=64, ffn_dim_multiplier=1.3, multiple_of=4096).inner == 28672
    assert ModelConfig(ffn_dim=100).inner == 100


def test_longer_than_context_is_refused():
    with pytest.raises(ValueError, match="129 tokens are more than the model's context of 128"):
        make()(tokens(1, 129))


def test_recurrent_model_refuses_packed_rows():
    x = tokens(1, 4)
    with pytest.raises(ValueError, match="one document a row"):
        make(family="lstm")(x, documents=torch.zeros_like(x))
