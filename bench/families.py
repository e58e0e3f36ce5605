"""Every family at about ten million parameters on the same stories: loss, speed, memory; and recall against distance.

Usage: PYTHONPATH=src python bench/families.py [--steps 2000] [--recall-steps 3000] [--only llama gru ..] [--toy]
Stories: the world's own, one tokenizer (2,048 tokens), rows of 256 tokens cut from one long text, the same rows in the
same order for all; validation on 512 rows that none has seen. Decoding: 64 prompts at once, 192 new tokens each, by the
engine. Recall: rows of 4,112 tokens hold pairs (key, value); later the key comes again and its value is asked, 64 to
4,096 tokens after. The curve shows the share of right answers (chance: 1 in 64) of a model of each family with 4 layers
of width 128, trained on all distances at once. Writes out/families.json and out/families.png.
--toy: small sizes that run on a CPU in a minute, to see that everything runs; its figures mean nothing.
"""

import argparse
import json
import math
import time
from dataclasses import replace
from pathlib import Path

import torch

from pronk.data.batch import IGNORE, Batch
from pronk.engine.engine import Engine
from pronk.engine.sequence import Sampling
from pronk.evals.plots import draw, dress
from pronk.learn.build import TrainConfig, make_learner, pick_precision
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
RATES = {"transformer 2017": 3e-4, "gpt": 3e-4}  # post-norm diverges at the others' rate
SYMBOLS = 64  # keys, and values; as many words of filler again twice


def shape(keys, goal, vocab, context, layers, heads=8):
    """The family's config whose parameters come nearest to the goal."""
    rows = [ModelConfig(vocab=vocab, width=w, layers=layers, heads=heads, context=context, **keys) for w in WIDTHS]
    return min(rows, key=lambda config: abs(math.log(count(build(config, "meta")) / goal)))


WIDTHS = range(64, 1025, 32)


def text_rows(total, length):
    """Rows of length + 1 ids cut from stories one after another, and the tokenizer."""
    sample = [story.text for story in stories(2000, seed=1)]
    tokenizer = learn_tokenizer(sample, "bytelevel", 2048)
    ids, seed = [], 2
    while len(ids) < total * length + 1:
        for one in tokenizer.encode_batch([story.text for story in stories(2000, seed=seed)]):
            ids += [tokenizer.bos, *one, tokenizer.eos]
        seed += 1
    whole = torch.tensor(ids[: total * length + 1])
    return torch.stack([whole[i * length : (i + 1) * length + 1] for i in range(total)]), tokenizer


