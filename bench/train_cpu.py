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
from train_peers import transformers_step

from pronk.data.batch import Batch
from pronk.learn.build import TrainConfig, make_learner, pick_precision
from pronk.learn.losses import cross_entropy
from pronk.learn.optim import OptimConfig
from pronk.models.build import build, count
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


def main(compile_too):
    torch.manual_seed(0)
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
    for name, seconds in middles.items():
        times = middles["transformers fp32"] / seconds
        speed = f"{ROW.batch * ROW.length / seconds:9,.0f} tokens/s, {times:.2f} times transformers fp32"
        print(f"{name:30} {1e3 * seconds:7.1f} ms a step, {speed}")
    print(json.dumps({"torch": torch.__version__, "seconds": middles}))
