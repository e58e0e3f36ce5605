"""Rotary positions are relative, exact, and made without float64 or complex numbers."""

import math
import re
from pathlib import Path

import torch

import pronk.models
from pronk.models.logps import cross_entropy
from pronk.models.positions import Rotary, frequencies, rotate

from .make import config, gap, make, tokens


def test_scores_depend_on_distance_alone():
    table = Rotary(config(context=512, head_dim=16))
    q, k = torch.randn(2, 1, 1, 1, 16, generator=torch.Generator().manual_seed(0))

    def score(i, j):
        turned = [rotate(x, *table(torch.tensor([[p]]), 1)) for x, p in ((q, i), (k, j))]
        return (turned[0] * turned[1]).sum().item()

    for distance in (0, 3, 100):
        scores = [score(start + distance, start) for start in (0, 5, 77, 400)]
        assert max(scores) - min(scores) < 1e-4
    assert abs(score(0, 0) - score(40, 0)) > 1e-2


def test_rotation_keeps_lengths():
    x = torch.randn(1, 128, 2, 8)
    assert gap(rotate(x, *Rotary(config())(None, 128)).norm(dim=-1), x.norm(dim=-1)) < 1e-5


def test_frequencies_follow_the_formula():
    expected = torch.tensor([10_000.0 ** (-2 * i / 8) for i in range(4)])
    assert gap(frequencies(config()), expected) < 1e-7


def test_llama31_keeps_short_waves_and_stretches_long_ones():
    keys = {"head_dim": 64, "rope_theta": 5e5, "rope_original": 8192}
    plain, scaled = frequencies(config(**keys)), frequencies(config(rope_factor=8.0, **keys))
    waves = 2 * math.pi / plain
    assert torch.equal(scaled[waves < 8192 / 4], plain[waves < 8192 / 4])
    assert gap(scaled[waves > 8192] * 8, plain[waves > 8192]) < 1e-9
    between = (waves > 8192 / 4) & (waves < 8192)
    assert between.any()
    assert ((scaled < plain) & (scaled > plain / 8))[between].all()


def test_frequencies_are_rounded_as_transformers_does():
    """An ulp in a frequency is 1e-3 in a cosine at position 16,384."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    rope = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope |= {"original_max_position_embeddings": 8192}
    c = LlamaConfig(hidden_size=256, num_attention_heads=2, max_position_embeddings=16384, rope_parameters=rope)
    cosine, sine = LlamaRotaryEmbedding(c)(torch.zeros(1), torch.arange(16384)[None])
    keys = {"head_dim": 128, "rope_theta": 5e5, "rope_factor": 8.0, "rope_original": 8192}
    table = Rotary(config(context=16384, **keys))
    assert gap(table.cosine, cosine[0, :, :64]) < 1e-6
    assert gap(table.sine, sine[0, :, :64]) < 1e-6


def test_no_float64_or_complex_in_models():
    """Metal has neither."""
    for file in Path(pronk.models.__file__).parent.glob("*.py"):
        found = re.search(r"float64|\.double\(|complex|view_as_|torch\.polar", file.read_text())
        assert not found, f"{file}: {found.group()}"


def test_no_float64_or_complex_at_work():
    seen = set()

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            seen.update(t.dtype for t in torch.utils._pytree.tree_leaves(result) if isinstance(t, torch.Tensor))
            return result

    for keys in ({"rope_factor": 8.0}, {"family": "lstm"}):
        with Watch():
            model, x = make(**keys), tokens(2, 9)
            cross_entropy(model(x), x)[0].backward()
    assert not {dtype for dtype in seen if dtype.is_complex or dtype == torch.float64}
    assert torch.float32 in seen
