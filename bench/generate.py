"""Tokens a second of Engine.generate on one GPU beside transformers and a plain prototype, in one call, with the limit.

Usage: python bench/generate.py [rows, default all: 134m:1 134m:64 134m:512 neo:512 1.1b:1 1.1b:64 ragged context]
       [--peers prototype,transformers,compiled, default the first two; none] [--top-p] [--repeats 5] [--seconds 500]
bfloat16, random weights, prompts of 32 random ids and 128 new tokens, temperature 1, no filters; ids in, ids out, warm.
`ragged`: 256 requests of 100 to 1,024 tokens in and out, all at once. `context`: milliseconds of a step against the
tokens in the cache. The limit is what the steps must read (weights once, each row's keys and values) over the bandwidth
measured here, or their products over the rate measured here, whichever is more; beside each figure its share of that.
The prototype only decodes: it takes in no prompt and hands out no ids. compiled: transformers with its static cache,
which compiles, for Llamas, after all else. Medians of the repeats, of two for transformers. After --seconds no peer
begins.
"""

import argparse
import gc
import random
import statistics
import sys
import time
import traceback
from functools import partial

import torch

from pronk.engine.engine import Engine
from pronk.engine.sampler import Use
from pronk.engine.sequence import Sampling
from pronk.models.build import build, multiplied
from pronk.models.config import ModelConfig

LLAMA = {"vocab": 32_000, "tied": False}
SHAPES = {
    "134m": LLAMA | {"width": 768, "layers": 12, "heads": 12, "ffn_dim": 2048},
    "1.1b": LLAMA | {"width": 2048, "layers": 22, "heads": 32, "kv_heads": 4, "ffn_dim": 5632},
    "neo": {
        **{"vocab": 50_257, "width": 768, "layers": 4, "heads": 16, "norm": "layer", "feedforward": "gelu"},
        **{"attention_bias": "output", "attention_scaled": False, "window": 256, "window_every": 2},
        **{"positions": "learned"},
    },
    "qwen": {
        **{"vocab": 151_936, "width": 1024, "layers": 28, "heads": 16, "kv_heads": 8, "head_dim": 128},
        **{"ffn_dim": 3072, "tied": True, "qk_norm": True},
    },
}
ROWS = ["134m:1", "134m:64", "134m:512", "neo:512", "1.1b:1", "1.1b:64", "ragged", "context"]
AT_LEAST = {
    **{"134m:1": 3_000, "134m:64": 150_000, "134m:512": 330_000, "neo:512": 550_000, "1.1b:1": 900},
    **{"1.1b:64": 45_000, "ragged": 15_000},
}
PROMPT, NEW = 32, 128


def roofs():
    """Bytes a second read and written by a large copy, and FLOP a second of a large product in bfloat16."""
    a, b = (torch.empty(1 << 30, dtype=torch.int32, device="cuda").random_() for _ in range(2))
    moved = 2 * a.nbytes / timed(partial(b.copy_, a))
    x, y = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return moved, 2 * 8192**3 / timed(partial(torch.matmul, x, y))


def timed(call, times=10):
    """Seconds of one call, by events, warm."""
    call(), call()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(times):
        call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / times / 1e3


def wall(call, repeats, warm=2):
    """Median seconds of a call, after some that are not counted."""
    found = []
    for _ in range(repeats + warm):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return statistics.median(found[warm:])


def kept(config):
    """Bytes of keys and values a token."""
    return 2 * config.layers * config.key_heads * config.head_size * 2


def limit(model, lengths, roof):
    """Least seconds for answers of (prompt, new) lengths that all begin together: decoding and taking in."""
    bandwidth, rate = roof
    read = sum(kept(model.config) * (new * prompt + new * (new + 1) / 2) for prompt, new in lengths)
    tokens = sum(new for _, new in lengths)
    steps = max(new for _, new in lengths)
    decode = max((steps * 2 * multiplied(model) + read) / bandwidth, tokens * 2 * multiplied(model) / rate)
    return decode + sum(prompt for prompt, _ in lengths) * 2 * multiplied(model) / rate


