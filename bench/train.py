"""Training steps on one GPU: pronk's Learner beside transformers compiled, as a share of what the GPU could do.

usage: python bench/train.py [rows] [--steps 10] [--plain] [--alone], rows such as llama-134m story-15m; none = all.
Both train on the same shape of random tokens, fp32 parameters and optimizer state, bf16 compute, AdamW. MFU counts
6 N + 6 L T D operations a token over 989 TFLOP/s, N = parameters multiplied per token. The limit is made from the
bottom up: products at the measured matmul roof, attention at half of it, and bytes of the optimizer and of the residual
stream at the measured copy rate. --plain leaves compiling out, --alone the peer.
"""

import gc
import json
import sys
from contextlib import suppress
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from pronk.data.batch import Batch
from pronk.learn.build import TrainConfig, make_learner
from pronk.learn.losses import cross_entropy
from pronk.learn.optim import OptimConfig
from pronk.models.build import build, count, multiplied
from pronk.models.config import ModelConfig
from pronk.models.presets import PRESETS

PEAK = 989e12


@dataclass
class Row:
    model: ModelConfig
    batch: int
    length: int
    micro_batch: int = 0


def llama(width, layers, heads, kv_heads, ffn_dim, vocab=32000, context=2048, **more):
    return ModelConfig(
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        ffn_dim=ffn_dim,
        vocab=vocab,
        context=context,
        tied=False,
        **more,
    )


ROWS = {
    "llama-134m": Row(llama(768, 12, 12, 12, 2048), 32, 1024),
    "gpt2": Row(ModelConfig(**PRESETS["gpt2"]), 32, 1024),
    "llama-1.1b": Row(llama(2048, 22, 32, 4, 5632), 8, 2048, 4),
    "story-15m": Row(llama(288, 6, 6, 6, 768), 128, 512),
    "8b-slice": Row(llama(4096, 4, 32, 8, 14336, vocab=128_256, context=8192), 1, 8192),
}


def timed(step, steps, warm):
    """Seconds of one step, by CUDA events."""
    for _ in range(warm):
        step()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    begin.record()
    for _ in range(steps):
        step()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / steps / 1e3


def roofs():
    """(bf16 matmul FLOP/s, copied bytes/s, read and written)."""
    x, y = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    products = 2 * 8192**3 / timed(lambda: x @ y, 20, 3)
    a = torch.empty(2**31, device="cuda", dtype=torch.uint8)
    b = torch.empty_like(a)
    return products, 2 * a.numel() / timed(lambda: b.copy_(a), 10, 3)


def pronk_step(row, plain):
    """One Learner step on tokens that lie on the GPU."""
    torch.manual_seed(0)
    model = build(row.model, "cuda")
    train = TrainConfig(steps=1000, precision="bf16", compile=not plain, micro_batch=row.micro_batch)
    learner = make_learner(model, OptimConfig("adamw", lr=1e-5), train)
    ids = torch.randint(0, row.model.vocab, (row.batch, row.length + 1))
    batch = Batch(ids[:, :-1].pin_memory(), ids[:, 1:].pin_memory())
    return (lambda: learner.step(batch, cross_entropy)), multiplied(model), count(model)


def transformers_step(row):
    """transformers' Llama, compiled, as its users train it: autocast, fused AdamW."""
    from transformers import LlamaConfig, LlamaForCausalLM

    m = row.model
    config = LlamaConfig(
        vocab_size=m.vocab,
        hidden_size=m.width,
        intermediate_size=m.ffn_dim,
        num_hidden_layers=m.layers,
        num_attention_heads=m.heads,
        num_key_value_heads=m.kv_heads,
        max_position_embeddings=m.context,
        use_cache=False,
        attn_implementation="sdpa",
    )
    model = LlamaForCausalLM(config).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    compiled = torch.compile(model)
    ids = torch.randint(0, m.vocab, (row.batch, row.length + 1), device="cuda")

    def step():
        with torch.autocast("cuda", torch.bfloat16):
            logits = compiled(input_ids=ids[:, :-1]).logits
            loss = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def limit(row, parameters, active, products, copied):
    """Seconds that a step must take at the measured roofs."""
    m, tokens = row.model, row.batch * row.length
    matmul = 6 * active * tokens / products
    attention = 6 * m.layers * row.length * m.heads * m.head_size * tokens / (products / 2)
    optimizer = parameters * (7 * 4 + 2) / copied  # weight, gradient and two moments read, three written, cast to bf16
    stream = tokens * m.layers * m.width * 2 * 20 / copied  # about twenty passes over the stream, forward and backward
    return matmul + attention + optimizer + stream


def measure(name, who, make, tokens):
    """(seconds, peak GiB), or None where it fails; prints the failure."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        seconds = timed(make(), STEPS, 6)
        return tokens / seconds, torch.cuda.max_memory_allocated() / 2**30
    except Exception as error:
        print(f"{name} {who}: {type(error).__name__}: {str(error)[:300]}", flush=True)
        return None
    finally:
        torch._dynamo.reset()


def show(name, row, plain, products, copied):
    facts = {}

    def ours():
        step, facts["active"], facts["parameters"] = pronk_step(row, plain)
        return step

    tokens, m = row.batch * row.length, row.model
    found = measure(name, "pronk", ours, tokens)
    peer = None if "--alone" in sys.argv else measure(name, "transformers", lambda: transformers_step(row), tokens)
    if found is None:
        return
    least = limit(row, facts["parameters"], facts["active"], products, copied)
    work = 6 * facts["active"] + 6 * m.layers * row.length * m.heads * m.head_size
    line = {"row": name, "pronk tok/s": round(found[0]), "GiB": round(found[1], 1), "MFU": found[0] * work / PEAK}
    line |= {"of limit": found[0] * least / tokens}
    if peer is not None:
        line |= {"transformers tok/s": round(peer[0]), "its GiB": round(peer[1], 1), "times": found[0] / peer[0]}
    print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in line.items()}), flush=True)


if __name__ == "__main__":
    words = sys.argv[1:]
    STEPS = int(words[words.index("--steps") + 1]) if "--steps" in words else 10
    chosen = [word for word in words if word in ROWS] or list(ROWS)
    roof = roofs()
    print(
        json.dumps(
            {"device": torch.cuda.get_device_name(), "matmul TFLOP/s": roof[0] / 1e12, "copy TB/s": roof[1] / 1e12}
        )
    )
    gc.collect()
    with suppress(KeyboardInterrupt):
        for name in chosen:
            show(name, ROWS[name], "--plain" in words, *roof)
