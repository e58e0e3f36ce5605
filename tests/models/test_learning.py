"""Every family learns: fifty steps on stories of the world bring the loss below two thirds of a uniform guess."""

import math
import re
from functools import cache

import pytest
import torch

from pronk.models.build import build
from pronk.models.config import ModelConfig
from pronk.models.logps import cross_entropy
from pronk.world.tell import stories

from .oracles import MISTRAL, NEO, VARIANTS
from .test_families import FIRST

FAMILIES = {
    "llama": {"kv_heads": 2},
    "transformer 2017": FIRST,
    **{name: VARIANTS[name] for name in ("gpt", "gpt2", "phi", "qwen3")},
    "neo": NEO | {"window": 16},
    "mistral": MISTRAL | {"window": 16},
    "rnn": {"family": "rnn"},
    "gru": {"family": "gru"},
    "lstm": {"family": "lstm"},
    "gru with attention": {"family": "gru", "recurrent_attention": True},
}
STEPS, FACTOR = 50, 2 / 3


@cache
def words():
    """Stories as rows of word ids [N, 65], and the size of the vocabulary."""
    texts = [re.findall(r"\w+|[^\w\s]", story.text) for story in stories(200, seed=1)]
    ids = {word: place for place, word in enumerate(dict.fromkeys(word for text in texts for word in text))}
    return torch.tensor([[ids[word] for word in text[:65]] for text in texts if len(text) >= 65]), len(ids)


@pytest.mark.parametrize("name", FAMILIES)
def test_fifty_steps_on_stories(name):
    rows, vocab = words()
    shape = {"vocab": vocab, "width": 48, "layers": 2, "heads": 4, "context": 64, "multiple_of": 8}
    model = build(ModelConfig(**shape | FAMILIES[name]), seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, fused=True)
    losses = []
    for step in range(STEPS):
        batch = rows[torch.arange(8 * step, 8 * step + 8) % len(rows)]
        loss = cross_entropy(model(batch[:, :-1]), batch[:, 1:])[0] / batch[:, 1:].numel()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    last = sum(losses[-5:]) / 5
    assert last < FACTOR * math.log(vocab)
