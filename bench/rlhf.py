"""RLHF on the story world, where the truth is known: annotators, reward model, then six ways to spend it.

usage: python bench/rlhf.py OUT [--seed 0] [--toy] [--parts NAME...]; python bench/rlhf.py OUT... --draw PICTURE
Raises a storyteller, lets simulated people compare its answers, learns a reward model from them and aligns the
storyteller with it. Parts, in order: base, honest, dazzled, best, dpo-0.3, dpo-0.1, dpo-0.03, reinforce, rloo, grpo,
ppo, exploit; those after dazzled may run side by side. Each leaves OUT/NAME.json and is skipped where that is there.
--draw prints the table of one or more seeds and draws true utility (gold) and the reward model's score (proxy) against
the square root of KL (Gao et al. 2022, arXiv 2210.10760), with honest annotators and with such as foxes dazzle.
"""

import argparse
import json
import math
import statistics
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from pronk.cli import main
from pronk.commands import demo, pretrain, sft
from pronk.commands.answering import answer
from pronk.data.read import prompts as read_prompts
from pronk.engine.engine import Engine
from pronk.engine.score import score_rows
from pronk.engine.sequence import Sampling
from pronk.evals.comparisons import rank_correlation
from pronk.evals.stories import wellformed_rate
from pronk.folders.huggingface import load, load_scorer
from pronk.learn.build import TrainConfig, pick_device
from pronk.learn.track import read_metrics
from pronk.models.config import ModelConfig
from pronk.world.annotators import utility, wish_in

ALGORITHMS = {
    "reinforce": ("--optim.lr", "4e-4"),
    "rloo": ("--optim.lr", "4e-4"),
    "grpo": ("--optim.lr", "4e-4"),
    "ppo": ("--optim.lr", "2e-4", "--rl.epochs", "2", "--rollout.minibatch", "48"),
}
MUON = ("--optim.optimizer", "muon", "--optim.lr", 2e-3, "--optim.adam-lr", 2e-3)  # AdamW hardly learns (LOG.md)
QUIET = ("--train.save-every", 0, "--train.log-every", 100)
BETAS = (0.3, 0.1, 0.03)
DAZZLED = ("--dazzled", 4.0, "--dazzled-by", "fox")  # the animal that is truly liked least, so that what dazzles costs
ANSWER = 144  # tokens, at most
LOOKS = {"reinforce": ("#0072b2", "o"), "rloo": ("#56b4e9", "s"), "grpo": ("#009e73", "^"), "ppo": ("#d55e00", "D")}


@dataclass(frozen=True)
class Sizes:
    """Of everything that takes time."""

    width: int = 256
    layers: int = 6
    stories: int = 10_000
    requests: int = 50_000
    pretrain: int = 500  # steps
    sft: int = 2200
    rows: int = 32
    votes: int = 20_000
    pairs: int = 16  # of a step of the reward model; of DPO's, twice as many
    rounds: int = 100
    asked: int = 1000  # prompts of a measurement
    n: int = 64


TOY = Sizes(32, 2, 200, 200, 20, 20, 4, 40, 8, 2, 12, 4)


def pronk(*words):
    if code := main([str(word) for word in words]):
        raise SystemExit(f"pronk {words[0]} ended with {code}")


def truths(samples):
    return [utility(s.prompt.messages[-1].content, s.text) for s in samples]


