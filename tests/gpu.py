"""`make gpu`: what only a GPU can show, as a table of checks with what was measured; without a GPU, it says so.

Each check returns a line of measurements, or raises. Tolerances stand beside what they bound.
"""

import contextlib
import io
import json
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from dataclasses import replace
from functools import partial
from pathlib import Path

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS begins; --train.deterministic needs it

import torch

sys.path.insert(0, str(Path(__file__).parent))

import gpu_engine
import gpu_train
from gpu_engine import exactly
from gpu_train import LSTM, SHAPE, gap, text
from learn import toys

from pronk.commands import pretrain, rl
from pronk.commands.tokenizer import VocabularyConfig
from pronk.data.batch import IGNORE
from pronk.data.sources import ReadConfig
from pronk.engine.engine import Engine
from pronk.engine.sequence import Sampling
from pronk.learn.build import TrainConfig
from pronk.learn.losses import bradley_terry, cross_entropy, dpo
from pronk.learn.optim import OptimConfig
from pronk.models import logps as head_math
from pronk.models.build import build, to_scorer
from pronk.models.config import ModelConfig
from pronk.models.heads import Head, Output
from pronk.rl.kl import KLConfig
from pronk.rl.losses import clipped, clipped_answers, clipped_with_value
from pronk.rl.rollouts import RolloutConfig
from pronk.world.tell import requests, stories

GPT = {"norm": "layer", "feedforward": "gelu", "attention_bias": "all"}
KIN = {
    "neo": replace(SHAPE, **GPT | {"kv_heads": 0, "positions": "learned", "attention_scaled": False, "window": 12}),
    "mistral": replace(SHAPE, window=16, window_every=2),
    "phi": replace(SHAPE, **GPT | {"block": "parallel", "rotary_share": 0.5, "head_bias": True, "tied": False}),
    "qwen3": replace(SHAPE, qk_norm=True, head_dim=48),
    "gru with attention": replace(LSTM, family="gru", recurrent_attention=True),
}
PRECISIONS = {"fp32": "highest", "tf32": "high"}


def relative(found, wanted):
    found, wanted = found.detach().double(), wanted.detach().double()
    return float((found - wanted).norm() / wanted.norm())


# ── models


def gpu_equals_cpu():
    """Logits of one set of weights on both, float32 without TF32."""
    exactly()
    found = {}
    for name, shape in ({"decoder": SHAPE, "lstm": LSTM} | KIN).items():
        model, tokens = build(shape, seed=0), text().tokens
        wanted = head_math.logits(model, tokens)
        found[name] = relative(head_math.logits(model.to("cuda"), tokens.cuda()).cpu(), wanted)
        assert found[name] < 1e-5, found
    return ", ".join(f"{k} {v:.1e}" for k, v in found.items()) + " relative (1e-5)"


