"""Cached equals uncached for every family; padding leaves no trace; memory is changed in place."""

import pytest
import torch

from pronk.models.logps import logits
from pronk.models.state import KVState

from .make import gap, make, tokens
from .oracles import MISTRAL, NEO, VARIANTS

FAMILIES = {
    "mha": {},
    "mqa": {"kv_heads": 1},
    "llama3.1": {"kv_heads": 2, "head_dim": 10, "rope_theta": 5e5, "rope_factor": 8.0, "rope_original": 16},
    "swiglu-single": {"feedforward": "swiglu-single"},
    "gpt2": VARIANTS["gpt2"],
    "neo": NEO | {"window": 3},
    "mistral": MISTRAL,
    "window of one": MISTRAL | {"window": 1},
    "window of the length": MISTRAL | {"window": 24},
    "window beyond": MISTRAL | {"window": 100, "window_every": 3},
    "phi": VARIANTS["phi grouped"],
    "qwen3": VARIANTS["qwen3"],
    "lstm": {"family": "lstm"},
    "gru": {"family": "gru"},
    "rnn with attention": {"family": "rnn", "recurrent_attention": True},
    "lstm with attention": {"family": "lstm", "recurrent_attention": True},
}
LENGTH = 24
LENGTHS = [9, 1, 6]  # of three prompts


@pytest.fixture(params=FAMILIES)
def model(request):
    return make(**FAMILIES[request.param])


def tensors(state):
    found = [*state.keys, *state.values] if isinstance(state, KVState) else vars(state).values()
    return [value for value in found if isinstance(value, torch.Tensor) and value.is_floating_point()]


def kept(tensor):
    """What a state remembers: the last column exists to swallow padding."""
    return tensor[..., :-1, :] if tensor.shape[-2] > LENGTH or tensor.dim() == 4 else tensor


def rows_of(tensor):
    """Keys and values lie as [rows, ..], vectors of recurrent layers as [layers, rows, width]."""
    return tensor if tensor.shape[0] == 5 else tensor.transpose(0, 1)


def dirty_state(model, rows):
    """What earlier sequences left behind must not matter."""
    state = model.new_state(rows, LENGTH)
    for tensor in tensors(state):
        tensor.fill_(3.0)
    return state


def padded(lengths, width, start=0):
    places = torch.arange(width).expand(len(lengths), width)
    return torch.where(places < torch.tensor(lengths)[:, None], places + start, -1)


@torch.no_grad()
def forward(model, x, positions, state):
    output = model(x, positions, state=state)
    return output.head(output.hidden)


def prefill(model, state, x, rows):
    got = forward(model, x[:, :9], padded(LENGTHS, 9), state.select(rows, 9, fresh=True))
    for row, n in enumerate(LENGTHS):
        assert gap(got[row, :n], logits(model, x[row : row + 1, :n])[0]) < 1e-5


def decode(model, state, x, rows, steps=8, start=LENGTHS):
    """Feed each row its next token, one at a time, and compare with the whole row without a state."""
    for step in range(steps):
        at = torch.tensor(start) + step
        got = forward(model, x.gather(1, at[:, None]), at[:, None], state.select(rows, int(at.max()) + 1))
        for row, n in enumerate(at.tolist()):
            assert gap(got[row, 0], logits(model, x[row : row + 1, : n + 1])[0, -1]) < 1e-5


@pytest.mark.parametrize("rows", [slice(1, 4), torch.tensor([4, 0, 2])], ids=["slice", "index"])
def test_cached_equals_uncached(model, rows):
    x, state = tokens(3, LENGTH), dirty_state(model, 5)
    prefill(model, state, x, rows)
    decode(model, state, x, rows)


def test_prefill_in_chunks_equals_whole(model):
    x, state, rows = tokens(3, LENGTH), dirty_state(model, 5), torch.tensor([3, 1, 0])
    whole = logits(model, x)
    for start, stop in [(0, 5), (5, 6), (6, 20)]:
        places = torch.arange(start, stop).expand(3, -1)
        got = forward(model, x[:, start:stop], places, state.select(rows, stop, fresh=start == 0))
        assert gap(got, whole[:, start:stop]) < 1e-5
    decode(model, state, x, rows, steps=4, start=[20, 20, 20])


def test_ragged_chunks_with_padding_equal_whole(model):
    x, state = tokens(3, LENGTH), dirty_state(model, 3)
    prefill(model, state, x, slice(0, 3))
    more = [3, 0, 5]  # the second row rests
    at = torch.tensor(LENGTHS)[:, None] + torch.arange(5)
    places = torch.where(torch.arange(5) < torch.tensor(more)[:, None], at, -1)
    got = forward(model, x.gather(1, at), places, state.select(slice(0, 3), 14))
    for row, n in enumerate(more):
        first = LENGTHS[row]
        assert gap(got[row, :n], logits(model, x[row : row + 1, : first + n])[0, first:]) < 1e-5 if n else True
    decode(model, state, x, slice(0, 3), steps=5, start=[12, 1, 11])