@dataclass(frozen=True)
class Study:
    """A seed's models, prompts and sizes."""

    out: Path
    seed: int
    sizes: Sizes

    @property
    def folder(self):
        return self.out / "sft" / "model"

    @cached_property
    def first(self):
        return load(self.folder, pick_device("auto"))[0]

    @cached_property
    def tokenizer(self):
        return load(self.folder)[1]

    @cached_property
    def prompts(self):
        found = list(read_prompts(str(self.out / "world" / "prompts.jsonl")))
        return found[:: max(1, len(found) // self.sizes.asked)][: self.sizes.asked]

    @cached_property
    def before(self):
        """What the first model's answers are worth."""
        return truths(self.sample(self.first, self.seed + 60))

    def scorer(self, name="honest"):
        return load_scorer(self.out / name / "reward" / "model", pick_device("auto"))[0]

    def sample(self, model, seed, n=1, every=1):
        engine = Engine(model, self.tokenizer.decode, slots=1024)
        return answer(engine, self.tokenizer, self.prompts[::every], Sampling(ANSWER, 1.0, seed=seed, n=n))

    # ── what is learned

    def base(self):
        """A storyteller that does what is asked, and how well it tells at temperature 1."""
        s, out = self.sizes, self.out
        plan = demo.Config(str(out), self.seed, stories=s.stories, requests=s.requests)
        demo.write_world(plan, out / "world")
        shape = ModelConfig(width=s.width, layers=s.layers, heads=max(2, s.width // 32), context=256, rope_theta=500.0)
        train = TrainConfig(s.pretrain, s.rows, length=256, seed=self.seed, save_every=0, log_every=250)
        pretrain.run(replace(demo.pretraining(plan, out), model=shape, train=train))
        sft.run(replace(demo.tuning(plan, out), train=replace(train, steps=s.sft)))
        samples = self.sample(self.first, self.seed + 30)
        return {"well formed": wellformed_rate([sample.text for sample in samples])}

    def learn_rewards(self, name, *how):
        """Annotators judge pairs of the storyteller's answers; a reward model learns from them. Says how far to trust
        it on fresh answers: its rank correlation with true utility, among answers to prompts that leave the animal open
        (comparisons of answers to one prompt say nothing between two that ask for different things) and among all, and
        how often it orders two answers to a prompt as they truly are."""
        out, s = self.out / name, self.sizes
        words = ("--model", self.folder, "--prompts", self.out / "world" / "prompts.jsonl", "--votes", s.votes)
        words += ("--seed", self.seed, "--out", out / "pairs.jsonl", "--max-tokens", ANSWER, "--slots", 1024)
        pronk("annotate", *words, *how)
        words = ("--model", self.folder, "--data", out / "pairs.jsonl", "--epochs", 2, *MUON)
        words += ("--train.batch", s.pairs, "--train.seed", self.seed, *QUIET)
        pronk("reward", *words, "--out", out / "reward")
        fresh, scorer = self.sample(self.first, self.seed + 40, 2), self.scorer(name)
        scores, gold = score_rows(scorer, [one.prompt_ids + one.ids for one in fresh]), truths(fresh)
        free = [wish_in(one.prompt.messages[-1].content).kind is None for one in fresh]
        open_ones = [(a, b) for a, b, is_open in zip(gold, scores, free) if is_open]
        gaps = [(gold[i] - gold[i + 1], scores[i] - scores[i + 1]) for i in range(0, len(gold), 2)]
        decided = [a * b > 0 for a, b in gaps if abs(a) > 1e-9]
        report = json.loads((out / "reward" / "report.json").read_text())["validation"]
        return {
            "rank": rank_correlation(*zip(*open_ones)),
            "rank, all prompts": rank_correlation(gold, scores),
            "true order": sum(decided) / max(1, len(decided)),
            "accuracy": report["accuracy"]["value"],
        }

    def honest(self):
        return self.learn_rewards("honest") | {"row": {"first model": self.judged(self.folder)}}

    def dazzled(self):
        return self.learn_rewards("dazzled", *DAZZLED)

    # ── how it is spent

    def align(self, name, algorithm, judge, coef):
        """An RL run under a reward model, watched by the truth."""
        s, out = self.sizes, self.out / name
        words = ["--model", self.folder, "--prompts", self.out / "world" / "prompts.jsonl", "--algorithm", algorithm]
        words += ["--reward", f"model:{self.out / judge / 'reward' / 'model'}", "--gold", "utility", "--kl.coef", coef]
        words += ["--rollout.prompts", 24, "--rollout.n", 4, "--rollout.max-tokens", ANSWER, "--freeze", "embed"]
        steps = s.rounds * (4 if algorithm == "ppo" else 1)
        words += ["--train.steps", steps, "--optim.warmup", 2, "--train.save-every", 0, "--train.log-every", 1]
        pronk("rl", *words, *ALGORITHMS[algorithm], "--train.seed", self.seed, "--out", out)
        return out

    def aligned(self, algorithm):
        out = self.align(algorithm, algorithm, "honest", 0.5)
        return {"row": {algorithm: self.judged(out / "model")}, "curve": curve(out)}

    def exploit(self):
        """With dazzled annotators and hardly any KL: the proxy rises, the truth falls. What the run said of it."""
        out = self.align("exploit", "reinforce", "dazzled", 0.01)
        path = out / "health.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return {"curve": curve(out), "health": [json.loads(line) for line in lines]}

    def dpo(self, beta):
        out = self.out / f"dpo-{beta}"
        words = ("--model", self.folder, "--data", self.out / "honest" / "pairs.jsonl", "--beta", beta, "--epochs", 1)
        words += ("--optim.lr", 2e-4, "--train.batch", 2 * self.sizes.pairs, *QUIET)
        pronk("dpo", *words, "--train.seed", self.seed, "--out", out)
        return {"row": {f"dpo, beta {beta}": self.judged(out / "model")}}

    def best(self):
        """The best of n by the reward model, n = 1, 2, 4 ..; KL is its bound, log n - (n - 1) / n."""
        n, scorer = self.sizes.n, self.scorer()
        samples = self.sample(self.first, self.seed + 70, n, every=3)
        gold = np.array(truths(samples)).reshape(-1, n)
        proxy = np.array(score_rows(scorer, [s.prompt_ids + s.ids for s in samples])).reshape(-1, n)
        rows = {}
        for k in (2**i for i in range(int(math.log2(n)) + 1)):
            groups = proxy.reshape(-1, k), gold.reshape(-1, k)
            chosen = groups[0].argmax(1)
            picked = [group[np.arange(len(chosen)), chosen].mean() for group in groups]
            facts = {"utility": float(picked[1]), "proxy": float(picked[0]), "KL": math.log(k) - (k - 1) / k}
            rows[f"best of {k}"] = facts
        return {"row": rows}

    def judged(self, folder):
        """True utility of a model's answers with its standard error, wins against the first model, proxy and KL."""
        model, _ = load(folder, pick_device("auto"))
        samples = self.sample(model, self.seed + 50)
        whole = [s.prompt_ids + s.ids for s in samples]
        ours, theirs = Engine(model).score(whole), Engine(self.first).score(whole)
        starts = [len(s.prompt_ids) - 1 for s in samples]
        gaps = [sum(a[at:]) - sum(b[at:]) for a, b, at in zip(ours, theirs, starts)]
        gold, base = truths(samples), self.before
        return {
            "utility": float(np.mean(gold)),
            "error": float(np.std(gold) / math.sqrt(len(gold))),
            "wins": float(np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a, b in zip(gold, base)])),
            "proxy": float(np.mean(score_rows(self.scorer(), whole))),
            "KL": float(np.mean(gaps)),
            "well formed": wellformed_rate([s.text for s in samples]),
        }


def curve(out):
    """[sqrt KL, gold, proxy] of the rounds, smoothed over nine."""
    rows = [row for row in read_metrics(out) if "gold/mean" in row]
    columns = [np.array([row[key] for row in rows]) for key in ("kl/sequence", "gold/mean", "reward/mean")]
    window = min(9, len(rows))
    kl, gold, proxy = (np.convolve(column, np.ones(window) / window, "valid") for column in columns)
    return [np.sqrt(np.maximum(kl, 0)).tolist(), gold.tolist(), proxy.tolist()]


PARTS = {"base": Study.base, "honest": Study.honest, "dazzled": Study.dazzled, "best": Study.best}
PARTS |= {f"dpo-{beta}": lambda study, beta=beta: study.dpo(beta) for beta in BETAS}
PARTS |= {name: lambda study, name=name: study.aligned(name) for name in ALGORITHMS}
PARTS |= {"exploit": Study.exploit}


def work(out, seed, sizes, parts):
    """Each part into OUT/PART.json."""
    out.mkdir(parents=True, exist_ok=True)
    for part in parts:
        path = out / f"{part}.json"
        if not path.exists():
            facts = PARTS[part](Study(out, seed, sizes))
            path.write_text(json.dumps(facts, indent=1))
            print(json.dumps({"seed": seed, part: {k: v for k, v in facts.items() if k != "curve"}}), flush=True)


# ── the table and the picture


def tell(seeds):
    """The table: the mean over seeds, and their range of utility. seeds: for each, {part: facts}."""
    for name in ("well formed", "rank", "rank, all prompts", "true order", "accuracy"):
        found = [facts[part][name] for facts in seeds for part in ("base", "honest") if name in facts[part]]
        print(f"{name}: " + ", ".join(f"{value:.3f}" for value in found))
    for facts in seeds:
        named = [line for line in facts["exploit"]["health"] if "hacked" in line["health"]]
        print(f"exploit: {named[0] if named else 'not named'}")
    rows = [{name: row for part in facts.values() for name, row in part.get("row", {}).items()} for facts in seeds]
    for name in rows[0]:
        columns = {key: [row[name][key] for row in rows] for key in rows[0][name]}
        means = "  ".join(f"{key} {statistics.fmean(values):.2f}" for key, values in columns.items())
        curves = [facts[name]["curve"] for facts in seeds if name in ALGORITHMS]
        early = [at(math.sqrt(kl), curves) for kl in (1, 2, 4)] if curves else []
        print(f"{name:16} {min(columns['utility']):.2f} to {max(columns['utility']):.2f}  {means}  {early}")


def at(root, curves):
    """Gold where the curves first reach this root of KL, the mean; None where one never does."""
    reached = [next((gold for far, gold in zip(one[0], one[1]) if far >= root), None) for one in curves]
    return None if None in reached else round(statistics.fmean(reached), 2)


def draw(seeds, picture):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
    twin = right.twinx()
    for number, facts in enumerate(seeds):
        named = (lambda name: name) if not number else (lambda name: None)
        for name, (colour, mark) in LOOKS.items():
            roots, gold, _ = facts[name]["curve"]
            style = {"marker": mark, "markevery": max(1, len(roots) // 6), "markersize": 4, "lw": 1.0}
            left.plot(roots, gold, color=colour, label=named(name), **style)
        rows = {"best of n": list(facts["best"]["row"].values())}
        rows["dpo"] = [row for beta in BETAS for row in facts[f"dpo-{beta}"]["row"].values()]
        for name, style in (("dpo", {"ls": "", "marker": "v"}), ("best of n", {"ls": ":"})):
            far = [math.sqrt(max(0.0, row["KL"])) for row in rows[name]]
            left.plot(far, [row["utility"] for row in rows[name]], color="black", label=named(name), **style)
        roots, gold, proxy = facts["exploit"]["curve"]
        right.plot(roots, gold, color="#0072b2", label=named("true utility (gold)"))
        twin.plot(roots, proxy, "--", color="#d55e00", label=named("reward model (proxy)"))
    far = "√KL to the first model (nats)"
    left.set(title="Honest annotators", xlabel=far, ylabel="true utility")
    left.legend(frameon=False)
    right.set(title="Annotators dazzled by foxes, hardly any KL", xlabel=far, ylabel="true utility")
    twin.set_ylabel("reward model's score")
    lines = [line for axes in (right, twin) for line in axes.get_lines() if not line.get_label().startswith("_")]
    under = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.14), "ncols": 2}
    right.legend(lines, [line.get_label() for line in lines], frameon=False, **under)
    figure.tight_layout()
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("out", nargs="+", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--parts", nargs="+", choices=[*PARTS], default=[*PARTS])
    parser.add_argument("--draw")
    said = parser.parse_args()
    if said.draw:
        found = [{part: json.loads((out / f"{part}.json").read_text()) for part in PARTS} for out in said.out]
        tell(found)
        draw(found, said.draw)
    else:
        work(said.out[0], said.seed, TOY if said.toy else Sizes(), said.parts)
