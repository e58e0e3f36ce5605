"""What only a GPU can show of training steps: captured, compiled and bfloat16 ones follow plain ones. Like gpu.py."""

import sys
from collections import deque
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from pronk.data.batch import Batch
from pronk.learn.build import TrainConfig, make_learner
from pronk.learn.learner import ENOUGH
from pronk.learn.losses import cross_entropy
from pronk.learn.optim import OptimConfig
from pronk.models import kernels_short
from pronk.models.attention import attend
from pronk.models.build import build
from pronk.models.config import ModelConfig
from pronk.models.float8 import Float8Linear

SHAPE = ModelConfig(vocab=256, width=128, layers=4, heads=4, kv_heads=2, context=256)
LSTM = ModelConfig(family="lstm", vocab=256, width=128, layers=2, context=256)


def text(seed=0, rows=16, length=64, vocab=256):
    """Rows that a model can learn: each walks through the vocabulary at a pace of its own."""
    dice = torch.Generator().manual_seed(seed)
    start = torch.randint(vocab, (rows, 1), generator=dice)
    pace = torch.randint(1, 4, (rows, 1), generator=dice)
    walk = (start + pace * torch.arange(length + 1)) % vocab
    return Batch(walk[:, :-1].contiguous(), walk[:, 1:].contiguous())


def train(config, steps=20, optim=None, model=SHAPE, tf32=True, batches=None, **keys):
    """Losses of some steps on the GPU, and the learner. keys: attributes of the learner."""
    learner = make_learner(build(model, "cuda", seed=0), optim or OptimConfig(warmup=5), config)
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    for name, value in keys.items():
        setattr(learner, name, value)
    batches = batches or [text(seed) for seed in range(steps)]
    return [learner.step(batch, cross_entropy)["loss"] for batch in batches], learner


def gap(found, wanted):
    return max(abs(a - b) for a, b in zip(found, wanted, strict=True))


def bf16_follows_fp32():
    """Losses of 20 steps in bfloat16 against float32 without TF32."""
    half, _ = train(TrainConfig(20, precision="bf16"))
    exact, _ = train(TrainConfig(20, precision="fp32"), tf32=False)
    worst = gap(half, exact)
    assert worst < 0.03 and exact[-1] < 0.9 * exact[0], (worst, exact[0], exact[-1])
    return f"{worst:.1e} nats (3e-2) while the loss fell from {exact[0]:.2f} to {exact[-1]:.2f}"


