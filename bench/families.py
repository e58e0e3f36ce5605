"""Every family at about ten million parameters on the same stories: loss, speed, memory; and recall against distance.

Usage: PYTHONPATH=src python bench/families.py [--steps 300] [--seeds 0 1] [--only llama gru ..] [--toy]
       PYTHONPATH=src python bench/families.py --part draw      (the table and the picture of what is in out/ already)
Stories: the world's own, one tokenizer (2,048 tokens), rows of 256 tokens cut from one long text, the same rows in the
same order for all; validation on 512 rows that none has seen. Decoding: 64 prompts at once, 192 new tokens each, by the
engine. Recall: bench/recall.py; models of width 128 and two layers learn it in rows of 16 tokens, then of more, up to
4,160, and are asked for values seen 64 to 4,096 tokens ago (chance: 1 in 8).
Parts: learn = data, recall and loss (many processes at once, spread over the GPUs there are: nothing is timed); speed =
pace and decode (one family after the other, nothing beside it; needs data); draw. Writes out/families.json and .png.
--toy: small sizes that run on a CPU in a minute, to see that everything runs; its figures mean nothing.
"""

import argparse
import bisect
import gc
import json
import math
import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import recall
import torch

from pronk.data.batch import Batch
from pronk.engine.engine import Engine
from pronk.engine.sequence import Sampling
from pronk.learn.build import TrainConfig, make_learner
from pronk.learn.losses import cross_entropy
from pronk.learn.optim import OptimConfig
from pronk.models.build import build, count, eager
from pronk.models.config import ModelConfig
from pronk.text.bpe import train as learn_tokenizer
from pronk.world.tell import stories

GPT = {"norm": "layer", "feedforward": "gelu", "positions": "learned", "attention_bias": "all"}
FAMILIES = {
    "rnn": {"family": "rnn"},
    "lstm": {"family": "lstm"},
    "gru": {"family": "gru"},
    "gru with attention": {"family": "gru", "recurrent_attention": True},
    "transformer 2017": GPT | {"block": "post", "feedforward": "relu", "positions": "sinusoidal"},
    "gpt": GPT | {"block": "post"},
    "gpt2": GPT,
    "gpt-neo": GPT | {"attention_bias": "output", "attention_scaled": False, "window": 64, "window_every": 2},
    "llama": {},
    "llama, 2 kv heads": {"kv_heads": 2},
    "mistral": {"kv_heads": 2, "window": 64},
    "phi": GPT | {"block": "parallel", "positions": "rotary", "rotary_share": 0.5, "head_bias": True, "tied": False},
    "qwen3": {"kv_heads": 2, "qk_norm": True},
}
RATES = {"gru": 2e-3, "gru with attention": 2e-3, "lstm": 4e-3, "gpt": 2e-3}  # the others': 1e-3
RECALL_RATES = {"transformer 2017": 1.5e-3, "gpt": 1.5e-3, "rnn": 1e-3, "lstm": 8e-3, "gru": 4e-3}
LESSONS = (16, 32, 64, 128, 256, 1024)  # tokens in a row; then args.far
WIDTHS = range(64, 1025, 64)  # heads of whole multiples of 8, which fast kernels ask for
STARTED = time.perf_counter()


