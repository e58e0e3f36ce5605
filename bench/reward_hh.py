"""Reward models on frozen sentence embeddings of real comparisons, cross-validated, beside the length baseline.

Usage: python bench/reward_hh.py ../shared/data/hh-harmless-1700.jsonl [folds, default 5] [seeds, default 3]
Needs [embed]. Features of an answer: MiniLM's vector of the answer, of the last question with the answer, both, and
both with the answer's length; standardised over all answers, without their labels. Heads: linear, and one hidden layer
of 64. Every head learns by the same Learner and bradley_terry as `pronk reward`, 300 steps of 128 comparisons; these
settings were not tuned. All comparisons of a dialogue are in one fold.
"""

import sys
import time

import torch
from torch import nn

from pronk.data.batch import IGNORE, Pairs
from pronk.data.pairs import dialogue_of, folds
from pronk.data.read import comparisons
from pronk.evals.comparisons import Judged, report
from pronk.learn.learner import Learner
from pronk.learn.losses import bradley_terry
from pronk.learn.optim import OptimConfig
from pronk.models.heads import Output
from pronk.rl.minilm import minilm

STEPS, BATCH = 300, 128
CONFIG = OptimConfig(lr=3e-3, warmup=20, schedule="linear", final=0.0, weight_decay=0.3)


class OnFeatures(nn.Module):
    """Features in the place of tokens, [B, 1, F] -> values [B, 1]."""

    def __init__(self, width, hidden):
        super().__init__()
        inside = [nn.Dropout(0.5), nn.Linear(width, hidden), nn.ReLU()] if hidden else []
        self.layers = nn.Sequential(*inside, nn.Linear(hidden or width, 1))

    def forward(self, tokens, positions=None, documents=None):
        return Output(tokens, None, values=self.layers(tokens)[..., 0])


def features(found):
    """{name: [N, 2, F]}, the chosen answer first."""
    encode = minilm()
    answers = [text for one in found for text in (one.chosen, one.rejected)]
    asked = [one.prompt[-1].content for one in found for _ in range(2)]
    alone = torch.tensor(encode(answers))
    after = torch.tensor(encode([f"{question}\n\n{answer}" for question, answer in zip(asked, answers)]))
    length = torch.tensor([len(text) for text in answers]).clamp(min=1).log()[:, None]
    sets = {"length alone": length, "answer": alone, "question and answer": after}
    sets |= {"both": torch.cat([alone, after], 1), "both and length": torch.cat([alone, after, length], 1)}
    return {name: standardised(x).view(len(found), 2, -1) for name, x in sets.items()}


def standardised(x):
    return (x - x.mean(0)) / x.std(0) / x.shape[1] ** 0.5


def learned(x, hidden, seed):
    torch.manual_seed(seed)
    model = OnFeatures(x.shape[-1], hidden)
    learner, loss = Learner(model, CONFIG, STEPS), bradley_terry()
    for _ in range(STEPS):
        rows = x[torch.randint(len(x), (BATCH,))][:, :, None]
        empty = torch.full((BATCH, 2, 1), IGNORE)
        learner.step(Pairs(rows, empty, last=torch.zeros(BATCH, 2, dtype=torch.int64)), loss)
    return model.eval()


@torch.no_grad()
def scores(model, x):
    return model(x.flatten(0, 1)[:, None]).values.view(-1, 2).tolist()


def cross_validated(found, x, parts, hidden, seeds):
    """Mean scores of the seeds' models, each comparison judged by models that saw nothing of its dialogue."""
    judged, known = [], []
    for held in parts:
        inside = set(held)
        others = [i for i in range(len(found)) if i not in inside]
        each = torch.tensor([scores(learned(x[others], hidden, s), x[held]) for s in range(seeds)]).mean(0).tolist()
        judged += [Judged(found[i], *both, dialogue_of(found[i])) for i, both in zip(held, each)]
        known += [found[i] for i in others]
    return report(judged, known)


def line(name, part):
    (low, high), value = part["by_prompt"], part["value"]
    return f"| {name} | {100 * value:.1f} % | {100 * low:.1f} to {100 * high:.1f} |"


def main(path, count=5, seeds=3):
    started = time.perf_counter()
    found = list(comparisons(path))
    parts = folds(found, count)
    print(f"{len(found)} comparisons, {len({dialogue_of(one) for one in found})} dialogues, {count} folds")
    table = features(found)
    print(f"embedded in {time.perf_counter() - started:.0f} s\n")
    print("| features, head | accuracy | 95 % by dialogue | log loss | calibration error | leans on length |")
    print("|---|---|---|---|---|---|")
    for name, x in table.items():
        for hidden in (0, 64):
            facts = cross_validated(found, x, parts, hidden, seeds)
            more = f" {facts['log_loss']:.4f} | {facts['calibration_error']:.3f} | {facts['length_correlation']:+.2f} |"
            print(line(f"{name}, {'one hidden layer' if hidden else 'linear'}", facts["accuracy"]) + more, flush=True)
    print(line(facts["baselines"]["length"]["rule"], facts["baselines"]["length"]) + " | | |")
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