def learner_for(model, name, steps, args):
    """Our own training path: bf16 where the device has it, compiled blocks, captured steps."""
    train = TrainConfig(steps=steps, batch=args.batch, device=args.device, compile=args.device == "cuda")
    optim = OptimConfig(lr=RATES.get(name, 1e-3), warmup=max(1, steps // 20))
    return make_learner(model, optim, train)


def trained(name, config, rows, steps, args):
    """The model after its steps, tokens a second past the first tenth, and peak MiB."""
    model = build(config, args.device, seed=0)
    learner = learner_for(model, name, steps, args)
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    skip, started = max(1, steps // 10), 0.0
    for step in range(steps):
        if step == skip:
            wait(args)
            started = time.perf_counter()
        picked = rows[torch.arange(step * args.batch, (step + 1) * args.batch) % len(rows)].to(args.device)
        tokens, targets = (picked[:, :-1], picked[:, 1:]) if picked.dim() == 2 else picked.unbind(1)
        learner.step(Batch(tokens.contiguous(), targets.contiguous()), cross_entropy)
    wait(args)
    pace = (steps - skip) * args.batch * tokens.shape[1] / (time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated() / 2**20 if args.device == "cuda" else 0.0
    return model, pace, peak


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


def decoding(model, rows, args):
    """Tokens a second of 64 answers at once, the second time."""
    dtype = torch.bfloat16 if pick_precision("auto", torch.device(args.device)) == "bf16" else None
    engine = Engine(model, slots=64, dtype=dtype)
    prompts, how = rows[:64, :32].tolist(), Sampling(args.new, seed=0)
    for _ in range(2):
        started = time.perf_counter()
        done = engine.generate(prompts, how)
        seconds = time.perf_counter() - started
    return sum(len(one.ids) for one in done) / seconds


def state_bytes(config, length=4096):
    """What the engine keeps of one sequence of this length, in bfloat16."""
    model = build(replace(config, context=max(length, config.context)), "meta").to(torch.bfloat16)
    state = model.new_state(1, length)
    held = state.stores.values() if config.family == "decoder" else [v for v in vars(state).values() if is_tensor(v)]
    return sum(tensor.nbytes for tensor in held)


def is_tensor(value):
    return isinstance(value, torch.Tensor)


# ── recall


def recall_rows(total, length, pairs, seed):
    """Tokens and targets [total, 2, length], and the distance of each asked value [total, length], 0 elsewhere.

    A row: filler; `pairs` keys with their values at random places, and again, their values asked, 64 tokens to the
    row's length later, each doubling of the distance as likely as another.
    """
    chance = torch.Generator().manual_seed(seed)
    tokens = torch.randint(2 * SYMBOLS, 4 * SYMBOLS, (total, length), generator=chance)
    targets, far = torch.full((total, length), IGNORE), torch.zeros(total, length, dtype=torch.int64)
    longest = length - 16
    for row in range(total):
        taken = set()
        for key in torch.randperm(SYMBOLS, generator=chance)[:pairs].tolist():
            draw_ = torch.rand(2, generator=chance).tolist()
            distance = round(min(64, longest // 2) * (longest / min(64, longest // 2)) ** draw_[0])
            start = int(draw_[1] * (length - distance - 2))
            places = {start, start + 1, start + distance, start + distance + 1}
            if places & taken:
                continue
            taken |= places
            value = SYMBOLS + int(torch.randint(SYMBOLS, (1,), generator=chance))
            for place in (start, start + distance):
                tokens[row, place], tokens[row, place + 1] = key, value
            targets[row, start + distance], far[row, start + distance] = value, distance
    return torch.stack((tokens, targets), 1), far


@torch.no_grad()
def recalled(model, rows, far, args):
    """Share of right answers for each doubling of the distance."""
    right, asked = {}, {}
    for part, distances in zip(rows.split(args.batch), far.split(args.batch)):
        with eager(model):
            output = model(part[:, 0].to(args.device))
        mine = distances > 0
        said = output.head(output.hidden[mine.to(args.device)]).argmax(-1).cpu()
        for ok, distance in zip((said == part[:, 1][mine]).tolist(), distances[mine].tolist()):
            bucket = 2 ** round(math.log2(distance))
            asked[bucket] = asked.get(bucket, 0) + 1
            right[bucket] = right.get(bucket, 0) + ok
    return {bucket: right[bucket] / asked[bucket] for bucket in sorted(asked)}


# ── all of it


def measure(name, keys, material, args):
    rows, validation, recall, recall_test = material
    config = shape(keys, args.goal, 2048, args.length, args.layers)
    model, pace, peak = trained(name, config, rows, args.steps, args)
    found = {"parameters": count(model), "width": config.width, "loss": loss_of(model, validation, args)}
    found |= {"tokens_per_second": pace, "mib": peak, "decoded_per_second": decoding(model, validation, args)}
    found["state_kib"] = state_bytes(config) / 1024
    far = recall[0].shape[2]
    small = ModelConfig(vocab=4 * SYMBOLS, width=args.recall_width, layers=4, heads=4, context=far, **keys)
    model, _, _ = trained(name, small, recall[0], args.recall_steps, replace_batch(args))
    found["recall"] = recalled(model, *recall_test, replace_batch(args))
    print(line(name, found), flush=True)
    return found


def replace_batch(args):
    """Long rows come fewer at a time."""
    return argparse.Namespace(**vars(args) | {"batch": args.recall_batch})


HEAD = f"{'':20} {'parameters':>11} {'loss':>7} {'tok/s':>10} {'decode':>9} {'MiB':>7} {'state KiB':>10}  recall"


def line(name, f):
    recall = " ".join(f"{distance}:{share:.2f}" for distance, share in f["recall"].items())
    return (
        f"{name:20} {f['parameters']:>11,} {f['loss']:7.4f} {f['tokens_per_second']:>10,.0f} "
        f"{f['decoded_per_second']:>9,.0f} {f['mib']:>7,.0f} {f['state_kib']:>10,.0f}  {recall}"
    )


def picture(found, path):
    """Recall against distance, a curve a family."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    colours = pyplot.get_cmap("tab20").colors
    for number, (name, facts) in enumerate(found.items()):
        distances = [math.log2(int(distance)) for distance in facts["recall"]]
        draw(axes, name, distances, list(facts["recall"].values()), colours[number % 20], "-" if number % 2 else "--")
    dress(axes, "Recall of a value seen once", "share of right answers", "tokens ago, log2", dark=False)
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=120, bbox_inches="tight")


def settings():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = {"steps": 2000, "recall-steps": 3000, "batch": 64, "recall-batch": 16, "length": 256, "far": 4112}
    numbers |= {"goal": 10_000_000, "layers": 8, "new": 192, "recall-width": 128, "pairs": 32}
    for name, value in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--only", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--out", default="out")
    args = parser.parse_args()
    args.device = "cuda"
    if args.toy:
        small = {"steps": 4, "recall_steps": 3, "batch": 4, "recall_batch": 4, "length": 48, "far": 144, "new": 8}
        small |= {"goal": 300_000, "layers": 2, "recall_width": 32, "pairs": 6, "device": "cpu"}
        args = argparse.Namespace(**vars(args) | small)
    return args


def main():
    args = settings()
    held = 16 if args.toy else 512
    rows, _ = text_rows(held + min(args.steps * args.batch, 40_000), args.length)
    enough = min(args.recall_steps * args.recall_batch, 8000)
    recall = recall_rows(enough, args.far, args.pairs, seed=0), recall_rows(held, args.far, args.pairs, seed=1)
    material = rows[held:], rows[:held], *recall
    print(HEAD)
    found = {name: measure(name, FAMILIES[name], material, args) for name in args.only}
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    device = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    (out / "families.json").write_text(json.dumps({"device": device, "families": found}, indent=2) + "\n")
    picture(found, out / "families.png")


if __name__ == "__main__":
    main()
