"""Attention forwards: naive, xFormers, each of torch's kernels, Flex, and our own layer; core and whole layer.

Usage: PYTHONPATH=src python bench/attention.py [--lengths 512 1024 2048 4096 8192] [--seconds 0.3] [--toy]
What is run: 32 layers with weights of their own x up to 100 iterations, as many as fit into --seconds, of causal
attention; width 4096 in 32 heads, fp16, batch 1, no gradients; the device is waited for before and after.
core = softmax(q k^T / sqrt(128)) v from ready heads; layer = core and the four projections around it. naive = three
plain operations and a ready causal mask; "float32 softmax" = softmax reads and writes as transformers' eager layers
have it; "Llama's" = what Meta's published model does: divide, add a ready mask, cast, softmax, cast back. joined = q, k
and v by one product. graph = the 32 layers as one CUDA graph. pronk = our layer with its rotary positions, which the
others lack. Figures: milliseconds a layer; times faster than the three naive ones; MiB that a call needs beyond weights
and input; rounds of 32 layers; seconds since the start. --toy: small sizes that run on a CPU, to see that all agree.
"""

import argparse
import json
import re
import time
from contextlib import nullcontext
from functools import cache, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from pronk.models.attention import Attention, View
from pronk.models.config import ModelConfig
from pronk.models.positions import Rotary

STARTED = time.perf_counter()
NAIVE = ("naive", "naive, float32 softmax", "naive, Llama's")
BACKENDS = {
    "sdpa math": SDPBackend.MATH,
    "sdpa flash": SDPBackend.FLASH_ATTENTION,
    "sdpa efficient": SDPBackend.EFFICIENT_ATTENTION,
    "sdpa cudnn": SDPBackend.CUDNN_ATTENTION,
}


# ── cores: q, k, v [1, heads, T, head_dim] -> [1, heads, T, head_dim]


def naive(future, softmax_type, q, k, v):
    scores = (q @ k.mT) * q.shape[3] ** -0.5
    return scores.masked_fill(future, float("-inf")).softmax(-1, softmax_type).to(v.dtype) @ v


def llamas(future, q, k, v):
    """The five steps of llama/model.py in github.com/meta-llama/llama, `future` added as it has it."""
    scores = q @ k.mT / q.shape[3] ** 0.5
    return (scores + future).float().softmax(-1).to(q.dtype) @ v


