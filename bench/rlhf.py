"""RLHF on the story world, where the truth is known: annotators, reward model, then five ways to spend it.

usage: python bench/rlhf.py MODEL PROMPTS OUT [--seed 0] [--toy], MODEL and PROMPTS such as out/demo/sft/model and
out/demo/world/prompts.jsonl; python bench/rlhf.py OUT --draw draws again.
Prints a table of true utility at equal samples and at equal KL, and draws OUT/rlhf.png: true utility (gold) and the
reward model's score (proxy) against the square root of KL (Gao et al. 2022, arXiv 2210.10760), once with honest
annotators and once with such as exclamation marks dazzle.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np

from pronk.cli import main
from pronk.commands.answering import answer
from pronk.data.read import prompts as read_prompts
from pronk.engine.engine import Engine
from pronk.engine.score import score_rows
from pronk.engine.sequence import Sampling
from pronk.evals.comparisons import rank_correlation
from pronk.folders.huggingface import load, load_scorer
from pronk.learn.build import pick_device
from pronk.learn.track import read_metrics
from pronk.world.annotators import utility

ALGORITHMS = {
    "reinforce": ("--optim.lr", "6e-4"),
    "rloo": ("--optim.lr", "6e-4"),
    "grpo": ("--optim.lr", "6e-4"),
    "ppo": ("--optim.lr", "3e-4", "--rl.epochs", "2", "--rollout.minibatch", "48"),
}
MUON = ("--optim.optimizer", "muon", "--optim.lr", 2e-3, "--optim.adam-lr", 2e-3)  # AdamW hardly learns (LOG.md)
LOOKS = {"reinforce": ("#0072b2", "o"), "rloo": ("#56b4e9", "s"), "grpo": ("#009e73", "^"), "ppo": ("#d55e00", "D")}


def pronk(*words):
    if code := main([str(word) for word in words]):
        raise SystemExit(f"pronk {words[0]} ended with {code}")


class Study:
    """Models, prompts and sizes that all parts share."""

    def __init__(self, model, prompts, out, seed, toy):
        self.folder, self.prompts_file, self.out, self.seed = model, prompts, Path(out), seed
        self.votes, self.rounds, self.asked, self.n = (40, 2, 12, 4) if toy else (6000, 36, 300, 64)
        self.device = pick_device("auto")
        self.first, self.tokenizer = load(model, self.device)
        found = list(read_prompts(prompts))
        self.prompts = found[:: max(1, len(found) // self.asked)][: self.asked]

    def learn_rewards(self, name, *how):
        """Annotators judge pairs of the first model's answers; a reward model learns from them. Returns its folder."""
        out = self.out / name
        if not (out / "reward" / "model").exists():
            pairs = out / "pairs.jsonl"
            words = ("--model", self.folder, "--prompts", self.prompts_file, "--votes", self.votes, "--seed", self.seed)
            pronk("annotate", *words, "--out", pairs, "--max-tokens", 144, *how)
            words = ("--model", self.folder, "--data", pairs, "--epochs", 2, *MUON, "--train.seed", self.seed)
            pronk("reward", *words, "--out", out / "reward")
        return out / "reward" / "model"

    def align(self, name, algorithm, scorer, coef):
        """An RL run under the reward model, watched by the truth."""
        out = self.out / name / algorithm
        words = ["--model", self.folder, "--prompts", self.prompts_file, "--out", out, "--algorithm", algorithm]
        words += ["--reward", f"model:{scorer}", "--gold", "utility", "--kl.coef", coef, "--freeze", "embed"]
        words += ["--rollout.prompts", 24, "--rollout.n", 4, "--rollout.max-tokens", 144, "--train.seed", self.seed]
        steps = self.rounds * (4 if algorithm == "ppo" else 1)
        words += ["--train.steps", steps, "--optim.warmup", 2, "--train.save-every", 0, "--train.log-every", 1]
        pronk("rl", *words, *ALGORITHMS[algorithm])
        return out

    def sample(self, model, seed, n=1):
        engine = Engine(model, self.tokenizer.decode, slots=256)
        return answer(engine, self.tokenizer, self.prompts, Sampling(144, 1.0, seed=seed, n=n))

    def judged(self, folder, scorer):
        """True utility, proxy and KL of a model's answers, with the standard error of the first."""
        model, _ = load(folder, self.device)
        samples = self.sample(model, self.seed + 50)
        gold, proxy = truths(samples), score_rows(scorer, [s.prompt_ids + s.ids for s in samples])
        whole = [s.prompt_ids + s.ids for s in samples]
        ours, theirs = Engine(model).score(whole), Engine(self.first).score(whole)
        starts = [len(s.prompt_ids) - 1 for s in samples]
        gaps = [sum(a[at:]) - sum(b[at:]) for a, b, at in zip(ours, theirs, starts)]
        base = truths(self.sample(self.first, self.seed + 60))
        wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in zip(gold, base)]
        return {
            "utility": float(np.mean(gold)),
            "error": float(np.std(gold) / math.sqrt(len(gold))),
            "wins": float(np.mean(wins)),
            "proxy": float(np.mean(proxy)),
            "KL": float(np.mean(gaps)),
        }


def truths(samples):
    return [utility(s.prompt.messages[-1].content, s.text) for s in samples]


def best_of(study, scorer):
    """{n: (KL bound, gold, proxy)} from n samples a prompt, the best by the reward model."""
    n = study.n
    samples = study.sample(study.first, study.seed + 70, n)
    gold = np.array(truths(samples)).reshape(-1, n)
    proxy = np.array(score_rows(scorer, [s.prompt_ids + s.ids for s in samples])).reshape(-1, n)
    found = {}
    for k in (2**i for i in range(int(math.log2(n)) + 1)):
        groups = proxy.reshape(-1, k), gold.reshape(-1, k)
        best = groups[0].argmax(1)
        picked = [group[np.arange(len(best)), best].mean() for group in groups]
        found[k] = (math.log(k) - (k - 1) / k, float(picked[1]), float(picked[0]))
    return found


