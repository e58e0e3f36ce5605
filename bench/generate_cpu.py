"""Tokens a second of Engine.generate on the CPU beside transformers' generate: a 0.94M Llama, same weights, one call.

Usage: python bench/generate_cpu.py [threads, default 2] [repeats, default 5]
Prompts of 16 random ids, 64 new tokens, temperature 1, no filters; ids in, ids out, warm; the fastest of the repeats,
taken in turns so that a busy neighbour slows both.
"""

import sys
import time

import torch
from train_peers import llama
from transformers import GenerationConfig

from pronk.engine.engine import Engine
from pronk.engine.sequence import Sampling
from pronk.models.build import build, count
from pronk.models.config import ModelConfig

PROMPT, NEW = 16, 64


def twin(model):
    """transformers' Llama of the same shape and weights."""
    theirs = llama(model.config).eval()
    with torch.no_grad():
        theirs.model.embed_tokens.weight.copy_(model.embed.weight)
        theirs.model.norm.weight.copy_(model.norm.weight)
        for ours, layer in zip(model.blocks, theirs.model.layers):
            layer.input_layernorm.weight.copy_(ours.attention_norm.weight)
            layer.post_attention_layernorm.weight.copy_(ours.feedforward_norm.weight)
            for name in "qkvo":
                getattr(layer.self_attn, f"{name}_proj").weight.copy_(getattr(ours.attention, name).weight)
            for name in ("gate", "up", "down"):
                getattr(layer.mlp, f"{name}_proj").weight.copy_(getattr(ours.feedforward, name).weight)
    return theirs


def check(model, theirs):
    """Greedy answers agree: the two run the same model."""
    ids = torch.randint(model.config.vocab, (2, PROMPT))
    plain = GenerationConfig(max_new_tokens=8, do_sample=False, pad_token_id=0, eos_token_id=None)
    wanted = theirs.generate(ids, attention_mask=torch.ones_like(ids), generation_config=plain)[:, PROMPT:].tolist()
    found = [done.ids for done in Engine(model).generate(ids.tolist(), Sampling(8, temperature=0.0))]
    assert found == wanted, (found, wanted)


def theirs_alone(theirs, ids, ends, slots):
    """transformers, `slots` prompts at a time; returns the tokens up to each text's end."""
    how = GenerationConfig(
        max_new_tokens=NEW, do_sample=True, temperature=1.0, top_k=0, pad_token_id=0, eos_token_id=list(ends) or None
    )
    total = 0
    for part in ids.split(slots):
        new = theirs.generate(part, attention_mask=torch.ones_like(part), generation_config=how)[:, PROMPT:]
        ended = torch.isin(new, torch.tensor(ends)).int().cumsum(1)
        total += int(((ended == 0).sum(1) + (ended > 0).any(1)).sum())
    return total


def ours_alone(engine, ids, ends):
    return sum(len(done.ids) for done in engine.generate(ids.tolist(), Sampling(NEW, stop=ends)))


def main(threads=2, repeats=5):
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = build(ModelConfig(vocab=1024, width=128, layers=4, heads=4, context=256)).eval()
    theirs, engine = twin(model), Engine(model, slots=64)
    check(model, theirs)
    print(f"{count(model):,} parameters, prompt {PROMPT} + {NEW} new, {threads} threads, torch {torch.__version__}")
    cases = {
        "batch 64": (64, ()),
        "batch 1": (1, ()),
        "256 texts, 64 at once, one token in 32 ends": (256, range(1, 33)),
    }
    for name, (rows, ends) in cases.items():
        ids, ends = torch.randint(model.config.vocab, (rows, PROMPT)), tuple(ends)
        speeds = {"pronk": [], "transformers": []}
        for _ in range(repeats + 1):
            for peer, found in speeds.items():
                start = time.perf_counter()
                made = ours_alone(engine, ids, ends) if peer == "pronk" else theirs_alone(theirs, ids, ends, 64)
                found.append(made / (time.perf_counter() - start))
        best = {peer: max(found[1:]) for peer, found in speeds.items()}
        each = ", ".join(f"{peer} {speed:,.0f} tokens/s" for peer, speed in best.items())
        print(f"{name}: {each}, ratio {best['pronk'] / best['transformers']:.2f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