def sdpa(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def xformers(q, k, v):
    import xformers.ops as ops

    inside = (x.transpose(1, 2) for x in (q, k, v))  # it has the heads inside
    return ops.memory_efficient_attention(*inside, attn_bias=ops.LowerTriangularMask()).transpose(1, 2)


@cache
def flex_kernel(T, device):
    """Made where it is first asked for: its import and compiler take seconds."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    mask = create_block_mask(lambda b, h, i, j: i >= j, None, None, T, T, device=device)
    run = torch.compile(flex_attention, dynamic=False) if device == "cuda" else flex_attention
    return partial(run, block_mask=mask)


def flex(q, k, v):
    return flex_kernel(q.shape[2], q.device.type)(q, k, v)


def cores(T, device, dtype):
    """Name -> (core, the context it runs in)."""
    future = torch.ones(T, T, dtype=torch.bool, device=device).triu(1)
    unseen = torch.zeros(T, T, dtype=dtype, device=device).masked_fill_(future, float("-inf"))
    kinds = (partial(naive, future, None), partial(naive, future, torch.float32), partial(llamas, unseen))
    found = {name: (core, nullcontext) for name, core in zip(NAIVE, kinds)}
    found["xformers"] = xformers, nullcontext
    found |= {name: (sdpa, partial(sdpa_kernel, backend)) for name, backend in BACKENDS.items()}
    return found | {"sdpa, torch's choice": (sdpa, nullcontext), "flex": (flex, nullcontext)}


# ── layers


class Separate(torch.nn.Module):
    """Four projections around a core; `core` is set from outside."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.core = heads, sdpa
        self.project = torch.nn.ModuleList(torch.nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x):
        B, T, _ = x.shape
        q, k, v = (p(x).view(B, T, self.heads, -1).transpose(1, 2) for p in self.project[:3])
        return self.project[3](self.core(q, k, v).transpose(1, 2).reshape(B, T, -1))


class Joined(torch.nn.Module):
    """The same with q, k and v in one product."""

    def __init__(self, plain):
        super().__init__()
        self.heads, self.last = plain.heads, plain.project[3]
        self.joined = torch.cat([p.weight for p in plain.project[:3]])

    def forward(self, x):
        B, T, D = x.shape
        q, k, v = F.linear(x, self.joined).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self.last(sdpa(q, k, v).transpose(1, 2).reshape(B, T, D))


def ours(plain, config):
    """pronk.models.attention with the weights of a plain layer."""
    layer = Attention(config, 0).to(plain.project[0].weight)
    for name, theirs in zip("qkvo", plain.project):
        getattr(layer, name).weight.data = theirs.weight.data
    return layer


# ── the clock


def timed(run, layers, args):
    """Milliseconds a layer, iterations, and peak MiB of one beyond what was there. run() is one pass through layers."""
    wait = torch.cuda.synchronize if args.device == "cuda" else (lambda: None)
    run()
    wait()
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated() if args.device == "cuda" else 0
    started = time.perf_counter()
    run()
    wait()
    seconds = time.perf_counter() - started
    iterations = max(1, min(args.iterations, int(args.seconds / seconds)))
    if iterations > 1:
        started = time.perf_counter()
        for _ in range(iterations):
            run()
        wait()
        seconds = time.perf_counter() - started
    peak = torch.cuda.max_memory_allocated() if args.device == "cuda" else 0
    return {"ms": 1e3 * seconds / iterations / layers, "iterations": iterations, "mib": (peak - held) / 2**20}


def each(calls):
    """Run them all, keeping no answer but the last."""
    for call in calls:
        answer = call()
    return answer


def measure(calls, wanted, context, args):
    """Time and memory of one call after the other, or what kept them from running; the first must give `wanted`."""
    try:
        with context():
            gap = (calls[0]().float() - wanted.float()).abs().max().item()
            assert gap < (0.02 if wanted.dtype == torch.float16 else 1e-4), f"differs from naive by {gap}"
            return {"gap": gap} | timed(partial(each, calls), len(calls), args)
    except Exception as error:  # a kernel that is not there, or that fails in a library: said in the table
        return {"failed": (str(error).splitlines() or [""])[0][:70] or type(error).__name__}


def graphed(calls, wanted, context, args):
    """The same with all calls in one CUDA graph."""
    if args.device != "cuda":
        return {"failed": "needs CUDA"}
    try:
        with context():
            each(calls)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                last = each([*calls[1:], calls[0]])
            graph.replay()
            gap = (last.float() - wanted.float()).abs().max().item()
            assert gap < 0.02, f"differs from naive by {gap}"
            return {"gap": gap} | timed(graph.replay, len(calls), args) | {"mib": float("nan")}
    except Exception as error:
        return {"failed": (str(error).splitlines() or [""])[0][:70] or type(error).__name__}


def of_length(T, layers, args):
    """All rows of one length: part, name, and what measures it."""
    D, heads = args.width, args.heads
    q, k, v = (torch.randn(1, heads, T, D // heads, device=args.device, dtype=args.dtype) for _ in range(3))
    x = torch.randn(1, T, D, device=args.device, dtype=args.dtype)
    found, calls = cores(T, args.device, args.dtype), [partial(layer, x) for layer in layers]
    set_core(layers, found["naive"][0])
    wanted, layer_wanted = found["naive"][0](q, k, v), calls[0]()
    for name, (core, context) in found.items():
        set_core(layers, core)
        yield "core", name, partial(measure, [partial(core, q, k, v)] * len(layers), wanted, context, args)
        yield "layer", name, partial(measure, calls, layer_wanted, context, args)
    set_core(layers, found["naive"][0])
    yield "layer", "naive, graph", partial(graphed, calls, layer_wanted, nullcontext, args)
    joined = [partial(Joined(layer), x) for layer in layers]
    for name in ("flash", "cudnn"):
        context = partial(sdpa_kernel, BACKENDS[f"sdpa {name}"])
        yield "layer", f"joined, {name}", partial(measure, joined, layer_wanted, context, args)
        yield "layer", f"joined, {name}, graph", partial(graphed, joined, layer_wanted, context, args)
    del joined
    yield from of_pronk(x, layers, layer_wanted, args)


def set_core(layers, core):
    for layer in layers:
        layer.core = core


def of_pronk(x, layers, wanted, args):
    """Our layer as every decoder runs it, plain and compiled; first checked without its rotation."""
    config = ModelConfig(width=args.width, heads=args.heads, context=x.shape[1])
    rotary = tuple(table.to(args.device) for table in Rotary(config)(None, x.shape[1]))
    still = torch.ones_like(rotary[0]), torch.zeros_like(rotary[1])
    own = [ours(layer, config) for layer in layers]
    gap = (own[0](x, still, View(None)).float() - wanted.float()).abs().max().item()
    assert gap < (0.02 if x.dtype == torch.float16 else 1e-4), gap
    turned = own[0](x, rotary, View(None))
    calls = [partial(layer, x, rotary, View(None)) for layer in own]
    for name, context in (("flash", BACKENDS["sdpa flash"]), ("cudnn", BACKENDS["sdpa cudnn"])):
        yield "layer", f"pronk, {name}", partial(measure, calls, turned, partial(sdpa_kernel, context), args)
    if args.device == "cuda":
        for layer in own:
            layer.compile(dynamic=False)
        context = partial(sdpa_kernel, BACKENDS["sdpa cudnn"])
        yield "layer", "pronk, cudnn, compiled", partial(measure, calls, turned, context, args)
        yield "layer", "pronk, cudnn, compiled, graph", partial(graphed, calls, turned, context, args)


HEAD = f"{'tokens':>6} {'part':5} {'':29} {'ms':>8} {'x naive':>8} {'x f32':>6} {'x Llama':>7} {'MiB':>7} {'rounds':>6}"


def line(row, rows):
    """One row beside the naive ones among the rows of its length and part."""
    start = f"{row['T']:>6} {row['part']:5} {row['name']:29}"
    if "failed" in row:
        return f"{start} {row['failed']}"
    beside = {one["name"]: one.get("ms", 0.0) for one in rows if (one["T"], one["part"]) == (row["T"], row["part"])}
    times = [beside.get(name, 0.0) / row["ms"] for name in NAIVE]
    times = f"{times[0]:8.2f} {times[1]:6.2f} {times[2]:7.2f}"
    return f"{start} {row['ms']:8.4f} {times} {row['mib']:7.0f} {row['iterations']:6} {row['at']:5.0f}s"


def settings():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048, 4096, 8192])
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=0.3)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--match", default="", help="measure only rows whose name this regex finds")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--out", default="out/attention.json")
    args = parser.parse_args()
    args.device, args.dtype = "cuda", torch.float16
    if args.toy:
        args.device, args.dtype = "cpu", torch.float32
        args.lengths, args.iterations, args.layers, args.width, args.heads = [32, 128], 2, 2, 64, 4
    return args


@torch.no_grad()
def main():
    args = settings()
    name = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, width {args.width}, {args.heads} heads, {args.dtype}")
    torch.manual_seed(0)
    with torch.device(args.device):
        layers = [Separate(args.width, args.heads).to(args.dtype) for _ in range(args.layers)]
    rows, out = [], Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    print(HEAD, flush=True)
    for T in args.lengths:
        for part, row, run in of_length(T, layers, args):
            if re.search(args.match, row):
                rows.append({"T": T, "part": part, "name": row, **run(), "at": time.perf_counter() - STARTED})
                print(line(rows[-1], rows), flush=True)
        out.write_text(json.dumps({"device": name, "torch": torch.__version__, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
