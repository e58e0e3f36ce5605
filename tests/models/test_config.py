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
    ],
)
def test_impossible_shape_is_refused(keys, says):
    with pytest.raises(ValueError, match=says):
        ModelConfig(vocab=10, **keys)


def test_vocabulary_must_be_set():
    with pytest.raises(ValueError, match=r"model\.vocab must be set"):
        build(ModelConfig())


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
