"""Character Shakespeare on a CPU: a plain GPT by nanoGPT's CPU recipe, then pronk in that time and in about 90 s.

usage: OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE python bench/shakespeare_cpu.py tinyshakespeare.txt
Validation: the whole last tenth of the text in non-overlapping windows of the model's own context (64 and 256).
"""

import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from pronk.learn.track import read_metrics


class Block(nn.Module):
    """Pre-norm attention and GELU feed-forward, as in GPT-2, without biases."""

    def __init__(self, width, heads, dropout=0.0):
        super().__init__()
        self.heads, self.drop = heads, nn.Dropout(dropout)
        self.norm1, self.norm2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x):
        B, T, D = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(B, T, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        lost = self.drop.p if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=lost).transpose(1, 2).reshape(B, T, D)
        x = x + self.drop(self.out(y))
        return x + self.drop(self.down(F.gelu(self.up(self.norm2(x)))))


class GPT(nn.Module):
    def __init__(self, vocab, width=128, layers=4, heads=4, context=64, dropout=0.0):
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.tokens, self.places = nn.Embedding(vocab, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads, dropout) for _ in range(layers)))
        self.norm = nn.LayerNorm(width, bias=False)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                scale = (2 * layers) ** -0.5 if name.endswith(("out.weight", "down.weight")) else 1.0
                nn.init.normal_(p, std=0.02 * scale)

    def forward(self, x):
        hidden = self.drop(self.tokens(x) + self.places.weight[: x.shape[1]])
        return F.linear(self.norm(self.blocks(hidden)), self.tokens.weight)


def baseline(text):
    """2,000 steps of 12 x 64 characters, AdamW 1e-3 to 1e-4, evaluations left out. Returns (seconds, loss)."""
    torch.manual_seed(1337)
    letters = {c: i for i, c in enumerate(sorted(set(text)))}
    data = torch.tensor([letters[c] for c in text])
    border = int(0.9 * len(data))
    train, validation = data[:border], data[border:]
    model = GPT(len(letters))
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))
    started = time.perf_counter()
    for step in range(2000):
        rate = 1e-3 * (step + 1) / 100 if step < 100 else 1e-4 + 4.5e-4 * (1 + math.cos(math.pi * (step - 100) / 1900))
        for group in optimizer.param_groups:
            group["lr"] = rate
        starts = torch.randint(len(train) - 65, (12,))
        rows = torch.stack([train[s : s + 65] for s in starts])
        loss = F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    seconds = time.perf_counter() - started
    with torch.no_grad():
        count = (len(validation) - 1) // 64
        x, y = validation[: count * 64].view(count, 64), validation[1 : count * 64 + 1].view(count, 64)
        total = sum(
            F.cross_entropy(model(a).flatten(0, 1), b.flatten(), reduction="sum").item()
            for a, b in zip(x.split(64), y.split(64))
        )
    return seconds, total / (count * 64)


def ours(path, *words):
    """pronk pretrain in a process of its own. Returns (seconds of the whole process, validation loss)."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "pronk",
            "pretrain",
            "runs/shakespeare-cpu.toml",
            "--data",
            path,
            "--out",
            folder,
            *words,
        ]
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
        losses = [row["val_loss"] for row in read_metrics(folder) if "val_loss" in row]
    return seconds, losses[-1]


def main():
    path = sys.argv[1]
    seconds, loss = baseline(Path(path).read_text())
    print(f"plain GPT 4x128, nanoGPT's CPU recipe  {seconds:6.0f} s  validation {loss:.4f} (context 64)", flush=True)
    for name, words in (("pronk, runs/shakespeare-cpu.toml", ()), ("pronk, 1300 steps", ("--train.steps", "1300"))):
        seconds, loss = ours(path, *words)
        print(f"{name:38} {seconds:6.0f} s  validation {loss:.4f} (context 256)", flush=True)


if __name__ == "__main__":
    main()