def packed(batch):
    """The same rows as documents of unequal length."""
    rows, length = batch.tokens.shape
    borders = torch.randint(20, 90, (rows, length // 20), generator=torch.Generator().manual_seed(1)).cumsum(1)
    documents = torch.searchsorted(borders, torch.arange(length).expand(rows, -1).contiguous(), right=True)
    begins = torch.cat((torch.zeros(rows, 1, dtype=torch.int64), borders), 1).gather(1, documents)
    return replace(batch, positions=torch.arange(length) - begins, documents=documents)


GPT = {"norm": "layer", "feedforward": "gelu", "attention_bias": "all", "positions": "learned"}
LONG = {"rows": 8, "length": 256}
FAST = {  # what compiled steps do: (model, train's keys, text's keys, whether documents are packed, precisions)
    "compiled": (SHAPE, {}, {}, False, ("fp32", "bf16")),
    "wide heads": (replace(SHAPE, vocab=250, head_bias=True, tied=False, **GPT), {}, {"vocab": 250}, False, ("bf16",)),
    "micro-batches": (SHAPE, {"micro_batch": 4}, {}, False, ("fp32",)),
    "recomputed": (SHAPE, {"recompute": 0.7}, {}, False, ("fp32",)),
    "documents": (SHAPE, {}, LONG, True, ("fp32", "bf16")),
    "windows": (replace(SHAPE, window=40, window_every=2), {}, LONG, True, ("fp32",)),
    "heads of 48": (replace(SHAPE, head_dim=48), {}, LONG, False, ("bf16",)),
}
BOUNDS = {"fp32": 1e-3, "bf16": 2e-2}


def fast_equals_plain():
    """Losses of 20 compiled steps against eager ones in float32 without TF32."""
    found = []
    for name, (model, keys, shape, documents, precisions) in FAST.items():
        batches = [text(seed, **shape) for seed in range(20)]
        batches = [packed(batch) for batch in batches] if documents else batches
        plain, _ = train(TrainConfig(20, precision="fp32"), model=model, tf32=False, batches=batches, capture=None)
        for precision in precisions:
            config = TrainConfig(20, precision=precision, compile=True, **keys)
            losses, learner = train(config, model=model, tf32=False, batches=batches)
            assert learner.capture.replays, "nothing was captured"
            found.append(f"{name} {precision} {gap(losses, plain):.0e}")
            assert gap(losses, plain) < BOUNDS[precision], found
            torch._dynamo.reset()
    return "20 steps: " + ", ".join(found) + " nats (fp32 1e-3, bf16 2e-2)"


def float8_follows_fp32():
    """Losses of 20 steps whose blocks multiply in 8 bits against eager float32."""
    plain, _ = train(TrainConfig(20, precision="fp32"), tf32=False, capture=None)
    small, learner = train(TrainConfig(20, precision="bf16", compile=True, float8=True))
    layers = sum(type(module) is Float8Linear for module in learner.model.modules())
    assert layers == 7 * SHAPE.layers and gap(small, plain) < 0.1, (layers, gap(small, plain))
    return f"{gap(small, plain):.1e} nats (1e-1) while the loss fell from {plain[0]:.2f} to {plain[-1]:.2f}"


def short_rows_equal_torch():
    """Attention of rows of up to 32 tokens by its own kernel, against torch's in float64: outputs and gradients."""
    found = {"float32": 0.0, "bfloat16": 0.0}
    for T, K, heads, groups in ((9, 48, 16, 16), (1, 64, 2, 1), (16, 64, 8, 2), (32, 128, 4, 4)):
        dice = torch.Generator("cuda").manual_seed(T)
        made = [torch.randn(5, T, n, K, generator=dice, device="cuda") for n in (heads, groups, groups, heads)]
        for name in found:
            *ours, slopes = (x.to(getattr(torch, name)).transpose(1, 2) for x in made)
            theirs = [x.double().requires_grad_() for x in ours]
            ours = [x.requires_grad_() for x in ours]
            one, other = kernels_short.attend(*ours), attend(*theirs, None)
            one = one, *torch.autograd.grad(one, ours, slopes)
            other = other, *torch.autograd.grad(other, theirs, slopes.double())
            worst = max((a - b).abs().max() / b.abs().max() for a, b in zip(one, other))
            found[name] = max(found[name], worst.item())
    assert found["float32"] < 1e-5 and found["bfloat16"] < 2e-2, found
    return ", ".join(f"{name} {worst:.0e}" for name, worst in found.items()) + " of the largest (1e-5, 2e-2)"


def large_recurrent_gradients():
    """Of a sum so large that cuDNN's gradients of bfloat16 weights would leave float16's range: bf16 against fp32."""
    found = []
    for family in ("rnn", "gru", "lstm"):
        model, batch, grads = build(replace(LSTM, family=family), "cuda", seed=0), text().map(lambda x: x.cuda()), []
        for half in (True, False):
            with torch.autocast("cuda", torch.bfloat16, enabled=half):
                total = cross_entropy(model(batch.tokens), batch)[0]
            grads.append(torch.autograd.grad(total * 2.0**20, list(model.blocks.parameters())))
        assert max(exact.abs().max() for exact in grads[1]) > torch.finfo(torch.float16).max
        found.append(max(((one - exact).norm() / exact.norm()).item() for one, exact in zip(*grads)))
        assert found[-1] < 0.05, (family, found[-1])
    return f"at most {max(found):.1e} relative (5e-2)"


def captured_equals_eager():
    """Training steps replayed from a CUDA graph, with dropout and micro-batches, bit for bit the eager ones."""
    found = []
    for optimizer, shape in {"adamw": SHAPE, "muon": SHAPE, "lstm": LSTM}.items():
        optim = OptimConfig("adamw" if optimizer == "lstm" else optimizer, warmup=5)
        for rows in (0, 4):
            config = TrainConfig(20, micro_batch=rows, precision="bf16")
            shape = replace(shape, dropout=0.2)
            eager, one = train(config, optim=optim, model=shape, capture=None)
            captured, other = train(config, optim=optim, model=shape)
            assert other.capture.replays and other.capture.updates, "nothing was captured"
            found.append(gap(captured, eager))
            same = all(torch.equal(a, b) for a, b in zip(one.state()[0].values(), other.state()[0].values()))
            assert same and found[-1] == 0, (optimizer, rows, same, found[-1])
    return "losses, weights and random numbers equal bit for bit"


def skipped_steps_move_nothing():
    """A replayed step that spikes: the device leaves weights, moments and counts as they were, and goes on."""
    for optimizer in ("adamw", "muon"):
        _, learner = train(TrainConfig(20, precision="bf16"), steps=8, optim=OptimConfig(optimizer, warmup=5))

        def held(learner=learner):
            return {name: x.clone() for name, x in learner.state()[0].items() if not name.startswith("random")}

        before, learner.history = held(), {"objective": deque([0.0] * ENOUGH)}
        skipped = learner.step(text(9), cross_entropy)["skipped"]
        after, learner.history = held(), {}
        went_on = learner.step(text(9), cross_entropy)["skipped"] == 0
        assert learner.ahead and learner.capture.updates and skipped == 1 and went_on, (optimizer, skipped, went_on)
        assert all(torch.equal(x, before[name]) for name, x in after.items()), f"{optimizer}: something moved"
        assert not any(torch.equal(x, before[name]) for name, x in held().items() if name.endswith("q.weight"))
    return f"{len(before)} tensors as they were"


if __name__ == "__main__":
    print(bf16_follows_fp32(), fast_equals_plain(), float8_follows_fp32(), captured_equals_eager(), sep="\n")
    print(skipped_steps_move_nothing())
