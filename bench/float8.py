"""Loss of a model of a billion parameters with 8-bit products and without, on real text, on one GPU.

usage: python bench/float8.py TEXT [--toy]; TEXT of a few million tokens, whose last twentieth validates.
The Llama of 1.1B of bench/train.py learns a byte-level BPE of 8,192 from 2,048 tokens a step, two seeds each way: a
seed is the weights and the order of the text, so what two seeds differ by tells what a difference between 8 bits and
bfloat16 is worth. All sides train at once; nothing is timed; looks are printed as they come. --toy is a dry run on a
CPU, where neither is used.
"""

import json
import statistics
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file, save_file
from side_by_side import Side

from pronk.data.batch import Batch
from pronk.evals.likelihood import mean_loss
from pronk.learn.build import TrainConfig, make_learner, pick_device
from pronk.learn.losses import cross_entropy
from pronk.learn.optim import OptimConfig
from pronk.models.build import build
from pronk.models.config import ModelConfig
from pronk.text import bpe

TOY = "--toy" in sys.argv
DEVICE, VOCAB = ("cpu", 512) if TOY else ("cuda", 8192)
ROWS, LENGTH, STEPS, LOOK = (2, 32, 8, 4) if TOY else (4, 512, 240, 40)
SIZES = {"width": 64, "layers": 2, "heads": 4} if TOY else {"width": 2048, "layers": 22, "heads": 32, "kv_heads": 4}
MODEL = ModelConfig(**SIZES, ffn_dim=128 if TOY else 5632, vocab=VOCAB, context=LENGTH, tied=False)
SEEDS = (0, 1)


def one_side(kind, seed, file):
    """In a process of its own: tells step, training loss since the last look, and validation loss at every look."""
    pick_device(DEVICE)
    ids = load_file(file)
    rows = ids["held"][: 64 * LENGTH + 1]
    held = [Batch(rows[:-1].view(-1, LENGTH), rows[1:].view(-1, LENGTH))]
    model = build(MODEL, DEVICE, seed=seed)
    train = TrainConfig(STEPS, compile=not TOY, float8=kind == "float8" and not TOY)
    learner = make_learner(model, OptimConfig("adamw", lr=3e-4, warmup=40), train)
    dice, losses = torch.Generator().manual_seed(seed), []
    for step in range(1, STEPS + 1):
        starts = torch.randint(len(ids["learned"]) - LENGTH - 1, (ROWS, 1), generator=dice)
        windows = ids["learned"][starts + torch.arange(LENGTH + 1)]
        batch = Batch(windows[:, :-1].contiguous(), windows[:, 1:].contiguous())
        losses.append(learner.step(batch, cross_entropy)["loss"])
        if step % LOOK == 0:
            facts = {"step": step, "training": statistics.fmean(losses[-LOOK:])}
            print(json.dumps(facts | {"validation": mean_loss(model, held, learner.compute)}), flush=True)


def main(path):
    text = Path(path).read_text()
    pieces = [text[start : start + 2000] for start in range(0, len(text), 2000)]
    tokenizer = bpe.train(pieces, "bytelevel", VOCAB)
    ids = torch.tensor([i for piece in tokenizer.encode_batch(pieces) for i in piece])
    border = len(ids) - max(len(ids) // 20, 64 * LENGTH + 1)
    print(f"{len(ids):,} tokens, {border:,} of them learned from; {ROWS} x {LENGTH} a step", flush=True)
    with TemporaryDirectory() as folder:
        file = f"{folder}/ids.safetensors"
        save_file({"learned": ids[:border].clone(), "held": ids[border:].clone()}, file)
        mode = ["--toy"] if TOY else []
        sides = {
            (kind, seed): Side(f"{kind} {seed}", __file__, "--one", kind, str(seed), file, *mode)
            for kind in ("bf16", "float8")
            for seed in SEEDS
        }
        ends = dict.fromkeys(sides)
        for _ in range(STEPS // LOOK):
            for (kind, seed), side in sides.items():
                if look := side.hear(600):
                    print(f"{kind:6} seed {seed}: {json.dumps(look)}", flush=True)
                ends[kind, seed] = look and look["validation"]
        for side in sides.values():
            side.stop()
    if None not in ends.values():
        gaps = [ends["float8", seed] - ends["bf16", seed] for seed in SEEDS]
        spread = abs(ends["bf16", 0] - ends["bf16", 1])
        print(json.dumps({"validation, float8 - bf16": gaps, "between bf16's seeds": spread}))


if __name__ == "__main__":
    if "--one" in sys.argv:
        one_side(sys.argv[2], int(sys.argv[3]), sys.argv[4])
    else:
        main(sys.argv[1])
