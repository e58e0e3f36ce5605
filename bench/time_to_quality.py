"""Seconds of training to a stated validation loss: pronk with Muon and with AdamW beside a plain GPT with AdamW.

usage: python bench/time_to_quality.py tinyshakespeare.txt [OUT] [--cpu] [--only "pronk, Muon"] [--toy]; OUT is docs/.
On a GPU two texts: character Shakespeare (the last tenth validates) and stories of pronk.world (byte-level BPE of
1,024, the last twentieth). All train on random windows of the same tokens, 64 x 256 a step, compiled, in bf16. The
plain GPT has nanoGPT's recipe: 6 layers, 384 wide, AdamW 1e-3 to 1e-4 by a cosine, 5,000 steps with dropout 0.2
(stories: 2,000 without); pronk has the shape and recipe of runs/shakespeare-gpu.toml with half of the dropout, since
its runs are shorter; AdamW has rates and weight decay of its own. --cpu is Shakespeare on two cores: nanoGPT's CPU
recipe (4 layers, 128 wide, 12 x 64 a step, 2,000 steps) beside runs/shakespeare-cpu.toml (8 x 256), eager, in float32.
The stated loss is the plain GPT's least, rounded up. Validation: consecutive windows of a side's own length.
One side trains after the other, alone. Seconds are those of its steps as they pass, on batches made before them;
evaluations are left out, and the first steps, which compile, count at the pace of the next. Each look is printed and
kept at once in OUT/time-to-quality-TEXT.json, with its picture: a run that is cut keeps what it had, and --only adds
to it.
"""

import json
import math
import sys
import time
import tomllib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.nn.functional as F
from shakespeare_cpu import GPT

from pronk.data.batch import Batch
from pronk.evals.likelihood import mean_loss
from pronk.evals.plots import curve
from pronk.learn.build import TrainConfig, make_learner, pick_device
from pronk.learn.losses import cross_entropy
from pronk.learn.optim import OptimConfig
from pronk.models.build import build
from pronk.models.config import ModelConfig
from pronk.text import bpe
from pronk.world.tell import stories

TOY, CPU = "--toy" in sys.argv, "--cpu" in sys.argv or "--toy" in sys.argv
DEVICE, WARM, LOOKS = ("cpu", 8, 10) if CPU else ("cuda", 8, 25)  # first steps, evaluations
RUN = tomllib.loads((Path(__file__).parent.parent / f"runs/shakespeare-{'cpu' if CPU else 'gpu'}.toml").read_text())
PLAIN, MUON, ADAMW = "plain GPT, AdamW", "pronk, Muon", "pronk, AdamW"
SIZES = {"width": 128, "layers": 4, "heads": 4} if CPU else {"width": 384, "layers": 6, "heads": 6}
SHAPES = {PLAIN: (12, 64), "pronk": (8, 256)} if CPU else {PLAIN: (64, 256), "pronk": (64, 256)}  # rows, tokens
NEAR = 0.3  # nats above the plain GPT's least loss: where pictures begin
STEPS = {
    "shakespeare": {PLAIN: 5000, MUON: 800, ADAMW: 800},
    "stories": {PLAIN: 2000, MUON: 1000, ADAMW: 1000},
    "shakespeare-two-cores": {PLAIN: 2000, MUON: 400, ADAMW: 500},
}


def of_shakespeare(path):
    """(training ids, validation ids, vocabulary, the plain GPT's dropout)."""
    text = Path(path).read_text()
    letters = {c: i for i, c in enumerate(sorted(set(text)))}
    ids = torch.tensor([letters[c] for c in text])
    border = int(0.9 * len(ids))
    return ids[:border], ids[border:], len(letters), 0.0 if CPU else 0.2


def told(seed):
    return [story.text for story in stories(5000, seed)]


def of_stories():
    with ProcessPoolExecutor(12, get_context("spawn")) as pool:  # CUDA does not survive a fork
        texts = [text for texts in pool.map(told, range(12)) for text in texts]
    tokenizer = bpe.train(texts[:5000], "bytelevel", 1024)
    ids = torch.tensor([i for one in tokenizer.encode_batch(texts) for i in (*one, tokenizer.eos)])
    border = int(0.95 * len(ids))
    return ids[:border], ids[border:], tokenizer.size, 0.0


def windows(ids, dice, rows, length):
    """A batch of random windows, in pinned memory where there is a GPU."""
    starts = torch.randint(len(ids) - length - 1, (rows, 1), generator=dice)
    found = ids[starts + torch.arange(length + 1)]
    tokens, targets = found[:, :-1].contiguous(), found[:, 1:].contiguous()
    return (tokens, targets) if CPU else (tokens.pin_memory(), targets.pin_memory())


def validation(ids, length):
    """Consecutive windows, every token but the first a target once, but for the last few."""
    count = 8 if TOY else (len(ids) - 1) // length
    whole = ids[: count * length + 1]
    return [Batch(x, y) for x, y in zip(whole[:-1].view(-1, length).split(64), whole[1:].view(-1, length).split(64))]


