"""Seconds of training to a stated validation loss on one GPU: pronk with Muon and with AdamW beside a plain GPT.

usage: python bench/time_to_quality.py tinyshakespeare.txt [OUT] [--known] [--toy]; draws OUT/time-to-quality-*.png
(docs/) from the curves that it leaves beside them; --draw OUT draws them again. --known: the plain GPT's losses are
those of the curves in OUT; it does not train again, but its steps are timed beside the others'.
Two texts: character Shakespeare (the last tenth validates) and stories of pronk.world (byte-level BPE of 1,024, the
last twentieth). All train on random windows of the same tokens, 64 x 256 a step, compiled, in bf16. The plain GPT has
nanoGPT's recipe for Shakespeare: 6 layers, 384 wide, dropout 0.2, AdamW 1e-3 to 1e-4 by a cosine, 5,000 steps. The
stated loss is its least in Shakespeare and, without dropout, in 2,000 steps on stories, rounded up. pronk has the shape
and recipe of runs/shakespeare-gpu.toml with half of its dropout, since its runs are shorter; AdamW differs in its rates
alone. First steps of each are timed while no other
side runs (the fastest of ten windows); then all train side by side. Seconds are steps times seconds a step: compiling
and evaluating are left out, and what compiling takes is told. --toy is a dry run on a CPU.
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
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from shakespeare_cpu import GPT
from side_by_side import Side, pause

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

RUN = tomllib.loads((Path(__file__).parent.parent / "runs" / "shakespeare-gpu.toml").read_text())
TOY = "--toy" in sys.argv
DEVICE = "cpu" if TOY else "cuda"
ROWS, LENGTH = (4, 32) if TOY else (64, 256)
WARM, WINDOWS, TIMED = (2, 1, 3) if TOY else (8, 10, 10)  # steps that compile; windows of steps that are timed
KNOWN = "--known" in sys.argv
PLAIN, MUON, SHORT, ADAMW = "plain GPT", "pronk, Muon", "Muon, fewer steps", "pronk, AdamW"
OPTIMIZERS = {MUON: "muon", SHORT: "muon", ADAMW: "adamw"}


def of_shakespeare(path):
    """(training ids, validation ids, vocabulary, the plain GPT's dropout, steps of each side)."""
    text = Path(path).read_text()
    letters = {c: i for i, c in enumerate(sorted(set(text)))}
    ids = torch.tensor([letters[c] for c in text])
    border = int(0.9 * len(ids))
    steps = {PLAIN: 5000, MUON: 900, SHORT: 700, ADAMW: 1200}
    return ids[:border], ids[border:], len(letters), 0.2, steps


def told(seed):
    return [story.text for story in stories(100 if TOY else 5000, seed)]


def of_stories():
    with ProcessPoolExecutor(2 if TOY else 12, get_context("spawn")) as pool:  # CUDA does not survive a fork
        texts = [text for texts in pool.map(told, range(2 if TOY else 12)) for text in texts]
    tokenizer = bpe.train(texts[:5000], "bytelevel", 1024)
    ids = torch.tensor([i for one in tokenizer.encode_batch(texts) for i in (*one, tokenizer.eos)])
    border = int(0.95 * len(ids))
    return ids[:border], ids[border:], tokenizer.size, 0.0, {PLAIN: 2000, MUON: 800, SHORT: 500, ADAMW: 1000}


def windows(ids, dice):
    """A batch of random windows, in pinned memory."""
    starts = torch.randint(len(ids) - LENGTH - 1, (ROWS, 1), generator=dice)
    rows = ids[starts + torch.arange(LENGTH + 1)]
    tokens, targets = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
    return (tokens, targets) if TOY else (tokens.pin_memory(), targets.pin_memory())


def validation(ids):
    """Consecutive windows, every token but the first a target once, but for the last few."""
    count = (len(ids) - 1) // LENGTH
    whole = ids[: count * LENGTH + 1]
    return [Batch(x, y) for x, y in zip(whole[:-1].view(-1, LENGTH).split(64), whole[1:].view(-1, LENGTH).split(64))]


def plain(vocab, dropout, steps):
    """(step(tokens, targets), loss over batches) of the plain GPT."""
    width, layers, heads = (32, 2, 2) if TOY else (384, 6, 6)
    model = GPT(vocab, width, layers, heads, LENGTH, dropout).to(DEVICE)
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), fused=True)
    torch.backends.cuda.enable_cudnn_sdp(True)  # torch's own choice
    forward, done = model if TOY else torch.compile(model), 0

    def loss_of(model, tokens, targets):
        with torch.autocast(DEVICE, torch.bfloat16):
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
    shape = {"width": 32, "layers": 2, "heads": 2} if TOY else {}
    model = build(ModelConfig(**(RUN["model"] | {"dropout": dropout / 2} | shape), vocab=vocab), DEVICE, seed=0)
    model.train()
    optim = OptimConfig(**RUN["optim"])
    if optimizer == "adamw":
        optim = replace(optim, optimizer="adamw", lr=3e-3, beta2=0.99)
    train = TrainConfig(steps=steps, precision="bf16", compile=not TOY, spike=0.0)
    learner = make_learner(model, optim, train)
    return (
        lambda tokens, targets: learner.step(Batch(tokens, targets), cross_entropy),
        lambda batches: mean_loss(model, batches, learner.compute),
    )


