"""Training by cross-entropy written out, one row and one token at a time; shares no code with pronk.

logits: tokens [1, T] -> [1, T, V]. A batch is a list of rows (tokens, targets); a target None is not learned.
"""

import math

import torch


def learning_rate(step, steps, peak, warmup, final):
    """Linear from 0 in `warmup` steps, then a half cosine down to final * peak at the last step."""
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / (steps - 1 - warmup)
    return peak * (final + (1 - final) * (1 + math.cos(math.pi * done)) / 2)


def loss_of(logits, batch):
    total, count = 0.0, 0
    for tokens, targets in batch:
        scores = logits(torch.tensor([tokens]))[0]
        for t, target in enumerate(targets):
            if target is not None:
                chances = torch.exp(scores[t]) / torch.exp(scores[t]).sum()
                total = total - torch.log(chances[target])
                count += 1
    return total / count


def clip(parameters, limit):
    """Scale gradients down to a joint 2-norm of at most limit; returns the norm before."""
    norm = math.sqrt(sum((p.grad.double() ** 2).sum().item() for p in parameters))
    if norm > limit:
        for p in parameters:
            p.grad *= limit / norm
    return norm


def train(logits, matrices, vectors, batches, *, peak, warmup, final, steps, limit, decay, betas, eps):
    """One AdamW step a batch; matrices decay, vectors do not. Returns losses, gradient norms and learning rates."""
    groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, lr=peak, betas=betas, eps=eps, foreach=False)
    losses, norms, rates = [], [], []
    for step, batch in enumerate(batches):
        rates.append(learning_rate(step, steps, peak, warmup, final))
        for group in adam.param_groups:
            group["lr"] = rates[-1]
        adam.zero_grad()
        loss = loss_of(logits, batch)
        loss.backward()
        norms.append(clip([*matrices, *vectors], limit))
        adam.step()
        losses.append(loss.item())
    return losses, norms, rates
