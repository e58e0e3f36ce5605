"""Training steps on one GPU: pronk's Learner beside its peers compiled, as a share of what the GPU could do.

usage: python bench/train.py [rows] [--seconds 1.5] [--alone] [--cpu]; rows such as llama-134m sft; none = all.
Both train on the same shape of random tokens: fp32 parameters and optimizer state, bf16 compute, AdamW with a clip.
MFU counts 6 N + 6 L T D operations a token over 989 TFLOP/s, N = parameters multiplied per token. The limit is made
from the bottom up (roofline.py): products at the matmul roof, attention at half of it, and bytes of the optimizer and
of the residual stream at the copy rate; its parts are printed in ms. Roofs are measured over a second or more, since a
GPU at work lowers its clock to keep within its power. Rows after the first seven are other updates of the 134M model;
`packed` and `sft` have documents of 64 to 512 tokens. Each measurement is a process of its own: those of a wave compile
side by side, then are timed one by one.
--alone leaves the peers out; --cpu is 1M parameters on this machine's processor (train_cpu.py).
"""

import json
import math
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import partial
from threading import Timer

import torch
from roofline import limit
from side_by_side import Side, pause
from train_peers import nanogpt_step, transformers_step

from pronk.data.batch import IGNORE, Batch, Pairs, Rollouts
from pronk.learn.build import TrainConfig, make_learner, pick_device
from pronk.learn.losses import bradley_terry, cross_entropy, dpo
from pronk.learn.optim import OptimConfig
from pronk.models.build import build, count, multiplied, to_scorer
from pronk.models.config import ModelConfig
from pronk.models.presets import PRESETS
from pronk.rl.kl import KLConfig
from pronk.rl.losses import clipped

PEAK = 989e12
PEERS = {"transformers": transformers_step, "nanogpt": nanogpt_step}


@dataclass
class Row:
    """What is trained. waves: when pronk and its peer are measured; those of a wave lie in memory together."""

    model: ModelConfig
    batch: int
    length: int
    waves: tuple[int, ...]
    peer: str = ""
    recompute: float = 0.0
    float8: bool = False
    update: str = "pretrain"

    def sides(self):
        return tuple(zip(("pronk", self.peer), self.waves))


def llama(width, layers, heads, kv_heads, ffn_dim, vocab=32000, context=2048):
    sizes = {"width": width, "layers": layers, "heads": heads, "kv_heads": kv_heads, "ffn_dim": ffn_dim}
    return ModelConfig(**sizes, vocab=vocab, context=context, tied=False)


