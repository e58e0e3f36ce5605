"""GRPO (Shao et al. 2024), Dr. GRPO, DAPO and RLOO written out token by token; no code of pronk.

policy, reference: tokens [1, T] -> logits [1, T, V]. A sample is (which prompt, prompt ids, answer ids, score).
"""

import math

import torch


def log_probabilities(logits, prompt, answer, temperature):
    scores = logits(torch.tensor([prompt + answer]))[0, len(prompt) - 1 : -1] / temperature
    return [s[token] - torch.log(torch.exp(s).sum()) for s, token in zip(scores, answer)]


def advantages_of(samples, scores, kind):
    """One number a sample, from the scores of the samples that answer the same prompt."""
    found = []
    for i, (name, *_) in enumerate(samples):
        group = [scores[j] for j, other in enumerate(samples) if other[0] == name]
        mean, n = sum(group) / len(group), len(group)
        if kind == "rloo":
            found.append(scores[i] - (sum(group) - scores[i]) / (n - 1))
        elif kind == "dr-grpo":
            found.append(scores[i] - mean)
        else:
            deviation = math.sqrt(sum((x - mean) ** 2 for x in group) / (n - 1))
            found.append((scores[i] - mean) / (deviation + 1e-4))
    return found


@torch.no_grad()
def prepare(policy, reference, samples, kind, *, temperature, beta):
    """What a round is learned from: (answer's prompt, answer, old, reference log-probabilities, advantage) each."""
    old = [[x.item() for x in log_probabilities(policy, p, a, temperature)] for _, p, a, _ in samples]
    ref = [[x.item() for x in log_probabilities(reference, p, a, temperature)] for _, p, a, _ in samples]
    scores = [s[3] for s in samples]
    if kind == "rloo":  # KL in the reward of the whole answer
        scores = [s - beta * sum(o - r for o, r in zip(*pair)) for s, pair in zip(scores, zip(old, ref))]
    advantages = advantages_of(samples, scores, kind)
    return [(p, a, *rest) for (_, p, a, _), *rest in zip(samples, old, ref, advantages)]


def loss_of(policy, batch, kind, *, temperature, low, high, beta, longest):
    total, tokens = 0.0, sum(len(answer) for _, answer, *_ in batch)
    for prompt, answer, old, ref, advantage in batch:
        new = log_probabilities(policy, prompt, answer, temperature)
        if kind == "rloo":
            ratio = torch.exp(sum(n - o for n, o in zip(new, old)))
            total = total - min(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage) / len(batch)
            continue
        weight = {"grpo": 1 / len(answer) / len(batch), "dr-grpo": 1 / longest / len(batch), "dapo": 1 / tokens}[kind]
        for n, o, r in zip(new, old, ref):
            ratio = torch.exp(n - o)
            surrogate = min(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)
            k3 = torch.exp(r - n) - (r - n) - 1  # KL in the loss
            total = total + weight * (beta * k3 - surrogate)
    return total
