"""KL estimators against the exact number by enumeration, their gradients, and the controller's units."""

import dataclasses

import pytest
import torch

from pronk.errors import UserError
from pronk.rl.kl import KLConfig, adapted, estimate, penalty

WORDS = 6


def policies(seed=0, apart=0.5):
    """Logits of a policy and of a reference near it, small vocabulary."""
    dice = torch.Generator().manual_seed(seed)
    theirs = torch.randn(WORDS, generator=dice, dtype=torch.float64)
    ours = theirs + apart * torch.randn(WORDS, generator=dice, dtype=torch.float64)
    return ours.requires_grad_(), theirs


def exact(ours, theirs):
    p, q = ours.log_softmax(-1), theirs.log_softmax(-1)
    return (p.exp() * (p - q)).sum()


def test_kl_estimators_match_exact_kl():
    """The mean of 100,000 samples, within four standard errors; k2's bias is small (pitfall 23)."""
    ours, theirs = (x.detach() for x in policies())
    p, gap = ours.softmax(-1), ours.log_softmax(-1) - theirs.log_softmax(-1)
    drawn = torch.multinomial(p, 100_000, replacement=True, generator=torch.Generator().manual_seed(1))
    kl = exact(ours, theirs).item()
    assert kl > 0.02
    for name in ("k1", "k3"):
        found = estimate(gap[drawn], name)
        assert abs(found.mean().item() - kl) < 4 * found.std().item() / 100_000**0.5
        assert (p * estimate(gap, name)).sum().item() == pytest.approx(kl, rel=1e-9)  # unbiased, by full enumeration
    assert (p * estimate(gap, "k2")).sum().item() == pytest.approx(kl, rel=0.2)
    assert (p * estimate(gap, "k2")).sum().item() != pytest.approx(kl, rel=1e-3)
    assert estimate(gap, "k3").min() >= 0
    assert estimate(gap, "k2").min() >= 0
    assert estimate(gap[drawn], "k3").var() < estimate(gap[drawn], "k1").var()


@pytest.mark.parametrize("seed", range(3))
def test_kl_gradients_when_kl_is_a_loss(seed):
    """By enumeration: k1 has none, k3 a biased one, k2 and k1 as a detached reward the true one (pitfall 24)."""
    ours, theirs = policies(seed, apart=1.5)
    (true,) = torch.autograd.grad(exact(ours, theirs), ours)

    def expected(of_each):
        """The gradient of the mean over samples, which are not differentiated through."""
        p = ours.softmax(-1).detach()
        return torch.autograd.grad((p * of_each(ours.log_softmax(-1))).sum(), ours)[0]

    gap = lambda logps: logps - theirs.log_softmax(-1)  # noqa: E731
    assert expected(lambda logps: estimate(gap(logps), "k1")).abs().max() < 1e-12
    assert torch.allclose(expected(lambda logps: estimate(gap(logps), "k2")), true, atol=1e-12)
    assert torch.allclose(expected(lambda logps: estimate(gap(logps), "k1").detach() * logps), true, atol=1e-12)
    # k1 times the ratio: samples of an older policy, weighed to the new one; the true gradient of the new one's KL
    old = (ours + 0.3 * torch.randn(WORDS, generator=torch.Generator().manual_seed(7), dtype=torch.float64)).detach()
    p = old.softmax(-1)
    each = penalty(ours.log_softmax(-1), old.log_softmax(-1), theirs.log_softmax(-1), "k1")
    (weighed,) = torch.autograd.grad((p * each).sum(), ours)
    assert torch.allclose(weighed, true, atol=1e-12)
    at_home = expected(lambda logps: penalty(logps, logps.detach(), theirs.log_softmax(-1), "k1"))
    assert torch.allclose(at_home, true, atol=1e-12)  # on policy, where the ratio is 1
    biased = expected(lambda logps: estimate(gap(logps), "k3"))
    assert torch.cosine_similarity(biased, true, dim=0) < 0.99
    assert (biased - true).norm() > 0.2 * true.norm()


def test_adaptive_controller_counts_in_sequences():
    """Far above the target the coefficient rises by exactly 20 % n / horizon, never more (Ziegler; pitfall 27)."""
    config = KLConfig(coef=0.1, adaptive=True, target=6.0, horizon=1000)
    assert adapted(0.1, config, kl=1e9, sequences=50) == pytest.approx(0.1 * (1 + 0.2 * 50 / 1000), rel=1e-12)
    assert adapted(0.1, config, kl=-1e9, sequences=50) == pytest.approx(0.1 * (1 - 0.2 * 50 / 1000), rel=1e-12)
    assert adapted(0.1, config, kl=6.0, sequences=50) == 0.1
    assert adapted(0.1, config, kl=6.6, sequences=50) == pytest.approx(0.1 * (1 + 0.1 * 50 / 1000), rel=1e-9)


def test_impossible_settings_are_refused():
    with pytest.raises(UserError, match=r"kl\.coef is -0\.1"):
        KLConfig(coef=-0.1)
    with pytest.raises(UserError, match=r"kl\.adaptive.*coef 0"):
        KLConfig(coef=0.0, adaptive=True)
    assert dataclasses.replace(KLConfig(), coef=0.0).coef == 0