SMALL = Row(llama(768, 12, 12, 12, 2048), 32, 1024, (1, 1), "transformers")
LARGE = Row(llama(2048, 22, 32, 4, 5632), 8, 2048, (1, 3), "transformers")
SLICE = llama(4096, 4, 32, 8, 14336, vocab=128_256, context=32_768)
ROWS = {
    "llama-134m": SMALL,
    "gpt2": Row(ModelConfig(**PRESETS["gpt2"]), 32, 1024, (2, 2), "nanogpt"),
    "story-15m": Row(llama(288, 6, 6, 6, 768), 128, 512, (1, 2), "transformers"),
    "llama-1.1b": LARGE,
    "llama-1.1b-float8": replace(LARGE, waves=(3,), peer="", float8=True),
    "8b-slice": Row(SLICE, 1, 8192, (4, 5), "transformers"),
    "8b-slice-32k": Row(SLICE, 1, 32_768, (5,), recompute=0.1),
    **{name: replace(SMALL, waves=(4,), update=name) for name in ("packed", "sft", "dpo", "reward", "grpo")},
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
    products = 2 * 8192**3 / timed(lambda: x @ y, 800, 3)
    a = torch.empty(2**31, device="cuda", dtype=torch.uint8)
    b = torch.empty_like(a)
    return products, 2 * a.numel() / timed(lambda: b.copy_(a), 500, 3)


def text(row):
    """Random tokens, and for some updates documents, and targets of which each row's first half is not learned."""
    ids = torch.randint(0, row.model.vocab, (row.batch, row.length + 1))
    tokens, targets = ids[:, :-1].clone(), ids[:, 1:].clone()
    if row.update in ("pretrain", "packed"):
        known = targets
    else:
        known = targets.masked_fill(torch.arange(row.length) < row.length // 2, IGNORE)
    if row.update not in ("packed", "sft"):
        return tokens, known, None, None
    borders = torch.randint(64, 512, (row.batch, row.length // 64)).cumsum(1)  # where documents begin
    documents = torch.searchsorted(borders, torch.arange(row.length).expand(row.batch, -1).contiguous(), right=True)
    begins = torch.cat((torch.zeros(row.batch, 1, dtype=torch.int64), borders), 1).gather(1, documents)
    return tokens, known, torch.arange(row.length) - begins, documents


def update_of(row):
    """(batch in pinned memory, loss) of a row's kind of update."""
    tokens, targets, positions, documents = text(row)
    pairs, (B, T) = (row.batch // 2, 2, row.length), targets.shape
    noise = partial(torch.randn, B, T)
    batch = {
        "dpo": lambda: Pairs(tokens.view(pairs), targets.view(pairs), ref_logps=torch.zeros(pairs[:2])),
        "reward": lambda: Pairs(tokens.view(pairs), targets.view(pairs), last=torch.full(pairs[:2], T - 1)),
        "grpo": lambda: Rollouts(
            *(tokens, targets), dense=True, logps=noise() - 10, ref_logps=noise() - 10, advantages=noise()
        ),
    }.get(row.update, lambda: Batch(tokens, targets, positions, documents))()
    losses = {
        "dpo": dpo(),
        "reward": bradley_terry(),
        "grpo": clipped(kl=KLConfig(coef=0.05, where="loss"), aggregate="answers"),
    }
    return batch.map(torch.Tensor.pin_memory), losses.get(row.update, cross_entropy)


def pronk_step(row):
    """One Learner step, as every command makes it: the batch comes from pinned memory, and a step's numbers are read
    while the next one is computed."""
    torch.manual_seed(0)
    model = build(row.model, "cuda")
    trained = to_scorer(model) if row.update == "reward" else model
    facts = {"active": multiplied(trained), "parameters": count(trained)}
    train = TrainConfig(steps=1000, precision="bf16", compile=True, recompute=row.recompute, float8=row.float8)
    learner = make_learner(trained, OptimConfig("adamw", lr=1e-5), train)
    batch, loss = update_of(row)
    return (lambda: learner.step(batch, loss)), facts


def clock():
    """MHz of the GPU's processors now, and watts."""
    query = ["nvidia-smi", "--query-gpu=clocks.sm,power.draw", "--format=csv,noheader,nounits"]
    said = subprocess.run(query, capture_output=True, text=True).stdout.splitlines()
    return [float(part) for part in said[torch.cuda.current_device()].split(",")]


def measured(name, who, seconds):
    """In a process of its own: start, compile, measure."""
    row = ROWS[name]
    if who != "pronk" and row.peer == "transformers":
        import transformers  # noqa: F401  while others are still at work
    pause()
    pick_device("cuda")
    facts = {}
    if who == "pronk":
        step, facts = pronk_step(row)
    else:
        torch.backends.cuda.enable_cudnn_sdp(True)  # torch's own choice
        torch.set_float32_matmul_precision("high")
        step = PEERS[who](row)
    for _ in range(6):
        step()
    torch.cuda.synchronize()
    pause()
    steps = max(5, math.ceil(seconds / timed(step, 2, 2)))
    seen = []
    watch = Timer(0.6 * seconds, lambda: seen.extend(clock()))
    watch.start()
    facts |= {"seconds": timed(step, steps, 0), "GiB": torch.cuda.max_memory_allocated() / 2**30}
    watch.join()
    pause(**facts, MHz=seen[0], watts=seen[1])


def show(name, row, ours, peer, base, roof):
    """A row as a line of JSON. base: what pretraining of the 134M model found, for its other updates."""
    tokens, m = row.batch * row.length, row.model
    work = (6 * ours["active"] + 6 * m.layers * row.length * m.heads * m.head_size) * tokens
    line = {"row": name, "tok/s": round(tokens / ours["seconds"])}
    line |= {key: ours[key] for key in ("GiB", "MHz", "watts")} | {"MFU": work / ours["seconds"] / PEAK}
    least = limit(m, row.batch, row.length, ours["parameters"], ours["active"], *roof, head=row.update != "reward")
    line |= {"of limit": sum(least.values()) / (1e3 * ours["seconds"])}
    if base is not None and row.update != "pretrain":
        line |= {"of pretraining": base["seconds"] / ours["seconds"]}
    if peer is not None:
        line |= {"peer": row.peer, "its tok/s": round(tokens / peer["seconds"])}
        line |= {f"its {key}": peer[key] for key in ("GiB", "MHz")}
        line |= {"times": peer["seconds"] / ours["seconds"]}
    line |= {f"{part}, ms": one for part, one in least.items()}
    print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in line.items()}), flush=True)


def main(words):
    seconds = words[words.index("--seconds") + 1] if "--seconds" in words else "1.5"
    chosen = {name: ROWS[name] for name in words if name in ROWS} or dict(ROWS)
    if "--alone" in words:
        chosen = {name: replace(row, waves=row.waves[:1]) for name, row in chosen.items()}
    sides = {(name, who): wave for name, row in chosen.items() for who, wave in row.sides()}
    all_of = {side: Side(" ".join(side), __file__, "--one", *side, seconds) for side in sides}
    for one in all_of.values():
        one.hear()
    roof = roofs()
    torch.cuda.empty_cache()
    facts = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    print(json.dumps(facts | {"matmul TFLOP/s": roof[0] / 1e12, "copy TB/s": roof[1] / 1e12}), flush=True)
    results = {}
    for wave in sorted(set(sides.values())):
        members = {side: one for side, one in all_of.items() if sides[side] == wave}
        for one in members.values():
            one.go()
        for one in members.values():
            one.hear()
        for side, one in members.items():
            one.go()
            results[side] = one.hear()
            one.stop()
        for name in [n for n, row in chosen.items() if row.sides() and max(row.waves) == wave]:
            row, ours, base = chosen[name], results[name, "pronk"], results.get(("llama-134m", "pronk"))
            if ours is not None:
                show(name, row, ours, results.get((name, row.peer)), base, roof)


if __name__ == "__main__":
    if "--one" in sys.argv:
        measured(*sys.argv[2:4], float(sys.argv[4]))
    elif "--cpu" in sys.argv:
        import train_cpu

        train_cpu.main("--compiled" in sys.argv)
    else:
        main(sys.argv[1:])
