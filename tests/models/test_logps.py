"""Losses read logits in chunks and equal the plain formulas, gradients included."""

import math

import pytest
import torch
import torch.nn.functional as F

from pronk.models import logps as module
from pronk.models.heads import Head, Output
from pronk.models.logps import IGNORE, cross_entropy, exact_kl, logits, logps

from .make import gap, make

B, T, D, V = 3, 7, 4, 5


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def head(seed=1, vocab=V, width=D):
    made = Head(vocab, width)
    made.weight.data = random(vocab, width, seed=seed)
    return made


def output(seed=0):
    return Output(random(B, T, D, seed=seed).requires_grad_(), head(seed + 1))


@pytest.fixture
def targets():
    wanted = torch.randint(V, (B, T), generator=torch.Generator().manual_seed(2))
    wanted[0, :3] = wanted[1, 5:] = wanted[2, 3] = IGNORE
    return wanted


@pytest.fixture(params=[1, 11, 1 << 23], ids=["one-row chunks", "two-row chunks", "one chunk"])
def chunk(request, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", request.param)


def dense(output, temperature=1.0):
    return (output.head(output.hidden) / temperature).log_softmax(-1)


def test_dense_cross_entropy_is_the_same_with_zeros_for_what_is_ignored(targets, chunk):
    out = output()
    total, losses = cross_entropy(out, targets)
    dense_total, dense_losses = cross_entropy(out, targets, dense=True)
    assert gap(dense_total, total) < 1e-5
    assert torch.equal(dense_losses.view(B, T) == 0, targets == IGNORE)
    assert gap(dense_losses[targets.flatten() != IGNORE], losses) < 1e-6
    assert_same_gradients(dense_total, total, out)


def test_a_frozen_head_costs_no_gradient_and_changes_none(targets, chunk):
    """As under LoRA: what flows to the hidden states is the same."""
    out, frozen = output(), output()
    frozen.head.weight.requires_grad_(False)
    for one in (out, frozen):
        cross_entropy(one, targets)[0].backward()
    assert torch.equal(out.hidden.grad, frozen.hidden.grad)
    assert out.head.weight.grad is not None and frozen.head.weight.grad is None


def test_a_head_widened_for_a_gpu_is_the_same(targets, monkeypatch):
    def slopes():
        out = Output(random(B, T, D).requires_grad_(), Head(V, D, biased=True))
        out.head.weight.data, out.head.bias.data = random(V, D, seed=1), random(V, seed=2)
        total, _ = cross_entropy(out, targets)
        return torch.autograd.grad(total, [out.hidden, out.head.weight, out.head.bias])

    wanted = slopes()
    monkeypatch.setattr(module, "_widening", lambda weight: 3)
    assert all(gap(a, b) < 1e-6 for a, b in zip(slopes(), wanted, strict=True))


@pytest.mark.parametrize("dense", [False, True], ids=["kept", "dense"])
def test_a_biased_head_learns_its_bias(targets, chunk, dense):
    """Phi's: the sum and all three gradients as the plain formula gives them."""
    out = Output(random(B, T, D).requires_grad_(), Head(V, D, biased=True))
    out.head.weight.data, out.head.bias.data = random(V, D, seed=1), random(V, seed=2)
    parts = [out.hidden, out.head.weight, out.head.bias]
    total, _ = cross_entropy(out, targets, dense)
    plain = F.cross_entropy(out.head(out.hidden).flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum")
    assert gap(total, plain) < 1e-5
    for one, other in zip(torch.autograd.grad(total, parts), torch.autograd.grad(plain, parts)):
        assert gap(one, other) < 1e-5


def picked(all_logps, targets):
    found = all_logps.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    return torch.where(targets == IGNORE, 0.0, found)


def gradients(value, output):
    return torch.autograd.grad(value, [output.hidden, output.head.weight], retain_graph=True)


def assert_same_gradients(value, expected, output):
    for one, other in zip(gradients(value, output), gradients(expected, output)):
        assert gap(one, other) < 1e-5


def test_logp_of_token_t_comes_from_logits_before_it():
    model = make(vocab=V)
    model.embed.weight.data *= 0.2  # logits near one, so that float32 holds them to 1e-7
    x = torch.randint(V, (2, 6), generator=torch.Generator().manual_seed(0))
    targets = x.roll(-1, 1)
    targets[:, -1] = IGNORE
    with torch.no_grad():
        found, entropy = logps(model(x), targets)
        losses = cross_entropy(model(x), targets)[1].view(2, 5)
    for row in range(2):
        for t in range(1, 6):
            scores = [s.item() for s in logits(model, x[row : row + 1, :t])[0, -1]]
            total = sum(math.exp(s) for s in scores)
            each = [math.log(math.exp(s) / total) for s in scores]
            assert found[row, t - 1].item() == pytest.approx(each[x[row, t]], abs=1e-6)
            assert losses[row, t - 1].item() == pytest.approx(-each[x[row, t]], abs=1e-6)
            assert entropy[row, t - 1].item() == pytest.approx(-sum(math.exp(e) * e for e in each), abs=1e-6)
    assert found[:, -1].tolist() == [0, 0]


@pytest.mark.usefixtures("chunk")
def test_cross_entropy_equals_torch(targets):
    out = output()
    total, losses = cross_entropy(out, targets)
    scores = out.head(out.hidden).flatten(0, 1)
    expected = F.cross_entropy(scores, targets.flatten(), ignore_index=IGNORE, reduction="none")
    assert gap(losses, expected[targets.flatten() != IGNORE].detach()) < 1e-5
    assert not losses.requires_grad
    assert_same_gradients(total * 0.3, expected.sum() * 0.3, out)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
def test_logps_and_entropy_equal_the_formula(targets, temperature):
    out, keep = output(), targets != IGNORE
    found, entropy = logps(out, targets, temperature)
    all_logps = dense(out, temperature)
    expected = picked(all_logps, targets)
    plain = torch.where(keep, -(all_logps.exp() * all_logps).sum(-1), 0.0)
    assert gap(found, expected) < 1e-5
    assert gap(entropy, plain) < 1e-5
    assert ((entropy >= 0) & (entropy <= math.log(V) + 1e-6)).all()
    weights = random(B, T, seed=9)
    assert_same_gradients((found * weights).sum(), (expected * weights).sum(), out)
    assert_same_gradients((entropy * weights).sum(), (plain * weights).sum(), out)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("first", [0, 2])
def test_dense_logps_are_the_same_with_zeros_for_what_is_ignored(targets, first):
    """first: columns in front of which nothing is a target are left out."""
    out, targets = output(), targets.clone()
    targets[:, :first] = IGNORE
    found, wanted = logps(out, targets, 0.7, dense=True, first=first), logps(out, targets, 0.7)
    for ours, theirs in zip(found, wanted):
        assert gap(ours, theirs) < 1e-6
        assert_same_gradients((ours * random(B, T, seed=9)).sum(), (theirs * random(B, T, seed=9)).sum(), out)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_exact_kl_equals_the_full_sum(targets, temperature):
    out, reference = output(), output(20)
    forward, backward = exact_kl(out, reference, targets, temperature)
    p, q = dense(out, temperature), dense(reference, temperature).detach()
    keep = targets != IGNORE
    expected = (
        F.kl_div(q, p, log_target=True, reduction="none").sum(-1),
        F.kl_div(p, q, log_target=True, reduction="none").sum(-1),
    )
    for found, plain in zip((forward, backward), expected):
        plain = torch.where(keep, plain, 0.0)
        assert gap(found, plain) < 1e-5
        assert (found >= 0).all()
        assert_same_gradients((found * random(B, T, seed=9)).sum(), (plain * random(B, T, seed=9)).sum(), out)
    assert torch.autograd.grad(forward.sum(), reference.hidden, allow_unused=True) == (None,)


def test_kl_of_a_distribution_with_itself_is_zero(targets):
    out = output()
    forward, backward = exact_kl(out, out, targets)
    assert forward.abs().max() == 0
    assert backward.abs().max() == 0
    assert max(g.abs().max() for g in gradients(forward.sum(), out)) < 1e-6


def test_gradients_equal_finite_differences(targets, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 11)
    step, direction = 1e-2, random(B, T, D, seed=5)
    losses = {
        "cross_entropy": lambda o: cross_entropy(o, targets)[0],
        "logps": lambda o: logps(o, targets, 0.8)[0].sum(),
        "entropy": lambda o: logps(o, targets, 0.8)[1].sum(),
        "forward kl": lambda o: exact_kl(o, output(20), targets)[0].sum(),
        "backward kl": lambda o: exact_kl(o, output(20), targets)[1].sum(),
    }
    for name, loss in losses.items():
        out = output()
        slope = (torch.autograd.grad(loss(out), out.hidden)[0] * direction).sum().item()
        with torch.no_grad():
            ahead = loss(out._replace(hidden=out.hidden + step * direction))
            behind = loss(out._replace(hidden=out.hidden - step * direction))
        assert (ahead - behind).item() / (2 * step) == pytest.approx(slope, rel=1e-2, abs=1e-2), name


def test_all_masked_batch_gives_zero_not_nan():
    out, nothing = output(), torch.full((B, T), IGNORE)
    total, losses = cross_entropy(out, nothing)
    assert total.item() == 0
    assert len(losses) == 0
    sums = [total, *(part.sum() for part in (*logps(out, nothing), *exact_kl(out, output(20), nothing)))]
    for value in sums:
        assert value.item() == 0
        for gradient in gradients(value, out):
            assert gradient.abs().max() == 0


def test_ignored_positions_have_no_gradient(targets):
    out = output()
    for value in (
        cross_entropy(out, targets)[0],
        logps(out, targets)[0].sum(),
        exact_kl(out, output(9), targets)[1].sum(),
    ):
        gradient = gradients(value, out)[0]
        assert gradient[targets == IGNORE].abs().max() == 0
        assert (gradient[targets != IGNORE].abs().sum(-1) > 0).all()


def test_ignored_positions_may_hold_anything(targets):
    out = output()
    spoiled = out._replace(hidden=out.hidden.detach().masked_fill((targets == IGNORE)[..., None], math.nan))
    assert gap(cross_entropy(out, targets)[0], cross_entropy(spoiled, targets)[0]) == 0
    assert gap(logps(out, targets)[0], logps(spoiled, targets)[0]) == 0


def test_log_softmax_in_float32_under_bf16():
    vocab, width = 2000, 64
    hidden, weight = random(1, 40, width).bfloat16(), head(vocab=vocab, width=width).weight.data.bfloat16() / 4
    targets = torch.randint(vocab, (1, 40), generator=torch.Generator().manual_seed(0))
    low, high = head(vocab=vocab, width=width), head(vocab=vocab, width=width)
    low.weight.data, high.weight.data = weight, weight.float()
    bound = 2 * (hidden.float() @ weight.float().T).abs().max().item() * 2**-8  # the logits' own rounding, twice
    found, entropy = logps(Output(hidden, low), targets)
    exact, exact_entropy = logps(Output(hidden.float(), high), targets)
    assert found.dtype == entropy.dtype == torch.float32
    assert gap(found, exact) < bound
    assert gap(entropy, exact_entropy) < bound
    assert gap(cross_entropy(Output(hidden, low), targets)[1], -exact[0]) < bound
    every = torch.arange(vocab)[None]
    alike = Output(hidden[:, :1].expand(1, vocab, width), low)
    assert logps(alike, every)[0].exp().sum().item() == pytest.approx(1, abs=1e-4)  # bf16 would be off by 1e-2


def test_gradients_under_bf16_stay_close():
    out, targets = output(), torch.randint(V, (B, T), generator=torch.Generator().manual_seed(3))
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = cross_entropy(out, targets)
    exact = gradients(cross_entropy(out, targets)[0], out)
    for one, other in zip(gradients(total, out), exact):
        assert one.dtype == torch.float32
        assert gap(one, other) < 0.02 * other.abs().max() + 0.02


def test_nothing_of_tokens_by_vocabulary_is_kept_for_backward(monkeypatch):
    tokens, vocab, width = 128, 512, 8
    monkeypatch.setattr(module, "CHUNK", 4 * vocab)
    out = Output(random(1, tokens, width).requires_grad_(), head(vocab=vocab, width=width))
    reference = Output(random(1, tokens, width, seed=3), head(7, vocab=vocab, width=width))
    targets = torch.randint(vocab, (1, tokens), generator=torch.Generator().manual_seed(0))
    for loss in (
        lambda: cross_entropy(out, targets)[0],
        lambda: sum(part.sum() for part in logps(out, targets)),
        lambda: sum(part.sum() for part in exact_kl(out, reference, targets)),
    ):
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.numel()) or t, lambda t: t):
            value = loss()
        assert max(kept, default=0) < tokens * vocab / 8
        assert sum(kept) < tokens * vocab
        value.backward()


def test_evaluation_makes_no_gradient(monkeypatch):
    out, targets = output(), torch.zeros(B, T, dtype=torch.long)
    calls = []
    plain = torch.zeros_like
    monkeypatch.setattr(torch, "zeros_like", lambda *args, **keys: calls.append(1) or plain(*args, **keys))
    with torch.no_grad():
        cross_entropy(out, targets)
    assert not calls
    cross_entropy(out, targets)[0].backward()
    assert calls


def test_logits_are_for_looking():
    assert not logits(make(), torch.zeros(1, 3, dtype=torch.long)).requires_grad
