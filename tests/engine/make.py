"""Toy models, prompts and the oracle: a full forward over the whole text for every single token."""

import torch

from pronk.engine.sampler import Rules, Use, distribution
from pronk.models.build import build
from pronk.models.config import ModelConfig
from pronk.models.logps import logits

V = 53
FAMILIES = {
    "mha": {},
    "gqa": {"kv_heads": 2},
    "mqa": {"kv_heads": 1},
    "untied": {"tied": False},
    "neo": {"norm": "layer", "positions": "learned", "feedforward": "gelu", "attention_bias": "output"}
    | {"attention_scaled": False, "window": 6, "window_every": 2},
    "mistral": {"kv_heads": 2, "window": 5},
    "lstm": {"family": "lstm"},
    "gru": {"family": "gru", "recurrent_attention": True},
    "lstm-untied": {"family": "lstm", "tied": False},
}


@torch.no_grad()
def make(seed=0, **keys):
    """A model with weights large enough that a mistake shows, and small enough that rounding stays below 1e-5."""
    with torch.random.fork_rng():  # what is not drawn below must not depend on the tests before
        config = ModelConfig(**{"vocab": V, "width": 32, "layers": 2, "context": 64, "multiple_of": 8} | keys)
        model = build(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() == 2:
            scale = 0.2 if name.startswith(("embed", "head")) else 1.5 / parameter.shape[1] ** 0.5
            parameter.copy_(scale * noise)
    return model


def prompts(*lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(V, (n,), generator=generator).tolist() for n in lengths]


def rules(rows, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, penalty=1.0, vocab=V):
    def column(value):
        return torch.as_tensor(value).expand(rows)[:, None].clone()

    return Rules(
        column(temperature),
        column(vocab if isinstance(top_k, int) and not top_k else top_k),
        column(top_p),
        column(min_p),
        column(penalty),
    )


ALL = Use(top_k=True, top_p=True, min_p=True, penalty=True)


def oracle(model, prompt, ids, sampling):
    """Log-probability of each of ids, by one uncached forward of the growing text a token."""
    found = []
    for place, token in enumerate(ids):
        text = [*prompt, *ids[:place]]
        last = logits(model, torch.tensor([text]))[:, -1]
        seen = torch.zeros(1, V, dtype=torch.bool)
        seen[0, text] = True
        s = sampling
        filters = (0, 1.0, 0.0) if s.temperature == 0 else (s.top_k, s.top_p, s.min_p)
        logps = distribution(last, rules(1, s.temperature, *filters, s.repetition_penalty), ALL, seen)
        if s.temperature == 0:
            assert token == logps.argmax()
        found.append(logps[0, token].item())
    return found


def close(a, b, by=1e-5):
    assert len(a) == len(b)
    assert all(abs(x - y) < by for x, y in zip(a, b)), max(abs(x - y) for x, y in zip(a, b))