def prompts(lengths, vocab=1000):
    dice = random.Random(0)
    return [[dice.randrange(5, vocab) for _ in range(length)] for length in lengths]


def ours(model, lengths, repeats, top_p=1.0, warm=2):
    """Seconds of Engine.generate."""
    context = max(prompt + new for prompt, new in lengths)
    engine = Engine(model, slots=len(lengths), context=context)
    asked = prompts([prompt for prompt, _ in lengths])
    how = [Sampling(new, top_p=top_p, seed=place) for place, (_, new) in enumerate(lengths)]

    def call():
        done = engine.generate(asked, how)
        assert [len(one.ids) for one in done] == [new for _, new in lengths]

    return wall(call, repeats, warm)


def transformers_model(name, config):
    """transformers' model of the same shape, random weights."""
    import transformers as hf

    c = config
    if name == "neo":
        theirs = hf.GPTNeoConfig(
            **{"vocab_size": c.vocab, "hidden_size": c.width, "num_layers": c.layers, "num_heads": c.heads},
            **{"attention_types": [[["global", "local"], c.layers // 2]], "window_size": 256},
        )
        return hf.GPTNeoForCausalLM(theirs).to("cuda", torch.bfloat16).eval()
    kinds = (hf.Qwen3Config, hf.Qwen3ForCausalLM) if name == "qwen" else (hf.LlamaConfig, hf.LlamaForCausalLM)
    theirs = kinds[0](
        **{"vocab_size": c.vocab, "hidden_size": c.width, "intermediate_size": c.inner, "head_dim": c.head_size},
        **{"num_hidden_layers": c.layers, "num_attention_heads": c.heads, "num_key_value_heads": c.key_heads},
        **{"max_position_embeddings": 2048, "tie_word_embeddings": c.tied},
    )
    return kinds[1](theirs).to("cuda", torch.bfloat16).eval()


def theirs(name, config, rows, repeats, cache=None):
    """Seconds of transformers' generate with its default cache, or another."""
    from transformers import GenerationConfig

    model = transformers_model(name, config)
    ids = torch.tensor(prompts([PROMPT] * rows), device="cuda")
    how = {"do_sample": True, "temperature": 1.0, "top_k": 0, "pad_token_id": 0, "eos_token_id": None}
    how |= {"cache_implementation": cache} if cache else {}
    plan = GenerationConfig(max_new_tokens=NEW, min_new_tokens=NEW, **how)
    mask = torch.ones_like(ids)
    return wall(lambda: model.generate(ids, attention_mask=mask, generation_config=plan), min(2, repeats), 1)


def compiled(name, config, rows, repeats):
    torch._dynamo.reset()
    return theirs(name, config, rows, repeats, "static")


def prototype(name, config, rows, repeats):
    from prototype import decode

    return wall(decode(config, rows, PROMPT, NEW), repeats)


def show(row, who, tokens, seconds, least, at_least=None):
    """One figure as soon as it is known, with its share of the limit and what was asked of it."""
    goal = f"; at least {at_least:,}" if at_least else ""
    print(
        f"{row:9} {who:24} {tokens / seconds:9,.0f} tokens/s, {least / seconds:.0%} of {tokens / least:,.0f}{goal}",
        flush=True,
    )


def fixed(row, args, roof):
    name, rows = row.split(":")[0], int(row.split(":")[1])
    config = ModelConfig(**SHAPES[name] | {"context": 2048})
    model = build(config, "cuda", seed=0).bfloat16().eval()
    lengths = [(PROMPT, NEW)] * rows
    least, tokens = limit(model, lengths, roof), rows * NEW
    show(row, "pronk", tokens, ours(model, lengths, args.repeats), least, AT_LEAST.get(row))
    if args.top_p:
        show(row, "pronk with top-p 0.95", tokens, ours(model, lengths, args.repeats, 0.95), least)
    del model
    clear()
    for who, run in (("prototype", prototype), ("transformers", theirs)):
        if who in args.peers and not (name == "neo" and run is prototype):
            beside(row, who, run, config, least, args)


def beside(row, who, run, config, least, args):
    """A peer's figure; one that fails or for which there is no time is told of and left out."""
    if time.perf_counter() - args.started > args.seconds:
        print(f"{row:9} {who}: no time", flush=True)
        return
    name, rows = row.split(":")
    try:
        show(row, who, int(rows) * NEW, run(name, config, int(rows), args.repeats), least)
    except Exception as error:  # of a package that is not ours: the table goes on without it
        print(f"{row:9} {who}: {type(error).__name__}: {error}"[:300], flush=True)
    finally:
        clear()


def after(args, roof):
    """transformers compiled: it takes long to compile, so that it comes last."""
    for row in args.rows:
        name, _, rows = row.partition(":")
        if name not in ("134m", "1.1b"):
            continue
        config = ModelConfig(**SHAPES[name] | {"context": 2048})
        least = limit(build(config, "cuda", seed=0).bfloat16(), [(PROMPT, NEW)] * int(rows), roof)
        beside(row, "transformers, compiled", compiled, config, least, args)


def ragged(row, args, roof):
    dice = random.Random(1)
    lengths = [(dice.randint(100, 1024), dice.randint(100, 1024)) for _ in range(256)]
    model = build(ModelConfig(**SHAPES["qwen"] | {"context": 2048}), "cuda", seed=0).bfloat16().eval()
    least, tokens = limit(model, lengths, roof), sum(new for _, new in lengths)
    show(row, "pronk", tokens, ours(model, lengths, 2, warm=1), least, AT_LEAST[row])


def context(row, args, roof, rows=16):
    """A step's time against the tokens in the cache: milliseconds = a + b tokens."""
    config = ModelConfig(**SHAPES["134m"] | {"context": 33_024})
    model = build(config, "cuda", seed=0).bfloat16().eval()
    engine = Engine(model, slots=rows, context=config.context)
    with engine.scheduler() as scheduler, torch.no_grad():
        room, points = scheduler.room, []
        for live in (1024, 2048, 4096, 8192, 16384, 32768):
            room.rows.whole[:, 2] = 1 << 40

            def step(live=live):
                room.rows.positions.fill_(live)
                room.decode(rows, live + 1, Use())

            points.append((rows * live, timed(step, 20)))
    slope = (points[-1][1] - points[0][1]) / (points[-1][0] - points[0][0])
    line = ", ".join(f"{tokens // rows:,}: {1e3 * seconds:.3f}" for tokens, seconds in points)
    least = kept(config) / roof[0]
    print(
        f"{row:9} {rows} rows, ms a step at {line}; b = {1e9 * slope:.2f} ns a token, "
        f"{slope / least - 1:+.0%} of bytes over bandwidth",
        flush=True,
    )


def clear():
    gc.collect()
    torch.cuda.empty_cache()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", nargs="*", default=ROWS)
    parser.add_argument("--peers", default="prototype,transformers", type=lambda words: words.split(","))
    parser.add_argument("--top-p", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=500.0)
    args = parser.parse_args()
    args.started = time.perf_counter()
    roof = roofs()
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}: "
        f"copy {roof[0] / 1e12:.2f} TB/s, {roof[1] / 1e12:.0f} TFLOP/s",
        flush=True,
    )
    failed = []
    for row in args.rows:
        try:
            {"ragged": ragged, "context": context}.get(row, fixed)(row, args, roof)
        except Exception:  # told of at the end: the others are measured
            traceback.print_exc()
            failed.append(row)
        clear()
    if "compiled" in args.peers:
        after(args, roof)
    sys.exit(f"failed: {' '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