def curve(out):
    """(sqrt KL, gold, proxy) of each round, smoothed over nine."""
    rows = [row for row in read_metrics(out) if "gold/mean" in row]
    columns = [np.array([row[key] for row in rows]) for key in ("kl/sequence", "gold/mean", "reward/mean")]
    window = min(9, len(rows))
    kl, gold, proxy = (np.convolve(column, np.ones(window) / window, "valid") for column in columns)
    return np.sqrt(np.maximum(kl, 0)), gold, proxy


def at(root, curve_of):
    """Gold where the curve first reaches this root of KL; None where it never does."""
    roots, gold, _ = curve_of
    reached = np.nonzero(roots >= root)[0]
    return float(gold[reached[0]]) if len(reached) else None


def honest(study):
    folder = study.learn_rewards("honest")
    scorer, _ = load_scorer(folder, study.device)
    fresh = study.sample(study.first, study.seed + 40)
    trust = rank_correlation(truths(fresh), score_rows(scorer, [s.prompt_ids + s.ids for s in fresh]))
    print(json.dumps({"rank correlation of reward model and utility": round(trust, 3)}), flush=True)
    rows, curves = {}, {}

    def row(name, facts):
        rows[name] = facts
        print(json.dumps({"row": name} | {k: v if v is None else round(v, 3) for k, v in facts.items()}), flush=True)

    row("first model", study.judged(study.folder, scorer))
    for algorithm in ALGORITHMS:
        out = study.align("honest", algorithm, folder, 0.5)
        curves[algorithm] = curve(out)
        row(algorithm, study.judged(out / "model", scorer) | {"utility at KL 4": at(2.0, curves[algorithm])})
    points = []
    for beta in (0.3, 0.1, 0.03):
        out = study.out / "honest" / f"dpo-{beta}"
        words = ("--model", study.folder, "--data", study.out / "honest" / "pairs.jsonl", "--beta", beta, "--epochs", 1)
        pronk("dpo", *words, "--optim.lr", 2e-4, "--train.seed", study.seed, "--out", out)
        points.append(study.judged(out / "model", scorer))
        row(f"dpo, beta {beta}", points[-1])
    best = best_of(study, scorer)
    for k, (kl, gold, proxy) in best.items():
        row(f"best of {k}", {"utility": gold, "proxy": proxy, "KL": kl})
    return trust, rows, curves, points, best


def exploited(study):
    """The same with dazzled annotators and almost no KL: the proxy rises, the truth falls."""
    folder = study.learn_rewards("dazzled", "--dazzled", 1.5)
    return curve(study.align("dazzled", "reinforce", folder, 0.05))


def draw(out):
    """OUT/rlhf.png from OUT/rlhf.json."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    facts = json.loads((out / "rlhf.json").read_text())
    curves, points, best = facts["curves"], facts["dpo"], facts["best of n"]
    exploit = curves.pop("dazzled")
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
    for name, (roots, gold, _) in curves.items():
        colour, mark = LOOKS[name]
        left.plot(roots, gold, color=colour, marker=mark, markevery=8, markersize=4, lw=1.2, label=name)
    far = [math.sqrt(max(0, point["KL"])) for point in points]
    left.plot(far, [point["utility"] for point in points], "v--", color="#cc79a7", label="dpo")
    far, gold, _ = zip(*best.values())
    left.plot(np.sqrt(far), gold, "x:", color="black", label="best of n")
    left.set(title="Honest annotators", xlabel="√KL to the first model (nats)", ylabel="true utility")
    left.legend(frameon=False)
    roots, gold, proxy = exploit
    right.plot(roots, gold, color="#0072b2", label="true utility (gold)")
    twin = right.twinx()
    twin.plot(roots, proxy, "--", color="#d55e00", label="reward model (proxy)")
    right.set(
        title="Annotators dazzled by “!”, little KL", xlabel="√KL to the first model (nats)", ylabel="true utility"
    )
    twin.set_ylabel("reward model's score")
    lines = [*right.get_lines(), *twin.get_lines()]
    right.legend(lines, [line.get_label() for line in lines], frameon=False)
    figure.tight_layout()
    figure.savefig(out / "rlhf.png", dpi=110)


def thinned(values):
    return [round(float(value), 2) for value in values[:: max(1, len(values) // 8)]]


def study(model, prompts, out, seed, toy):
    """Everything, into OUT/rlhf.json; prints the table on the way."""
    work = Study(model, prompts, out, seed, toy)
    trust, rows, curves, points, best = honest(work)
    dazzled = exploited(work)
    print(json.dumps({"dazzled": {"gold": thinned(dazzled[1]), "proxy": thinned(dazzled[2])}}), flush=True)
    listed = {name: [column.tolist() for column in columns] for name, columns in {**curves, "dazzled": dazzled}.items()}
    facts = {"seed": seed, "rank correlation": trust, "rows": rows, "curves": listed, "dpo": points, "best of n": best}
    (work.out / "rlhf.json").write_text(json.dumps(facts, indent=1))


if __name__ == "__main__":
    words = sys.argv[1:]
    if "--draw" in words:
        draw(Path(words[0]))
    else:
        number = int(words[words.index("--seed") + 1]) if "--seed" in words else 0
        study(*words[:3], number, "--toy" in words)
        draw(Path(words[2]))
