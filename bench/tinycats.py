"""Aligning TinyStories (Phil Haeusler): REINFORCE toward "cat" by MiniLM similarity, held by KL to the first model.

usage: python bench/tinycats.py OUT [--sample tinystories-sample.txt] [--seed 0] [--toy]
       [--only speed|frontier] [--coefs 0.005,0.01]
Raises a GPT-Neo of the 33M shape on stories of our world, told in paragraphs as TinyStories are (and on those), prints
  speed     the script's work, 100 rounds of 1,000 sequences of 10 tokens, and rounds of 100 sequences of 250;
  frontier  five KL coefficients at 250 tokens: similarity, KL and what became of the stories, beside prompting.
The whole text is scored, prompt included, as in the script; its 10 and 250 tokens include the prompt, too.
"""

import copy
import json
import re
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise
from pathlib import Path

import torch

from pronk.data.records import Message, Prompt, Sample
from pronk.engine.engine import Engine
from pronk.engine.sequence import Sampling
from pronk.evals.stories import about_rate, distinct, wellformed_rate
from pronk.folders.huggingface import load
from pronk.learn.build import TrainConfig, make_learner, pick_device
from pronk.learn.fit import Every, fit
from pronk.learn.optim import OptimConfig
from pronk.models.heads import disable_dropout
from pronk.rl.algorithms import ALGORITHMS
from pronk.rl.kl import KLConfig
from pronk.rl.minilm import minilm
from pronk.rl.rollouts import RolloutConfig, RolloutSource
from pronk.world.check import sentences
from pronk.world.tell import stories
from pronk.world.words import KINDS

BEGIN = "Once upon a time there was"
ASKED = BEGIN + " a cat"
COEFS = (0.0, 0.01, 0.02, 0.05, 0.1)


@dataclass
class Work:
    """One way of aligning."""

    coef: float = 0.02
    rounds: int = 100
    rows: int = 1000
    tokens: int = 10  # of the whole sequence
    lr: float = 3e-5
    weight: float = 1.0