def plain(vocab, dropout, steps):
    """(step(tokens, targets), loss over batches) of the plain GPT."""
    model = GPT(vocab, **SIZES, context=SHAPES[PLAIN][1], dropout=dropout).to(DEVICE)
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), fused=True)
    torch.backends.cuda.enable_cudnn_sdp(True)  # torch's own choice
    forward, done = model if CPU else torch.compile(model), 0

    def loss_of(model, tokens, targets):
        with torch.autocast(DEVICE, torch.bfloat16, enabled=not CPU):
            return F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())

    def step(tokens, targets):
        nonlocal done
        share = min(1.0, (done - 100) / max(1, steps - 100))
        rate = 1e-3 * (done + 1) / 100 if done < 100 else 1e-4 + 4.5e-4 * (1 + math.cos(math.pi * share))
        for group in optimizer.param_groups:
            group["lr"] = rate
        tokens, targets = (x.to(DEVICE, non_blocking=True) for x in (tokens, targets))
        loss_of(forward, tokens, targets).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        done += 1

    @torch.no_grad()
    def evaluate(batches):
        model.eval()
        losses = [loss_of(model, b.tokens.to(DEVICE), b.targets.to(DEVICE)) * b.targets.numel() for b in batches]
        model.train()
        return float(sum(losses)) / sum(b.targets.numel() for b in batches)

    return step, evaluate


def pronk(vocab, dropout, steps, optimizer):
    model = build(ModelConfig(**(RUN["model"] | {"dropout": dropout / 2}), vocab=vocab), DEVICE, seed=0)
    model.train()
    optim = OptimConfig(**RUN["optim"])
    if optimizer == "adamw":
        decay = 2.0 if dropout else optim.weight_decay  # of a text that is seen many times
        optim = replace(optim, optimizer="adamw", lr=3e-3, beta2=0.99, weight_decay=decay)
    train = TrainConfig(steps=steps, precision="fp32" if CPU else "bf16", compile=not CPU, spike=0.0)
    learner = make_learner(model, optim, train)
    return (
        lambda tokens, targets: learner.step(Batch(tokens, targets), cross_entropy),
        lambda batches: mean_loss(model, batches, learner.compute),
    )


def looks(who, text, steps):
    """Train one side; yields (seconds, step, validation loss)."""
    ids, held, vocab, dropout = text
    rows, length = SHAPES.get(who, SHAPES["pronk"])
    pick_device(DEVICE)
    torch.manual_seed(0)
    step, evaluate = (
        plain(vocab, dropout, steps) if who == PLAIN else pronk(vocab, dropout, steps, {MUON: "muon"}.get(who, "adamw"))
    )
    batches, dice, pace, done, spent = validation(held, length), torch.Generator().manual_seed(0), 0.0, 0, 0.0

    def run(count):
        made = [windows(ids, dice, rows, length) for _ in range(count)]
        begun = time.perf_counter()
        for tokens, targets in made:
            step(tokens, targets)
        if not CPU:
            torch.cuda.synchronize()
        return time.perf_counter() - begun

    run(WARM)
    done = WARM
    while done < steps:
        count = min(max(1, steps // LOOKS), steps - done)
        seconds = run(count)
        spent += seconds if pace else seconds * (1 + WARM / count)
        pace, done = seconds / count, done + count
        yield spent, done, evaluate(batches)


def keep(file, curves):
    """The curves, and the picture of those that are there, from where they come near the stated loss."""
    text = file.stem.removeprefix("time-to-quality-").replace("-", " ")
    least = min(loss for *_, loss in curves.get(PLAIN) or next(iter(curves.values())))
    near = {who: [one for one in found if one[2] < least + NEAR] for who, found in curves.items()}
    lines = {who: list(zip(*((one[0], one[2]) for one in found))) for who, found in near.items() if found}
    facts = {"curves": curves}
    if PLAIN in curves:
        facts["stated loss"] = stop = math.ceil(100 * least) / 100
        reached = {who: next((one[0] for one in found if one[2] <= stop), None) for who, found in curves.items()}
        facts["seconds to it"] = reached
        lines["stated loss"] = ((0, max(found[-1][0] for found in curves.values())), (stop, stop))
    file.write_text(json.dumps(facts))
    curve(file.with_suffix(".png"), lines, f"{text}: validation loss", "nats per token", "seconds of training")
    return facts


def main(path, *words):
    out = Path(words[0] if words and not words[0].startswith("--") else "docs")
    only = words[words.index("--only") + 1] if "--only" in words else None
    for name in ("shakespeare-two-cores",) if CPU else ("shakespeare", "stories"):
        text = of_stories() if name == "stories" else of_shakespeare(path)
        file = out / f"time-to-quality-{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        curves = json.loads(file.read_text())["curves"] if only and file.exists() else {}
        for who, steps in STEPS[name].items():
            if only not in (None, who):
                continue
            curves[who] = []
            for look in looks(who, text, WARM + 4 if TOY else steps):
                curves[who].append(look)
                print(f"{name}: {who}: {look[0]:.2f} s, step {look[1]}, {look[2]:.4f} nats", flush=True)
                facts = keep(file, curves)
            torch._dynamo.reset()
            print(json.dumps({name: {key: facts.get(key) for key in ("stated loss", "seconds to it")}}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