def test_copied_rows_continue_like_their_source(model):
    x, state = tokens(3, LENGTH), dirty_state(model, 6)
    prefill(model, state, x, slice(0, 3))
    state.copy(torch.tensor([0, 0, 2]), torch.tensor([4, 5, 3]))
    group = x[[0, 0, 2]].clone()
    group[1, 9:] = group[1, 9:].flip(0)  # two continuations of one prompt
    decode(model, state, group, torch.tensor([4, 5, 3]), start=[9, 9, 6])
    decode(model, state, x, slice(0, 3))


def test_padding_writes_nothing(model):
    x, state = tokens(3, LENGTH), dirty_state(model, 5)
    prefill(model, state, x, torch.tensor([4, 0, 2]))
    before = [tensor.clone() for tensor in tensors(state)]
    forward(model, x[:, :4], torch.full((3, 4), -1), state.select(torch.tensor([4, 0, 2]), 12))
    forward(model, x[:, :1], torch.full((3, 1), -1), state.select(torch.tensor([4, 0, 2]), 12))
    for now, then in zip(tensors(state), before):
        assert torch.equal(kept(now), kept(then))
        assert (rows_of(now)[[1, 3]] == 3.0).all()  # rows that were not selected


def test_right_pads_leave_free_columns_as_they_were(model):
    if model.config.family != "decoder":
        pytest.skip("a recurrent state has no columns")
    state = dirty_state(model, 3)
    prefill(model, state, tokens(3, LENGTH), slice(0, 3))
    for tensor in tensors(state):
        for row, n in enumerate(LENGTHS):
            assert (kept(tensor)[row, :, n:] == 3.0).all()
            assert not (kept(tensor)[row, :, :n] == 3.0).any()


def test_memory_is_changed_in_place(model):
    x, state = tokens(3, LENGTH), model.new_state(4, LENGTH)
    places = [tensor.data_ptr() for tensor in tensors(state)]
    prefill(model, state, x, slice(0, 3))
    decode(model, state, x, slice(0, 3), steps=2)
    state.copy(torch.tensor([0]), torch.tensor([3]))
    assert places == [tensor.data_ptr() for tensor in tensors(state)]
    assert places == [tensor.data_ptr() for tensor in tensors(state.select(slice(1, 2), 3))]


@pytest.mark.parametrize(("window", "every"), [(3, 1), (5, 2)])
def test_a_ring_is_never_longer_than_its_window(window, every):
    state = make(window=window, window_every=every).new_state(2, LENGTH)
    sizes = [keys.shape[2] - 1 for keys in state.keys]
    assert sizes == ([3, 3, 3] if every == 1 else [LENGTH, 5, LENGTH])
    assert sum(store.numel() for store in state.stores.values()) == sum(2 * 2 * 4 * (size + 1) * 8 for size in sizes)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 16, 40])
def test_chunks_of_any_size_over_many_wraps(chunk):
    """120 tokens through windows of 5 and of all, rows of other lengths, one of them with its prompt longer."""
    model, x, lengths = make(**NEO), tokens(3, 120), [120, 61, 7]
    state, whole = model.new_state(4, 120), logits(model, x)
    for start in range(0, 120, chunk):
        stop = min(start + chunk, 120)
        places = torch.arange(start, stop).expand(3, -1)
        places = torch.where(places < torch.tensor(lengths)[:, None], places, -1)
        got = forward(model, x[:, start:stop], places, state.select(torch.tensor([3, 0, 1]), stop, fresh=start == 0))
        real = places >= 0
        assert gap(got[real], whole[:, start:stop][real]) < 1e-4


def test_rings_are_shared_and_moved_like_columns():
    """A prompt longer than the window, shared by rows that go on differently, while another row is moved."""
    model, x = make(**NEO), tokens(3, 60)
    state, rows = model.new_state(5, 60), slice(0, 3)
    forward(model, x[:, :33], padded([33, 8, 20], 33), state.select(rows, 33, fresh=True))
    state.select(slice(0, 5), 33).copy(torch.tensor([0, 1]), torch.tensor([3, 1]))
    other = x[[1, 2, 0]].clone()
    other[2, 33:] = other[2, 33:].flip(0)
    for step in range(25):
        at = torch.tensor([8, 20, 33]) + step
        got = forward(model, other.gather(1, at[:, None]), at[:, None], state.select(torch.tensor([1, 2, 3]), 60))
        for row, n in enumerate(at.tolist()):
            assert gap(got[row, 0], logits(model, other[row : row + 1, : n + 1])[0, -1]) < 1e-4


def test_continuing_without_positions_is_refused():
    model = make()
    with pytest.raises(ValueError, match="needs positions"):
        model(tokens(2, 3), state=model.new_state(2, LENGTH))


def test_state_takes_the_weights_type():
    assert make().to(torch.bfloat16).new_state(1, 4).keys[0].dtype == torch.bfloat16
    assert make(family="lstm").to(torch.bfloat16).new_state(1, 4).vectors.dtype == torch.bfloat16