def shape(keys, args):
    """The family's config whose parameters come nearest to the goal; recurrent layers are half as many and wider."""
    layers = max(1, args.layers // 2) if "family" in keys else args.layers
    sizes = {"vocab": 2048, "layers": layers, "heads": 8, "context": args.length}

    def parameters(width):
        return count(build(ModelConfig(width=width, **sizes, **keys), "meta"))

    place = bisect.bisect_left(WIDTHS, args.goal, key=parameters)
    width = min(WIDTHS[max(0, place - 1) : place + 1], key=lambda width: abs(math.log(parameters(width) / args.goal)))
    return ModelConfig(width=width, **sizes, **keys)


# ── data


def told(seed):
    return [story.text for story in stories(2000, seed=seed)]


def text_rows(total, length):
    """Rows of length + 1 ids cut from stories one after another, [total, length + 1]."""
    tokenizer = learn_tokenizer(told(1), "bytelevel", 2048)
    needed, parts = total * length + 1, 1 + total * length // 170_000  # 2,000 stories are 185,000 tokens
    if parts == 1:
        texts = told(2)
    else:
        with multiprocessing.get_context("spawn").Pool(min(parts, os.cpu_count())) as pool:
            texts = [text for part in pool.map(told, range(2, 2 + parts)) for text in part]
    ids = [i for one in tokenizer.encode_batch(texts) for i in (tokenizer.bos, *one, tokenizer.eos)]
    assert len(ids) >= needed, (len(ids), needed)
    return np.lib.stride_tricks.sliding_window_view(np.array(ids, np.uint16), length + 1)[::length][:total]


def material(args):
    """Training rows and validation rows."""
    rows = torch.from_numpy(np.load(folder(args) / "rows.npy").astype(np.int64))
    return rows[args.held :], rows[: args.held]


# ── learning


def learner_for(model, rate, steps, args, **more):
    """Our own training path as it is by default: on a GPU in bf16, with captured steps. Norms after the sum want a long
    warmup: half of the steps."""
    precision = "bf16" if args.device == "cuda" else "fp32"
    share = 2 if model.config.block == "post" else 20
    train = TrainConfig(steps=steps, batch=args.batch, device=args.device, precision=precision, spike=0.0)
    return make_learner(model, OptimConfig(lr=rate, warmup=max(1, steps // share), **more), train)


def trained(config, rate, rows, steps, args):
    """The model after its steps, tokens a second past the first half of them, and peak MiB."""
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    model = build(config, args.device, seed=args.seed)
    learner = learner_for(model, rate, steps, args)
    skip, started = steps // 2, 0.0
    for step in range(steps):
        if step == skip:
            wait(args)
            started = time.perf_counter()
        picked = rows[torch.arange(step * args.batch, (step + 1) * args.batch) % len(rows)]
        found = learner.step(Batch(picked[:, :-1].contiguous(), picked[:, 1:].contiguous(), dense=True), cross_entropy)
        if step % max(1, steps // 10) == 0:
            say(f"stories, step {step} of {steps}: loss {found['loss']:.3f}")
    wait(args)
    pace = (steps - skip) * args.batch * args.length / (time.perf_counter() - started)
    return model, pace, torch.cuda.max_memory_allocated() / 2**20 if args.device == "cuda" else 0.0


def say(line):
    """To the child's log, with seconds since it began."""
    print(f"{time.perf_counter() - STARTED:6.1f} s  {line}", flush=True)


def wait(args):
    if args.device == "cuda":
        torch.cuda.synchronize()


@torch.no_grad()
def loss_of(model, rows, args):
    total = 0.0
    for part in rows.split(args.batch):
        part = part.to(args.device)
        with eager(model):
            output = model(part[:, :-1])
        total += cross_entropy(output, Batch(part[:, :-1], part[:, 1:].contiguous()))[0].item()
    return total / rows[:, 1:].numel()


def recalling(name, args, seed):
    """A small model after all lessons of the recall task: rows become longer, and begin anywhere in its context."""
    sizes = {"vocab": recall.VOCAB, "width": args.recall_width, "layers": 2, "heads": 4, "context": args.far}
    config, chance = ModelConfig(**sizes, **FAMILIES[name]), torch.Generator(args.device).manual_seed(seed)
    model = build(config, args.device, seed=seed)
    steps = [n for n in args.lessons for _ in range(args.lessons[n])]
    learner = learner_for(model, RECALL_RATES.get(name, args.recall_rate), len(steps), args, weight_decay=0.0)
    for step, length in enumerate(steps):
        rows = max(1, args.recall_tokens // length)
        asked = recall.rows(rows, length, chance)
        start = torch.randint(args.far - length + 1, (rows, 1), generator=chance, device=chance.device)
        positions = start + torch.arange(length, device=chance.device)
        found = learner.step(Batch(asked.tokens, asked.targets, positions, dense=True), cross_entropy)
        if step % max(1, len(steps) // 20) == 0:
            say(f"recall, step {step} of {len(steps)}, rows of {length}: loss {found['loss']:.3f}")
    return model


@torch.no_grad()
def recalled(model, args):
    """Share of right answers at each distance."""
    distances = [d for d in recall.DISTANCES if d < args.far]
    asked = recall.examination(args.exam, args.far, tuple(distances), seed=1_000_000)
    right = []
    for tokens, targets in zip(asked.tokens.split(8), asked.targets.split(8)):
        with eager(model):
            output = model(tokens.to(args.device))
        right.append((output.head(output.hidden).argmax(-1).cpu() == targets)[targets >= 0])
    right, far = torch.cat(right), asked.distances[asked.targets >= 0]
    return {d: right[far == d].float().mean().item() for d in distances}


def loss(name, args):
    config, (rows, validation) = shape(FAMILIES[name], args), material(args)
    model = trained(config, RATES.get(name, 1e-3), rows, args.steps, args)[0]
    facts = {"parameters": count(model), "width": config.width, "layers": config.layers}
    return facts | {"loss": loss_of(model, validation, args)}


def remember(name, args):
    return {"recall": recalled(recalling(name, args, args.seed), args)}


# ── speed


def pace(name, args):
    """Of training, past its first steps."""
    speed, peak = trained(shape(FAMILIES[name], args), 1e-4, material(args)[0], args.pace_steps, args)[1:]
    return {"tokens_per_second": speed, "mib": peak}


def decode(name, args):
    """Tokens a second of 64 answers at once, the second time."""
    config, prompts = shape(FAMILIES[name], args), material(args)[1][:64, :32].tolist()
    engine = Engine(build(config, args.device), dtype=torch.bfloat16 if args.device == "cuda" else None)
    for _ in range(2):
        started = time.perf_counter()
        done = engine.generate(prompts, Sampling(args.new, seed=0))
        seconds = time.perf_counter() - started
    return {"decoded_per_second": sum(len(one.ids) for one in done) / seconds, "state_kib": state_bytes(config) / 1024}


def state_bytes(config, length=4096):
    """What the engine keeps of one sequence of this length, in bfloat16."""
    model = build(replace(config, context=max(length, config.context)), "meta").to(torch.bfloat16)
    state = model.new_state(1, length)
    stores = state.stores.values() if config.family == "decoder" else vars(state).values()
    return sum(tensor.nbytes for tensor in stores if isinstance(tensor, torch.Tensor))


# ── all of it


def folder(args):
    path = Path(args.out) / "families"
    path.mkdir(parents=True, exist_ok=True)
    return path


def child(part, names, seed, gpu, args):
    """One part of some families in a process of its own, which writes a file of facts for each."""
    words = [*sys.argv[1:], "--part", part, "--only", *names, "--seed", str(seed)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": gpu}
    log = (folder(args) / f"{part} {names[0]} {seed}.log").open("w")
    return subprocess.Popen([sys.executable, __file__, *words], env=environment, stdout=log, stderr=log)


def together(jobs, at_once, args):
    """Run jobs (part, names, seed), `at_once` on each GPU; a failed one is said and leaves no file."""
    gpus = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    gpus = gpus or [str(number) for number in range(max(1, torch.cuda.device_count()))]
    free, running, jobs = gpus * at_once, [], list(jobs)
    while jobs or running:
        while jobs and free:
            job, gpu = jobs.pop(0), free.pop(0)
            running.append((child(*job, gpu, args), job, gpu))
        time.sleep(0.2)
        for one in [one for one in running if one[0].poll() is not None]:
            running.remove(one)
            free.append(one[2])
            if one[0].returncode:
                part, names, seed = one[1]
                log = (folder(args) / f"{part} {names[0]} {seed}.log").read_text().splitlines()
                print("FAILED:", part, names, seed, *log[-3:], sep=" | ", flush=True)


PARTS = {"loss": loss, "recall": remember, "pace": pace, "decode": decode}


def run_part(args):
    """What a child does."""
    if args.part == "data":
        total = args.held + min(args.steps * args.batch, 40_000)
        np.save(folder(args) / "rows.npy", text_rows(total, args.length))
        return
    for name in args.only:
        found = PARTS[args.part](name, args)
        facts = {"name": name, "part": args.part, "seed": args.seed, **found}
        (folder(args) / f"{args.part}-{name}-{args.seed}.json").write_text(json.dumps(facts))
        gc.collect()
        torch.cuda.empty_cache()


def settings():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = {"steps": 300, "pace-steps": 60, "batch": 64, "length": 256, "goal": 10_000_000, "layers": 8, "new": 192}
    numbers |= {"held": 512, "recall-width": 128, "recall-tokens": 32_768, "far": recall.LONGEST, "exam": 128}
    for name, value in (numbers | {"seed": 0, "at-once": 16}).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--recall-rate", type=float, default=2e-3)
    parser.add_argument("--lesson-steps", type=int, nargs=7, default=[100, 100, 100, 150, 100, 60, 20])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--only", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--part", choices=["all", "learn", "speed", "data", *PARTS, "draw"], default="all")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--out", default="out")
    args = parser.parse_args()
    args.device, args.lessons = "cuda", dict(zip((*LESSONS, args.far), args.lesson_steps))
    if args.toy:
        small = {"steps": 4, "pace_steps": 4, "batch": 4, "length": 48, "far": 144, "new": 4, "goal": 300_000}
        small |= {"layers": 2, "recall_width": 32, "recall_tokens": 512, "lessons": {64: 2, 128: 1}, "held": 8}
        small |= {"exam": 2, "device": "cpu", "at_once": 1, "seeds": args.seeds[:1]}
        args = argparse.Namespace(**vars(args) | small)
    return args


def main():
    args = settings()
    if args.part in (*PARTS, "data"):
        run_part(args)
        return
    if args.part in ("all", "learn"):
        device = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
        (folder(args) / "device.json").write_text(json.dumps({"device": device, "torch": torch.__version__}))
        each = [(name, seed) for seed in args.seeds for name in args.only]
        together([("data", args.only, 0), *(("recall", [name], seed) for name, seed in each)], args.at_once, args)
        together([("loss", [name], seed) for name, seed in each], args.at_once, args)
    if args.part in ("all", "speed"):
        for part in ("pace", "decode"):
            together([(part, args.only, 0)], 1, args)
    from families_picture import show

    show(folder(args), FAMILIES)


if __name__ == "__main__":
    main()
