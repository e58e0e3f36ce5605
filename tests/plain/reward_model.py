"""A Bradley-Terry reward model (Ouyang et al. 2022, eq. 1) written out; shares no code with pronk.

values: tokens [1, T] -> one number a token [1, T]. A comparison is (chosen, rejected, strength), lists of token ids:
whole conversations, each scored alone at its last token. Strength 0 is a tie: half a win each way.
"""

import math

import torch


def score(values, row):
    return values(torch.tensor([row]))[0, len(row) - 1]


def loss_of(values, comparisons, margin):
    total, right, decided = 0.0, 0.0, 0
    for chosen, rejected, strength in comparisons:
        gap = score(values, chosen) - score(values, rejected)
        if strength == 0:
            total = total + 0.5 * torch.log(1 + torch.exp(-gap)) + 0.5 * torch.log(1 + torch.exp(gap))
            continue
        total = total + torch.log(1 + torch.exp(-(gap - margin * (strength - 1))))
        right += float(gap > 0)
        decided += 1
    return total / len(comparisons), right / decided


def clip(parameters, limit):
    norm = math.sqrt(sum((p.grad.double() ** 2).sum().item() for p in parameters))
    if norm > limit:
        for p in parameters:
            p.grad *= limit / norm
    return norm


def train(values, parameters, batches, *, margin, rate, limit, betas, eps):
    """One Adam step a batch, constant rate, no decay. Returns losses, accuracies and gradient norms."""
    adam = torch.optim.AdamW(parameters, lr=rate, betas=betas, eps=eps, weight_decay=0.0, foreach=False)
    losses, accuracies, norms = [], [], []
    for comparisons in batches:
        adam.zero_grad()
        loss, accuracy = loss_of(values, comparisons, margin)
        loss.backward()
        norms.append(clip(parameters, limit))
        adam.step()
        losses.append(loss.item())
        accuracies.append(accuracy)
    return losses, accuracies, norms


def centre(values, rows):
    """What to add to every score so that these rows' mean is 0."""
    with torch.no_grad():
        return -sum(score(values, row).item() for row in rows) / len(rows)
