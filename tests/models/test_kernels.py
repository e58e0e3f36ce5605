"""Triton kernels against plain torch, in triton's interpreter: on a CPU where there is no GPU."""

import pytest
import torch
import torch.nn.functional as F

from models.interpret import DEVICE  # before any kernel

# isort: split
from pronk.models import kernels, kernels_attention, kernels_prefill
from pronk.models.attention import attend
from pronk.models.positions import rotate, whole


def noise(*shape, seed=0, by=1.0):
    return by * torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def near(found, wanted, by=2e-5):
    assert torch.isfinite(found).all()
    assert (found - wanted).norm() <= by * wanted.norm(), ((found - wanted).norm() / wanted.norm()).item()


@pytest.fixture(autouse=True)
def exact():
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize(("rows", "width", "out"), [(1, 300, 130), (1, 48, 40), (3, 48, 40), (70, 200, 130)])
@pytest.mark.parametrize("kind", ["plain", "norm", "gain", "bias add", "norm gate", "gain gate bias"])
def test_linear(rows, width, out, kind):
    gate = "gate" in kind
    x, weight = noise(rows, width), noise(out * (1 + gate), width, seed=1, by=width**-0.5)
    gain, eps = noise(width, seed=2) if "gain" in kind else None, 1e-3 if "norm" in kind or "gain" in kind else None
    bias = noise(len(weight), seed=3) if "bias" in kind else None
    add = noise(rows, out, seed=4) if "add" in kind else None
    wanted = F.linear(x if eps is None else F.rms_norm(x, (width,), gain, eps), weight, bias)
    if gate:
        left, right = wanted.chunk(2, dim=-1)
        wanted = F.silu(left) * right
    wanted = wanted if add is None else wanted + add
    found = kernels.linear(x, weight, eps, gain, bias, add, gate)
    near(found, wanted)
    assert add is None or found is add


@pytest.mark.parametrize("gate", [False, True])
def test_a_product_keeps_the_squares_that_the_next_norm_needs(gate):
    """o's or down's product into x, then a normed product of x that reads sums of squares in place of x's rows."""
    x, inner, matrix = noise(5, 72), noise(5, 40, seed=1), noise(72, 40, seed=2, by=40**-0.5)
    weight = noise(2 * 24, 72, seed=3, by=72**-0.5)
    wanted = x + F.linear(inner, matrix)
    squares = torch.full((5, kernels.pieces(72)), torch.nan, device=DEVICE)
    assert kernels.linear(inner, matrix, add=x, squares=squares) is x
    near(x, wanted)
    near(squares.sum(1), wanted.square().sum(1))
    normed = F.linear(F.rms_norm(wanted, (72,), None, 1e-3), weight)
    normed = F.silu(normed[:, :24]) * normed[:, 24:] if gate else normed
    near(kernels.linear(x, weight, 1e-3, gate=gate, squares=squares), normed)


def test_norm_and_gate():
    x, gain = noise(5, 300), noise(300, seed=1)
    near(kernels.norm(x, 1e-5, gain), F.rms_norm(x, (300,), gain, 1e-5))
    near(kernels.norm(x, 1e-5), F.rms_norm(x, (300,), None, 1e-5))
    near(kernels.norm(x, 1e-5, gain, noise(300, seed=2)), F.layer_norm(x, (300,), gain, noise(300, seed=2), 1e-5))
    near(kernels.active(x, "swiglu"), F.silu(x[:, :150]) * x[:, 150:])
    near(kernels.active(x, "gelu"), F.gelu(x, approximate="tanh"))
    near(kernels.active(x, "relu"), F.relu(x))


def test_embed():
    weight, table = noise(30, 70), noise(9, 70, seed=1)
    tokens, places = torch.tensor([[3], [29], [0]], device=DEVICE), torch.tensor([[8], [-1], [2]], device=DEVICE)
    assert torch.equal(kernels.embed(tokens, weight), weight[tokens[:, 0]])
    assert torch.equal(kernels.embed(tokens, weight, places, table), weight[[3, 29, 0]] + table[[8, 0, 2]])


SHAPES = {"gqa": (4, 2, 32), "mqa": (3, 1, 24), "mha": (2, 2, 48)}


def cache(shape, rows=4, columns=300):
    _, kv_heads, size, *_ = shape
    return noise(rows, kv_heads, columns, size, seed=7), noise(rows, kv_heads, columns, size, seed=8)