def one_side(who, file, vocab, dropout, steps):
    """In a process of its own: compile, time steps, train."""
    pick_device(DEVICE)
    torch.manual_seed(0)
    with safe_open(file, "pt") as tensors:
        ids, batches = tensors.get_tensor("train"), validation(tensors.get_tensor("validation"))
    started = time.perf_counter()
    step, evaluate = plain(vocab, dropout, steps) if who == PLAIN else pronk(vocab, dropout, steps, OPTIMIZERS[who])
    dice, losses = torch.Generator().manual_seed(0), []

    def run(count):
        begun = time.perf_counter()
        for _ in range(count):
            step(*windows(ids, dice))
        if not TOY:
            torch.cuda.synchronize()
        return (time.perf_counter() - begun) / count

    run(WARM)
    pause(compiled=time.perf_counter() - started)
    pause(seconds=min(run(TIMED) for _ in range(WINDOWS)))
    for done in range(WARM + WINDOWS * TIMED, 0 if KNOWN and who == PLAIN else steps, max(1, steps // 25)):
        run(min(max(1, steps // 25), steps - done))
        losses.append((min(done + max(1, steps // 25), steps), evaluate(batches)))
    pause(losses=losses)


def prepared(name, text, folder):
    """A text's three sides, started: {who: side}."""
    ids, held, vocab, dropout, steps = text
    file = f"{folder}/{name}.safetensors"
    save_file({"train": ids, "validation": held[:2000].clone() if TOY else held}, file)
    mode = [word for word in ("--toy", "--known") if word in sys.argv]
    return {
        who: Side(f"{name} {who}", __file__, "--one", who, file, str(vocab), str(dropout), str(count), *mode)
        for who, count in (dict.fromkeys(steps, 25) if TOY else steps).items()
    }


def report(name, found, out):
    """found: {who: (compiled, seconds a step, [(step, loss)])}."""
    file = out / f"time-to-quality-{name}.json"
    if KNOWN and PLAIN in found:
        found[PLAIN] = (*found[PLAIN][:2], json.loads(file.read_text())["losses"][PLAIN])
    if PLAIN not in found:
        return
    stop = math.ceil(100 * min(loss for _, loss in found[PLAIN][2])) / 100
    for who, (compiled, seconds, losses) in found.items():
        reached = next((seconds * step for step, loss in losses if loss <= stop), None)
        line = {"text": name, "who": who, "stated loss": stop, "seconds to it": reached, "ms a step": 1e3 * seconds}
        line |= {"least loss": min(loss for _, loss in losses), "steps": losses[-1][0], "compiling": compiled}
        print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()}), flush=True)
    facts = {"stated loss": stop, "seconds a step": {who: seconds for who, (_, seconds, _) in found.items()}}
    file.write_text(json.dumps(facts | {"losses": {who: losses for who, (_, _, losses) in found.items()}}))


def draw(out):
    for file in Path(out).glob("time-to-quality-*.json"):
        found, text = json.loads(file.read_text()), file.stem.removeprefix("time-to-quality-")
        title = f"{text}: validation loss, {found['stated loss']:.2f} to be reached"
        lines = {
            who: ([found["seconds a step"][who] * step for step, _ in losses], [loss for _, loss in losses])
            for who, losses in found["losses"].items()
        }
        curve(file.with_suffix(".png"), lines, title, "nats per token", "seconds of training", size=(7.6, 3.4))


def main(path, out="docs", *rest):
    out = Path(out if not out.startswith("--") else "docs")
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder:
        sides = {
            name: prepared(name, text, folder)
            for name, text in (("shakespeare", of_shakespeare(path)), ("stories", of_stories()))
        }
        flat = {(name, who): side for name, trio in sides.items() for who, side in trio.items()}
        compiled = {key: side.hear() for key, side in flat.items()}
        timed = {}
        for key, side in flat.items():  # one by one
            side.go()
            timed[key] = side.hear()
        for side in flat.values():
            side.go()
        for name, trio in sides.items():
            told = {who: side.hear(900) for who, side in trio.items()}
            found = {
                who: (compiled[name, who]["compiled"], timed[name, who]["seconds"], facts["losses"])
                for who, facts in told.items()
                if facts is not None
            }
            report(name, found, out)
        for side in flat.values():
            side.stop()
    draw(out)


if __name__ == "__main__":
    if "--one" in sys.argv:
        who, file, vocab, dropout, steps = sys.argv[2:7]
        one_side(who, file, int(vocab), float(dropout), int(steps))
    elif "--draw" in sys.argv:
        draw(sys.argv[-1])
    else:
        main(*sys.argv[1:])