def raise_model(out, sample, toy, seed):
    """The first model, by the runs file; made once."""
    if (out / "pretrain" / "model").exists():
        return
    out.mkdir(parents=True, exist_ok=True)
    told = [in_paragraphs(story.text) for story in stories(300 if toy else 80_000, seed)]
    told += (
        filter(str.strip, re.split(r"(?<!\n)\n(?!\n)", Path(sample).read_text())) if sample else []
    )  # one line break between two
    (out / "stories.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in told))
    words = ["pretrain", "runs/tinycats-pretrain.toml", "--out", out / "pretrain", "--data", out / "stories.jsonl"]
    words += ["--train.seed", seed]
    small = "--model.width 32 --model.layers 2 --model.heads 2 --train.steps 20 --train.batch 4 --vocabulary.size 500"
    words += [*small.split(), "--train.no-compile", "--train.length", "128"] if toy else []
    subprocess.run([sys.executable, "-m", "pronk", *map(str, words)], check=True)


def in_paragraphs(text):
    """Three sentences each."""
    lines = sentences(text)
    return "\n\n".join(" ".join(lines[at : at + 3]) for at in range(0, len(lines), 3))


def as_told(text):
    """A story as the world's checker knows it: in one paragraph, and with a comma in the opening that the prompt,
    which is the script's, leaves out."""
    return " ".join(text.split()).replace(BEGIN, BEGIN.replace(" there", ", there"), 1)


@cache
def encoder():
    low = pick_device("auto").type == "cuda"
    encode = minilm((lambda: torch.autocast("cuda", torch.bfloat16)) if low else nullcontext)
    return encode, encode(["cat"])[0]


def similarity(samples: list[Sample]) -> list[float]:
    encode, cat = encoder()
    return (encode([s.prompt.messages[0].content + s.text for s in samples]) @ cat).tolist()


def align(first, tokenizer, work, seed, listen=None):
    """(aligned policy, seconds of each round)."""
    policy = copy.deepcopy(first).requires_grad_(True)
    disable_dropout(policy)
    optim = OptimConfig("adamw", lr=work.lr, warmup=2, weight_decay=0.0)
    learner = make_learner(policy, optim, TrainConfig(work.rounds, seed=seed, spike=0.0))
    algorithm, prompt = ALGORITHMS["reinforce"], Prompt((Message("user", BEGIN),))
    begin = [tokenizer.bos, *tokenizer.encode(BEGIN)]
    how = RolloutConfig(1, work.rows, work.tokens - len(begin) + 1, forward=work.rows)
    dtype = torch.bfloat16 if learner.precision == "bf16" else None
    kl = KLConfig(work.coef)
    source = RolloutSource(
        Engine(policy, tokenizer.decode, slots=work.rows, context=256, dtype=dtype),
        policy,
        [prompt],
        lambda prompt: begin,
        tokenizer.eos,
        {"similarity": (work.weight, similarity)},
        algorithm,
        how,
        kl=kl,
        reference=first if work.coef else None,
        seed=seed,
        listen=listen,
        compute=learner.compute,
    )
    ticks = [time.perf_counter()]

    def tick(step, metrics):
        if policy.embed.weight.is_cuda:
            torch.cuda.synchronize()
        ticks.append(time.perf_counter())

    fit(learner, source, algorithm.loss(1.0, source.settings, kl, how.max_tokens), [Every(1, tick)])
    return policy, [after - before for before, after in pairwise(ticks)]


def tell(engine, tokenizer, begins, count, tokens, seed):
    """`count` whole texts that go on from each of `begins`: [begins][count]."""
    asked = [[tokenizer.bos, *tokenizer.encode(begin)] for begin in begins]
    how = [Sampling(tokens - len(ids) + 1, 1.0, stop=(tokenizer.eos,), seed=seed, n=count) for ids in asked]
    found = engine.generate(asked, how)
    return [[begin + (x.text or "") for x in found[i * count :][:count]] for i, begin in enumerate(begins)]


def measured(texts):
    encode, cat = encoder()
    words = [word.strip('.,!?"').lower() for text in texts for word in text.split()]
    return {
        "similarity": float((encode(texts) @ cat).mean()),
        "about a cat": about_rate(texts, "cat"),
        "cat words per 100": 100 * sum(word in ("cat", "cats", "kitten", "kitty") for word in words) / len(words),
        "paragraphs": sum(text.strip().count("\n\n") + 1 for text in texts) / len(texts),
        "well formed": wellformed_rate([as_told(text) for text in texts]),
        "distinct-3": distinct(texts),
        "words": len(words) / len(texts),
    }


def kept(engine, tokenizer, count, tokens, seed):
    """Share of stories that stay with the animal that they began with."""
    others = [kind for kind in KINDS if kind != "cat"][:8]
    told = tell(engine, tokenizer, [f"{BEGIN} a {kind}" for kind in others], count // 8, tokens, seed)
    return sum(map(about_rate, told, others)) / len(others)


def drift(ours, theirs, tokenizer, count, tokens, seed):
    """KL of one engine's model to another's, nats a sequence."""
    ids = [tokenizer.bos, *tokenizer.encode(BEGIN)]
    found = ours.generate([ids], Sampling(tokens - len(ids) + 1, 1.0, stop=(tokenizer.eos,), seed=seed, n=count))
    whole = [done.prompt + done.ids for done in found]
    gaps = [sum(a) - sum(b) for a, b in zip(ours.score(whole), theirs.score(whole))]
    return sum(gaps) / len(gaps)


def show(name, facts):
    print(
        json.dumps({"row": name, **{k: round(v, 4) if isinstance(v, float) else v for k, v in facts.items()}}),
        flush=True,
    )


def median(values):
    return sorted(values)[len(values) // 2]


def speed(first, tokenizer, toy, seed):
    works = [Work(rounds=4, rows=8), Work(rounds=3, rows=4, tokens=40)]
    for work in works if toy else [Work(), Work(rounds=40, rows=100, tokens=250)]:
        align(first, tokenizer, replace(work, rounds=3), seed)  # kernels, graphs, encoder
        started = time.perf_counter()
        policy, seconds = align(first, tokenizer, work, seed)
        facts = {"rounds": work.rounds, "seconds": time.perf_counter() - started, "ms a round": 1e3 * median(seconds)}
        count = min(500, work.rows)
        (texts,) = tell(Engine(policy, tokenizer.decode, count), tokenizer, [BEGIN], count, work.tokens, seed + 1)
        facts |= {"similarity": measured(texts)["similarity"], "for example": texts[0]}
        show(f"{work.rows} x {work.tokens}", facts)


def frontier(first, tokenizer, toy, seed, coefs=COEFS):
    count, tokens = (8, 60) if toy else (256, 250)
    work = Work(rounds=2, rows=4, tokens=40) if toy else Work(rounds=80, rows=128, tokens=250, lr=1e-4)
    before = Engine(first, tokenizer.decode, count)
    for name, begin in (("first model", BEGIN), ("prompted with a cat", ASKED)):
        (texts,) = tell(before, tokenizer, [begin], count, tokens, seed + 1)
        facts = measured(texts) | {"named kept": kept(before, tokenizer, count, tokens, seed)}
        show(name, facts | {"for example": texts[0]})
    for coef in coefs:
        policy, seconds = align(first, tokenizer, replace(work, coef=coef), seed)
        after = Engine(policy, tokenizer.decode, count)
        (texts,) = tell(after, tokenizer, [BEGIN], count, tokens, seed + 1)
        facts = {"KL": drift(after, before, tokenizer, count, tokens, seed + 2), **measured(texts)}
        facts |= {"named kept": kept(after, tokenizer, count, tokens, seed), "ms a round": 1e3 * median(seconds)}
        show(f"KL coefficient {coef}", facts | {"for example": texts[0]})


if __name__ == "__main__":
    words = sys.argv[1:]
    said = {flag: words[words.index(flag) + 1] for flag in ("--sample", "--seed", "--only", "--coefs") if flag in words}
    out, toy, seed = Path(words[0]), "--toy" in words, int(said.get("--seed", 0))
    raise_model(out, said.get("--sample"), toy, seed)
    device = pick_device("auto")
    first, tokenizer = load(out / "pretrain" / "model", device)
    first.eval().requires_grad_(False)
    coefs = tuple(map(float, said["--coefs"].split(","))) if "--coefs" in said else COEFS
    for name, study in (("speed", speed), ("frontier", partial(frontier, coefs=coefs))):
        if said.get("--only", name) == name:
            study(first, tokenizer, toy, seed)