def tables(size, columns=300):
    angles = torch.outer(torch.arange(columns).float(), 1 / 100 ** (torch.arange(size // 2) / (size // 2)))
    return angles.cos().to(DEVICE), angles.sin().to(DEVICE)


def parts_of(qkv, shape, rotary, place):
    """Query, key and value [heads, size] of one token, turned."""
    heads, kv_heads, size, *_ = shape
    q, k, v = qkv.view(-1, size).split([heads, kv_heads, kv_heads])
    if rotary is not None:
        cosine, sine = whole(*(table[place : place + 1] for table in rotary))
        q, k = (rotate(x[None, :, None], cosine, sine)[0, :, 0] for x in (q, k))
    return q, k, v


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(("rotary", "parts"), [(True, 1), (False, 1), (True, 4)])
def test_decode_attention(shape, rotary, parts):
    """Rows of unequal length and one that nobody is in; only live columns are read, one is written."""
    shape = kernels_attention.Heads(*shape, 0.3)
    heads, kv_heads, size, scale, _ = shape
    places = torch.tensor([[0], [-1], [287], [5]], device=DEVICE)
    qkv, (keys, values) = noise(4, (heads + 2 * kv_heads) * size, seed=1), cache(shape)
    turn = tables(size) if rotary else None
    for row, (place,) in enumerate(places.tolist()):
        keys[row, :, place if place >= 0 else 0 :] = torch.nan  # not to be read
        values[row, :, place if place >= 0 else 0 :] = torch.nan
    before = keys.clone()
    found = kernels_attention.decode(qkv, shape, turn, places, keys, values, parts)
    for row, (place,) in enumerate(places.tolist()):
        if place < 0:
            assert torch.equal(keys[row].isnan(), before[row].isnan())
            continue
        q, k, v = parts_of(qkv[row], shape, turn, place)
        near(keys[row, :, place], k)
        near(values[row, :, place], v)
        near(keys[row, :, : place + 1].nan_to_num(), keys[row, :, : place + 1])
        assert keys[row, :, place + 1 :].isnan().all()
        args = (q[None, :, None], keys[row, None, :, : place + 1], values[row, None, :, : place + 1])
        seen = torch.ones(1, 1, 1, place + 1, dtype=torch.bool, device=DEVICE)
        near(found[row], attend(*args, seen, scale).flatten())


@pytest.mark.parametrize("parts", [1, 2])
def test_a_lane_a_column_gives_what_tensor_cores_give(parts):
    """For one query a key; the blocks of columns leave some over."""
    shape, places = kernels_attention.Heads(3, 3, 20, 0.3), torch.tensor([[0], [45], [150]], device=DEVICE)
    qkv, found = noise(3, 9 * 20, seed=1), []
    for blocks in ((True, 32, 1, 1), (True, 16, 2, 3), (False, 32, 2, 2)):
        keys, values = cache(shape, 3)
        found.append(kernels_attention.decode(qkv, shape, tables(20), places, keys, values, parts, blocks=blocks))
    near(found[0], found[2])
    near(found[1], found[2])


@pytest.mark.parametrize("parts", [1, 4])
def test_decode_attention_over_a_ring(parts):
    """Position p lies in column p modulo the window: all columns are seen but the token's own, which is overwritten."""
    shape, window = kernels_attention.Heads(2, 1, 16, 0.25), 70
    qkv, places = noise(3, 4 * 16, seed=1), torch.tensor([[69], [70], [205]], device=DEVICE)
    keys, values = cache(shape, 3, window + 1)
    for row, (place,) in enumerate(places.tolist()):
        keys[row, :, place % window], values[row, :, place % window] = torch.nan, torch.nan
        keys[row, :, window], values[row, :, window] = torch.nan, torch.nan  # nobody's
    found = kernels_attention.decode(qkv, shape, tables(16), places, keys, values, parts)
    for row, (place,) in enumerate(places.tolist()):
        q, k, v = parts_of(qkv[row], shape, tables(16), place)
        near(keys[row, :, place % window], k)
        near(values[row, :, place % window], v)
        seen = torch.ones(1, 1, 1, window, dtype=torch.bool, device=DEVICE)
        args = (q[None, :, None], keys[row, None, :, :window], values[row, None, :, :window])
        near(found[row], attend(*args, seen, shape.scale).flatten())


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("rotary", [True, False])
def test_packed_prefill(shape, rotary):
    """Prompts of unequal length one after another, one of them the continuation of what its row holds."""
    shape = kernels_attention.Heads(*shape, 0.3)
    heads, kv_heads, size, scale, _ = shape
    lengths, rows, starts = [1, 70, 20], [3, 0, 2], [0, 0, 40]
    qkv = noise(sum(lengths), (heads + 2 * kv_heads) * size, seed=1)
    plain = qkv.clone()
    keys, values = cache(shape)
    for row, start in zip(rows, starts):
        keys[row, :, start:], values[row, :, start:] = torch.nan, torch.nan
    turn = tables(size) if rotary else None
    places = torch.cat([torch.arange(s, s + n) for s, n in zip(starts, lengths)]).to(DEVICE)
    owners = torch.cat([torch.full((n,), row) for row, n in zip(rows, lengths)]).to(DEVICE)
    kernels_prefill.store(qkv, shape, turn, places, owners, keys, values)
    work = kernels_prefill.tiles(lengths, rows).to(DEVICE)
    found = kernels_prefill.attend(qkv, shape, places, work, keys, values)
    for token, (row, place) in enumerate(zip(owners.tolist(), places.tolist())):
        q, k, v = parts_of(plain[token], shape, turn, place)
        near(keys[row, :, place], k)
        near(values[row, :, place], v)
        if token % 9 and token not in (69, 70, 71):
            continue
        args = (q[None, :, None], keys[row, None, :, : place + 1], values[row, None, :, : place + 1])
        seen = torch.ones(1, 1, 1, place + 1, dtype=torch.bool, device=DEVICE)
        near(found[token], attend(*args, seen, scale).flatten())


def test_splits():
    """Few rows of long texts are cut, many rows or short texts are not."""
    assert kernels_attention.splits(1, 4, 256) == 1
    assert kernels_attention.splits(1, 4, 32768) == 64
    assert kernels_attention.splits(512, 12, 32768) == 1
    assert 4 <= kernels_attention.splits(16, 12, 32768) <= 16