def head_math_in_chunks():
    """cross_entropy, logps and exact_kl with their gradients, one chunk and many, against plain float64."""
    torch.set_float32_matmul_precision("highest")
    torch.manual_seed(0)
    N, D, V = 512, 64, 1000
    hidden, other = (torch.randn(4, N // 4, D, device="cuda", requires_grad=True) for _ in range(2))
    head, frozen = Head(V, D).cuda(), Head(V, D).cuda()
    for one in (head, frozen):
        torch.nn.init.normal_(one.weight, std=0.2)
    targets = torch.randint(V, (4, N // 4), device="cuda")
    targets[:, ::5] = head_math.IGNORE
    keep = targets != head_math.IGNORE
    ours = (hidden.double() @ head.weight.double().T).log_softmax(-1)
    theirs = (other.double() @ frozen.weight.double().T).log_softmax(-1).detach()
    picked = ours.gather(-1, targets.clamp(min=0)[..., None])[..., 0] * keep
    entropy = -(ours.exp() * ours).sum(-1) * keep
    kl = ((ours.exp() * (ours - theirs)).sum(-1) * keep, (theirs.exp() * (theirs - ours)).sum(-1) * keep)
    weights = torch.rand(targets.shape, device="cuda")

    def slopes(value):
        return torch.autograd.grad(value, [hidden, head.weight], retain_graph=True)

    worst, kept = 0.0, (head_math.CHUNK, head_math.GPU_CHUNK)
    for chunk in (1 << 23, 33 * V):
        head_math.CHUNK = head_math.GPU_CHUNK = chunk
        output, reference = Output(hidden, head), Output(other, frozen)
        pairs = [(head_math.cross_entropy(output, targets, dense)[0], -picked.sum()) for dense in (False, True)]
        found = head_math.logps(output, targets)
        pairs += [((found[0] * weights).sum(), (picked * weights).sum())]
        pairs += [((found[1] * weights).sum(), (entropy * weights).sum())]
        found = head_math.exact_kl(output, reference, targets)
        pairs += [((a * weights).sum(), (b * weights).sum()) for a, b in zip(found, kl)]
        for a, b in pairs:
            each = [relative(a, b), *(relative(x, y) for x, y in zip(slopes(a), slopes(b)))]
            worst = max(worst, *each)
    head_math.CHUNK, head_math.GPU_CHUNK = kept
    assert worst < 1e-5, worst
    return f"{worst:.1e} relative, gradients too (1e-5)"


# ── engine


def engine_equals_learner():
    """Log-probabilities of what was sampled (graphs) against one forward as training makes it."""
    found = []
    for family, shape in {"decoder": SHAPE, "lstm": LSTM}.items():
        for kind, bound in {"fp32": 1e-4, "tf32": 2e-2, "bf16": 0.25}.items():
            torch.set_float32_matmul_precision(PRECISIONS.get(kind, "high"))
            model = build(shape, "cuda", seed=0)
            learner = toys.Learner(model, toys.PLAIN, 1, precision="bf16" if kind == "bf16" else "fp32")
            engine = Engine(model, slots=16, dtype=torch.bfloat16 if kind == "bf16" else None, graphs=True)
            prompts = [text(3).tokens[i, : 4 + i].tolist() for i in range(16)]
            done = engine.generate(prompts, Sampling(60, seed=5))
            ids = torch.tensor([(c.prompt + c.ids)[:64] for c in done], device="cuda")
            with torch.no_grad(), learner.compute():
                logps = head_math.logps(model(ids[:, :-1]), ids[:, 1:])[0].tolist()
            gaps = [
                abs(a - b)
                for c, row in zip(done, logps)
                for a, b in zip(c.logps, row[len(c.prompt) - 1 :], strict=False)
            ]
            worst, mean = max(gaps), sum(gaps) / len(gaps)
            assert worst < bound and mean < bound / 8, (family, kind, worst, mean)
            found.append(f"{family} {kind} {worst:.0e}/{mean:.0e} ({bound:.0e})")
    return "; ".join(found)


def any_mix_of_requests():
    """A seeded request gives the same ids alone, among others in any order, with graphs and without."""
    exactly()
    worst = 0.0
    for shape in (SHAPE, LSTM):
        model = build(shape, "cuda", seed=0)
        engine, plain = Engine(model, slots=8, graphs=True), Engine(model, slots=8, graphs=False)
        prompts = [text(4, rows=24).tokens[i, : 1 + i].tolist() for i in range(24)]
        how = [Sampling(8 + i, 0.8 if i % 4 else 0.0, seed=i, top_p=0.9 if i % 3 else 1.0) for i in range(24)]
        alone = [engine.generate([p], [s])[0] for p, s in zip(prompts, how)]
        for seed in range(3):
            order = random.Random(seed).sample(range(24), 24)
            mixed = (engine, plain)[seed % 2].generate([prompts[i] for i in order], [how[i] for i in order])
            for i, one in zip(order, mixed):
                assert one.ids == alone[i].ids, (seed, i)
                worst = max(worst, gap(one.logps, alone[i].logps))
    assert worst < 1e-4, worst
    return f"ids equal, log-probabilities {worst:.1e} (1e-4)"


# ── training


def with_values(output, batch):
    """Cross-entropy, and values that are to be zero, so that a critic has gradients."""
    total, count, metrics = cross_entropy(output, batch)
    return total + output.values.square().sum(), count, metrics


def optimizers_equal_cpu():
    """Six steps of two groups with rates of their own, on the GPU (captured in the end) and on the CPU."""
    found = []
    for optimizer in ("adamw", "muon", "sgd"):
        groups = {"policy.": OptimConfig(optimizer, lr=1e-3, warmup=0), "critic.": OptimConfig("adamw", lr=0.0)}
        made = []
        for device in ("cpu", "cuda"):
            learner = toys.Learner(toys.actor_critic().to(device), groups, 10, graphs=device == "cuda")
            names = [name for group in learner.groups for name in group.parameters]
            assert len(names) == len(set(names)) == len(list(learner.model.parameters()))
            start = {n: p.detach().clone() for n, p in learner.model.named_parameters()}
            told = [learner.step(toys.text((9,) * 8, seed), with_values) for seed in range(6)]
            assert {"policy/lr", "critic/lr", "policy/grad_norm", "critic/grad_norm"} <= told[0].keys()
            still = {n for n, p in learner.model.named_parameters() if torch.equal(p, start[n])}
            assert still == {n for n in start if n.startswith("critic.")}, still
            made.append(torch.cat([p.detach().flatten().cpu() for p in learner.model.policy.parameters()]))
        found.append(f"{optimizer} {relative(made[1], made[0]):.1e}")
        assert relative(made[1], made[0]) < 1e-3, found
    return ", ".join(found) + " relative (1e-3)"


def captured_rl_equals_eager():
    """Steps of PPO, GRPO and RLOO on dense rows, which a GPU computes in full: replayed, eager, and on the CPU."""
    away, found = KLConfig(coef=0.1, where="loss"), []
    losses = {
        "ppo": clipped_with_value(0.8, kl=away),
        "grpo": clipped(0.8, kl=away, aggregate="answers"),
        "rloo": clipped_answers(0.8),
    }
    for name, loss in losses.items():
        told = []
        for device, graphs in (("cpu", False), ("cuda", False), ("cuda", True)):
            module = (toys.actor_critic() if name == "ppo" else toys.model()).to(device)
            groups = {"policy.": toys.PLAIN, "critic.": toys.PLAIN} if name == "ppo" else toys.PLAIN
            learner = toys.Learner(module, groups, 10, graphs=graphs)
            batches = [
                replace(toys.rollouts(seed, pad=3).map(partial(torch.Tensor.to, device=device)), dense=True)
                for seed in range(8)
            ]
            told.append([learner.step(batch, loss)["loss"] for batch in batches])
            assert not graphs or learner.capture.replays, "nothing was captured"
        found.append(f"{name} {gap(told[2], told[1]):.0e}/{gap(told[1][:2], told[0][:2]):.0e}")
        assert gap(told[2], told[1]) < 1e-4 and gap(told[1][:2], told[0][:2]) < 1e-2, found
    return ", ".join(found) + " replayed to eager/GPU to CPU (1e-4/1e-2)"


def captured_pairs_equal_eager():
    """Steps of the reward model and of DPO on comparisons: replayed, eager, and on the CPU."""
    found = []
    for name, loss in {"reward": bradley_terry(), "dpo": dpo(0.3)}.items():
        told = []
        for device, graphs in (("cpu", False), ("cuda", False), ("cuda", True)):
            body = toys.model()
            torch.manual_seed(0)  # of the scorer's head
            module = to_scorer(body) if name == "reward" else body
            learner = toys.Learner(module.to(device), toys.PLAIN, 10, graphs=graphs)
            batches = [toys.pairs(seed) for seed in range(8)]
            for batch in batches:
                places = torch.arange(batch.targets.shape[-1])
                batch.last = torch.where(batch.targets == IGNORE, 0, places).amax(-1)
            told.append([learner.step(batch, loss)["loss"] for batch in batches])
            assert not graphs or learner.capture.replays, "nothing was captured"
        found.append(f"{name} {gap(told[2], told[1]):.0e}/{gap(told[1][:2], told[0][:2]):.0e}")
        assert gap(told[2], told[1]) < 1e-4 and gap(told[1][:2], told[0][:2]) < 1e-2, found
    return ", ".join(found) + " replayed to eager/GPU to CPU (1e-4/1e-2)"


# ── commands


def world(folder):
    """Files as the demo makes them."""
    told = [{"text": s.text} for s in stories(400, 0)]
    asked = [{"prompt": r.prompt, "kind": r.wish.kind} for r in requests(60, 1)]
    for name, rows in (("stories", told), ("prompts", asked)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def pretraining(folder, out, **keys):
    return pretrain.Config(
        data=(str(folder / "stories.jsonl"),),
        out=str(out),
        vocabulary=VocabularyConfig("bytelevel", 512),
        read=ReadConfig(validation=0.05),
        model=ModelConfig(width=64, layers=2, heads=2, context=192, dropout=0.1),
        optim=OptimConfig("muon", lr=4e-3),
        train=TrainConfig(**({"steps": 40, "batch": 8, "length": 96, "save_every": 20, "log_every": 1} | keys)),
    )


def aligning(folder, model, out, **keys):
    return rl.Config(
        model=str(model),
        prompts=str(folder / "prompts.jsonl"),
        out=str(out),
        reward=("subject", "0.1*well-formed"),
        algorithm=keys.pop("algorithm", "reinforce"),
        rollout=RolloutConfig(prompts=16, n=1, max_tokens=64),
        train=TrainConfig(**({"steps": 6, "save_every": 3, "log_every": 1, "spike": 0.0} | keys)),
    )


def rows_of(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def commands_run():
    """pretrain, then REINFORCE and PPO, all on the GPU by themselves."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        world(folder)
        pretrain.run(pretraining(folder, folder / "base"))
        losses = [row["loss"] for row in rows_of(folder / "base") if "loss" in row]
        assert losses[-1] < losses[0] - 0.5, losses
        found = f"pretrain {losses[0]:.2f} → {losses[-1]:.2f} nats"
        for algorithm in ("reinforce", "ppo"):
            out = folder / algorithm
            rl.run(aligning(folder, folder / "base" / "model", out, algorithm=algorithm))
            rewards = [row["reward/mean"] for row in rows_of(out) if "reward/mean" in row]
            assert (out / "model" / "model.safetensors").exists() and len(rewards) >= 2
            found += f", {algorithm} {len(rewards)} rounds"
        return found


def resume_is_bit_identical():
    """With --train.deterministic: all at once, and from the middle's checkpoint, to the same model file."""
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            world(folder)
            found = [_resumed(folder, "pretrain", pretrain.run, pretraining(folder, folder / "pretrain", **EXACT))]
            for algorithm in ("reinforce", "ppo"):
                model, out = folder / "pretrain" / "model", folder / algorithm
                found.append(
                    _resumed(folder, algorithm, rl.run, aligning(folder, model, out, algorithm=algorithm, **EXACT))
                )
            return "model files equal: " + ", ".join(found)
    finally:
        torch.use_deterministic_algorithms(False)


EXACT = {"deterministic": True, "keep": 9}


def _resumed(folder, name, run, config):
    whole, half = folder / name, folder / f"{name}-again"
    run(config)
    shutil.copytree(whole, half)
    saved = sorted((half / "checkpoints").glob("step-*"), key=lambda p: int(p.name.split("-")[1]))
    for path in saved[1:]:
        shutil.rmtree(path)
    (half / "model" / "model.safetensors").unlink()
    run(replace(config, out=str(half)))
    one, other = ((p / "model" / "model.safetensors").read_bytes() for p in (whole, half))
    assert one == other, f"{name}: the resumed model differs"
    return f"{name} from {saved[0].name}"


CHECKS = [
    *(gpu_equals_cpu, head_math_in_chunks, gpu_engine.graph_equals_eager, gpu_engine.load_without_recapture),
    *(gpu_engine.filters_equal_rules, gpu_engine.neighbours_change_no_bit),
    *(engine_equals_learner, any_mix_of_requests, gpu_train.bf16_follows_fp32, gpu_train.fast_equals_plain),
    *(gpu_train.float8_follows_fp32, gpu_train.short_rows_equal_torch, gpu_train.captured_equals_eager),
    *(gpu_train.skipped_steps_move_nothing, gpu_train.large_recurrent_gradients),
    *(captured_rl_equals_eager, captured_pairs_equal_eager),
    *(optimizers_equal_cpu, commands_run, resume_is_bit_identical),
]


def check(one):
    """(passed, seconds, what was measured) of a check; what it prints is shown where it fails."""
    started, said = time.perf_counter(), io.StringIO()
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    try:
        with contextlib.redirect_stdout(said):
            line = one()
        return True, time.perf_counter() - started, line
    except Exception as error:
        print(f"\n{said.getvalue()[-2000:]}\n{traceback.format_exc()[-3000:]}", flush=True)
        return False, time.perf_counter() - started, f"{type(error).__name__}: {error}"[:200]


def main(words):
    if not torch.cuda.is_available():
        print("make gpu: skipped, torch finds no CUDA GPU here")
        return 0
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}", flush=True)
    failed = 0
    for one in (one for one in CHECKS if not words or one.__name__ in words):
        passed, seconds, line = check(one)
        name = one.__name__.replace("_", " ")
        print(f"{'PASS' if passed else 'FAIL'}  {seconds:5.1f} s  {name:28} {line}", flush=True)
        failed += not passed
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
