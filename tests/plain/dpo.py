"""Direct preference optimisation (Rafailov et al. 2023) written out; shares no code with pronk.

policy, reference: tokens [1, T] -> logits [1, T, V]. A pair is (prompt, chosen, rejected), lists of token ids.
"""

import math

import torch


def log_probability(logits, prompt, answer):
    """log p(answer | prompt), the sum over its tokens; token t is predicted by the logits of place t - 1."""
    row = prompt + answer
    scores = logits(torch.tensor([row]))[0]
    total = 0.0
    for place in range(len(prompt), len(row)):
        before = scores[place - 1]
        total = total + before[row[place]] - torch.log(torch.exp(before).sum())
    return total


def loss_of(policy, reference, pairs, beta):
    total, right = 0.0, 0.0
    for prompt, chosen, rejected in pairs:
        with torch.no_grad():
            start = log_probability(reference, prompt, chosen) - log_probability(reference, prompt, rejected)
        now = log_probability(policy, prompt, chosen) - log_probability(policy, prompt, rejected)
        margin = beta * (now - start)
        total = total + torch.log(1 + torch.exp(-margin))
        right += float(margin > 0)
    return total / len(pairs), right / len(pairs)


def clip(parameters, limit):
    norm = math.sqrt(sum((p.grad.double() ** 2).sum().item() for p in parameters))
    if norm > limit:
        for p in parameters:
            p.grad *= limit / norm
    return norm


def train(policy, reference, parameters, batches, *, beta, rate, limit, betas, eps):
    """One Adam step a batch of pairs, constant rate, no decay. Returns losses, accuracies and gradient norms."""
    adam = torch.optim.AdamW(parameters, lr=rate, betas=betas, eps=eps, weight_decay=0.0, foreach=False)
    losses, accuracies, norms = [], [], []
    for pairs in batches:
        adam.zero_grad()
        loss, accuracy = loss_of(policy, reference, pairs, beta)
        loss.backward()
        norms.append(clip(parameters, limit))
        adam.step()
        losses.append(loss.item())
        accuracies.append(accuracy)
    return losses, accuracies, norms
