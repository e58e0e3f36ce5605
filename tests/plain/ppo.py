"""PPO on a language model with its own critic (Ziegler et al. 2019; Huang et al. 2024) written out; no code of pronk.

policy, reference: tokens [1, T] -> logits [1, T, V]; critic: tokens [1, T] -> values [1, T].
A sample is (prompt, answer, rewards): token ids, and a reward for each token of the answer.
Everything is kept in lists of one number a token of the answer.
"""

import math

import torch


def log_probabilities(logits, prompt, answer, temperature):
    scores = logits(torch.tensor([prompt + answer]))[0, len(prompt) - 1 : -1] / temperature
    return [s[token] - torch.log(torch.exp(s).sum()) for s, token in zip(scores, answer)]


def values_of(critic, prompt, answer):
    """The value of the state before each token of the answer."""
    return list(critic(torch.tensor([prompt + answer]))[0, len(prompt) - 1 : -1])


def advantages_of(rewards, values, gamma, lam):
    """A_t = sum over l of (gamma lam)^l delta_{t+l}, by the definition; 0 is the value after the last token."""
    ahead = [*values[1:], 0.0]
    delta = [r + gamma * after - v for r, after, v in zip(rewards, ahead, values)]
    T = len(rewards)
    return [sum((gamma * lam) ** (s - t) * delta[s] for s in range(t, T)) for t in range(T)]


def whitened(lists):
    """Mean 0 and variance 1 over all tokens of the round."""
    flat = [x for row in lists for x in row]
    mean = sum(flat) / len(flat)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in flat) / len(flat) + 1e-8)
    return [[(x - mean) / deviation for x in row] for row in lists]


@torch.no_grad()
def prepare(policy, critic, reference, samples, *, temperature, beta, gamma, lam):
    """What a round is learned from: (prompt, answer, old log-probabilities, old values, advantages, returns) each."""
    old, values, advantages = [], [], []
    for prompt, answer, rewards in samples:
        old.append([x.item() for x in log_probabilities(policy, prompt, answer, temperature)])
        held = [x.item() for x in log_probabilities(reference, prompt, answer, temperature)]
        values.append([x.item() for x in values_of(critic, prompt, answer)])
        shaped = [r - beta * (p - q) for r, p, q in zip(rewards, old[-1], held)]  # KL (k1) in the reward
        advantages.append(advantages_of(shaped, values[-1], gamma, lam))
    returns = [[a + v for a, v in zip(*row)] for row in zip(advantages, values)]
    return list(zip([s[0] for s in samples], [s[1] for s in samples], old, values, whitened(advantages), returns))


def loss_of(policy, critic, batch, *, temperature, ratio, value, coef):
    total, count = 0.0, 0
    for prompt, answer, old, old_values, advantages, returns in batch:
        new = log_probabilities(policy, prompt, answer, temperature)
        for n, o, v, w, a, g in zip(new, old, values_of(critic, prompt, answer), old_values, advantages, returns):
            r = torch.exp(n - o)
            surrogate = min(r * a, max(min(r, torch.tensor(1 + ratio)), torch.tensor(1 - ratio)) * a)
            near = max(min(v, torch.tensor(w + value)), torch.tensor(w - value))
            total = total - surrogate + coef * 0.5 * max((v - g) ** 2, (near - g) ** 2)
            count += 1
    return total / count


def clip(parameters, limit):
    norm = math.sqrt(sum((p.grad.double() ** 2).sum().item() for p in parameters))
    if norm > limit:
        for p in parameters:
            p.grad *= limit / norm
    return norm


def train(loss, batches, groups, *, betas, eps):
    """One step a minibatch; groups are (parameters, rate, limit), each with a gradient norm of its own."""
    adam = torch.optim.AdamW(
        [{"params": p, "lr": rate} for p, rate, _ in groups], betas=betas, eps=eps, weight_decay=0.0, foreach=False
    )
    losses, norms = [], []
    for batch in batches:
        adam.zero_grad()
        found = loss(batch)
        found.backward()
        norms.append([clip(parameters, limit) for parameters, _, limit in groups])
        adam.step()
        losses.append(found.item())
    return losses, norms
