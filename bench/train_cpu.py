"""Training steps of 1M parameters on a CPU: pronk beside transformers, in turns; `bench/train.py --cpu [--compiled]`.

--compiled adds compiled sides, a minute or more. Set OMP_NUM_THREADS; threads wait as libgomp has it, as `pronk` asks
by OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=1000. All sides take turns in one process; medians are compared. Both in
float32, and in bf16 (transformers by autocast) on a processor where `--train.precision auto` finds that faster:
elsewhere torch emulates it, and a step takes many times as long.
"""

import itertools
import json
import statistics
import time
from types import SimpleNamespace

import torch
from roofline import limit
from train_peers import transformers_step

from pronk.data.batch import Batch
from pronk.learn.build import TrainConfig, make_learner, pick_precision
from pronk.learn.losses import cross_entropy
from pronk.learn.optim import OptimConfig
from pronk.models.build import build, count, multiplied
from pronk.models.config import ModelConfig

ROW = SimpleNamespace(model=ModelConfig(vocab=1024, width=128, layers=4, heads=4, context=256), batch=16, length=256)
ROUNDS, WARM = 12, 3


def pronk_step(precision, compiled):
    model = build(ROW.model, seed=0)
    train = TrainConfig(steps=10**6, precision=precision, compile=compiled, spike=0.0)
    learner = make_learner(model, OptimConfig("adamw", lr=1e-5), train)
    ids = torch.randint(0, ROW.model.vocab, (ROW.batch, ROW.length + 1))
    batch = Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
    return lambda: learner.step(batch, cross_entropy)


def rate(do, work, seconds=1.5):
    """Work a second of what is done again and again."""
    do()
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        do()
        done += 1
    return done * work / (time.perf_counter() - started)


def least():
    """(roofs in words, milliseconds that a float32 step must take, part by part)."""
    x, y = torch.randn(2048, 2048), torch.randn(2048, 2048)
    a = torch.ones(2**27)
    b = torch.empty_like(a)
    roof = rate(lambda: torch.mm(x, y), 2 * 2048**3), rate(lambda: b.copy_(a), 2 * 4 * len(a))
    model = build(ROW.model)
    parts = limit(ROW.model, ROW.batch, ROW.length, count(model), multiplied(model), *roof, size=4)
    return f"{roof[0] / 1e9:.0f} GFLOP/s in products of 2,048^3, {roof[1] / 1e9:.1f} GB/s copied", parts


def main(compile_too):
    torch.manual_seed(0)
    roofs, parts = least()
    auto = pick_precision("auto", torch.device("cpu"))
    sides = {}
    for kind, compiled in itertools.product(dict.fromkeys(("fp32", auto)), (False, True) if compile_too else (False,)):
        sides[f"pronk {kind}{' compiled' * compiled}"] = pronk_step(kind, compiled)
        sides[f"transformers {kind}{' compiled' * compiled}"] = transformers_step(ROW, compiled, "cpu", kind)
    times = {name: [] for name in sides}
    for turn in range(WARM + ROUNDS):
        for name, step in sides.items():
            started = time.perf_counter()
            step()
            if turn >= WARM:
                times[name].append(time.perf_counter() - started)
    middles = {name: statistics.median(found) for name, found in times.items()}
    print(
        f"{count(build(ROW.model)):,} parameters, {ROW.batch} x {ROW.length} tokens, {torch.get_num_threads()} threads"
    )
    print(f"precision auto is {auto}")
    bound = sum(parts.values())
    told = ", ".join(f"{part} {one:.1f}" for part, one in parts.items())
    print(f"limit at {roofs}: {bound:.1f} ms a float32 step ({told})")
    for name, seconds in middles.items():
        times = middles["transformers fp32"] / seconds
        speed = f"{ROW.batch * ROW.length / seconds:9,.0f} tokens/s, {times:.2f} times transformers fp32"
        share = f", {bound / (1e3 * seconds):.0%} of the limit" if "fp32" in name else ""
        print(f"{name:30} {1e3 * seconds:7.1f} ms a step, {speed}{share}")
    print(json.dumps({"torch": torch.__version__, "seconds": middles, "limit, ms": parts}))
