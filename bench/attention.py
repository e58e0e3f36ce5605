"""Attention forwards: naive, xFormers, each of torch's kernels, Flex, and our own layer; core and whole layer.

Usage: PYTHONPATH=src python bench/attention.py [--lengths 512 1024 2048 4096 8192] [--iterations 100] [--toy]
What is run: 32 layers x 100 iterations of causal attention, width 4096 in 32 heads, fp16, batch 1, no gradients; the
device is waited for before and after. core = softmax(q k^T / sqrt(128)) v from ready heads; layer = core and the four
projections around it. naive = three plain operations and a causal mask. Figures: milliseconds a layer, how many times
faster than naive, and MiB that the call needs beyond weights and input. --toy: small sizes that run on a CPU, to see
that all agree.
"""

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from pronk.models.attention import Attention
from pronk.models.config import ModelConfig
from pronk.models.positions import Rotary


def naive(q, k, v):
    T = q.shape[2]
    future = torch.ones(T, T, dtype=torch.bool, device=q.device).triu(1)
    scores = (q @ k.mT) * q.shape[3] ** -0.5
    return scores.masked_fill(future, float("-inf")).softmax(-1) @ v


def by(backend):
    def core(q, k, v):
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    return core


def xformers():
    """The wheel is taken where it is installed; None elsewhere."""
    try:
        import xformers.ops as ops
    except ImportError:
        return None

    def core(q, k, v):
        heads_inside = (x.transpose(1, 2) for x in (q, k, v))
        return ops.memory_efficient_attention(*heads_inside, attn_bias=ops.LowerTriangularMask()).transpose(1, 2)

    return core


def flex(T, device):
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    mask = create_block_mask(lambda b, h, i, j: i >= j, None, None, T, T, device=device)
    run = torch.compile(flex_attention) if device == "cuda" else flex_attention
    return lambda q, k, v: run(q, k, v, block_mask=mask)


def cores(T, device):
    found = {"naive": naive, "xformers": xformers(), "sdpa math": by(SDPBackend.MATH)}
    found |= {"sdpa flash": by(SDPBackend.FLASH_ATTENTION), "sdpa efficient": by(SDPBackend.EFFICIENT_ATTENTION)}
    found |= {"sdpa cudnn": by(SDPBackend.CUDNN_ATTENTION), "flex": flex(T, device)}
    return {name: core for name, core in found.items() if core is not None}


class Layer(torch.nn.Module):
    """q, k, v and output projections around a core."""

    def __init__(self, width, heads, core):
        super().__init__()
        self.heads, self.core = heads, core
        self.project = torch.nn.ModuleList(torch.nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x):
        B, T, _ = x.shape
        q, k, v = (p(x).view(B, T, self.heads, -1).transpose(1, 2) for p in self.project[:3])
        return self.project[3](self.core(q, k, v).transpose(1, 2).reshape(B, T, -1))


def timed(run, layers, iterations, device):
    """Milliseconds a layer, and peak MiB beyond what was there."""
    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    for _ in range(3):
        run()
    wait()
    held = torch.cuda.memory_allocated() if device == "cuda" else 0
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    for _ in range(layers * iterations):
        run()
    wait()
    seconds = time.perf_counter() - started
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    return 1e3 * seconds / layers / iterations, (peak - held) / 2**20


def measure(run, wanted, sizes, device):
    """Time and memory, or what kept the kernel from running; its answer must be naive's."""
    try:
        gap = (run().float() - wanted.float()).abs().max().item()
    except (RuntimeError, NotImplementedError, ValueError) as error:
        return {"failed": (str(error).splitlines() or [type(error).__name__])[0][:60]}
    assert gap < (0.02 if wanted.dtype == torch.float16 else 1e-4), gap
    milliseconds, mib = timed(run, *sizes, device)
    return {"ms": milliseconds, "mib": mib, "gap": gap}


def of_length(T, args, device, dtype):
    width, heads, layers = args.width, args.heads, args.layers
    sizes = (layers, args.iterations)
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, heads, T, width // heads, device=device, dtype=dtype) for _ in range(3))
    x = torch.randn(1, T, width, device=device, dtype=dtype)
    rows = []
    with torch.device(device):
        plain = Layer(width, heads, naive).to(dtype)
    wanted, layer_wanted = naive(q, k, v), plain(x)
    for name, core in cores(T, device).items():
        layer = Layer(width, heads, core).to(device, dtype)
        layer.load_state_dict(plain.state_dict())
        found = measure(lambda core=core: core(q, k, v), wanted, sizes, device)
        rows.append({"T": T, "part": "core", "name": name, **found})
        found = measure(lambda layer=layer: layer(x), layer_wanted, sizes, device)
        rows.append({"T": T, "part": "layer", "name": name, **found})
    rows.append({"T": T, "part": "layer", "name": "pronk, rotary too", **ours(x, plain, args, sizes, device)})
    return rows


def ours(x, plain, args, sizes, device):
    """pronk.models.attention as every decoder runs it; first checked without its rotation."""
    config = ModelConfig(width=args.width, heads=args.heads, context=x.shape[1])
    layer = Attention(config, 0).to(device, x.dtype)
    for name, theirs in zip("qkvo", plain.project):
        getattr(layer, name).weight.data.copy_(theirs.weight)
    rotary = tuple(table.to(device) for table in Rotary(config)(None, x.shape[1]))
    still = torch.ones_like(rotary[0]), torch.zeros_like(rotary[1])
    gap = (layer(x, still, None, None, None) - plain(x)).abs().max().item()
    assert gap < (0.02 if x.dtype == torch.float16 else 1e-4), gap
    milliseconds, mib = timed(lambda: layer(x, rotary, None, None, None), *sizes, device)
    return {"ms": milliseconds, "mib": mib, "gap": gap}


def table(rows):
    naive_ms = {(row["T"], row["part"]): row["ms"] for row in rows if row["name"] == "naive"}
    lines = [f"{'tokens':>6} {'part':5} {'':18} {'ms':>9} {'x naive':>8} {'MiB':>8}"]
    for row in rows:
        start = f"{row['T']:>6} {row['part']:5} {row['name']:18}"
        if "failed" in row:
            lines.append(f"{start} {row['failed']}")
        else:
            times = naive_ms[row["T"], row["part"]] / row["ms"]
            lines.append(f"{start} {row['ms']:9.4f} {times:8.2f} {row['mib']:8.1f}")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048, 4096, 8192])
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--out", default="out/attention.json")
    args = parser.parse_args()
    device, dtype = "cuda", torch.float16
    if args.toy:
        device, dtype = "cpu", torch.float32
        args.lengths, args.iterations, args.layers, args.width, args.heads = [32, 128], 2, 2, 64, 4
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    with torch.no_grad():
        rows = [row for T in args.lengths for row in of_length(T, args, device, dtype)]
    print(f"{name}, torch {torch.__version__}, width {args.width}, {args.heads} heads, {dtype}\n{table(rows)}")
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    Path(args.out).write_text(json.dumps({"device": name, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
