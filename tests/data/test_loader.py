"""The loader: documents apart, targets right, and a position that survives other batch sizes and rank counts."""

import json
from itertools import islice

import pytest
import torch

from pronk.data.batch import IGNORE, Batch
from pronk.data.loader import Loader, evaluation
from pronk.errors import UserError

from .make import PAD, counted

LENGTHS = [7, 3, 40, 2, 1, 12, 5, 5, 9, 25, 3, 18]
MODES = [
    {"order": "packed", "fill": "split"},
    {"order": "packed", "fill": "whole"},
    {"order": "windows"},
]
modes = pytest.mark.parametrize("mode", MODES, ids=["split", "whole", "windows"])


@pytest.fixture
def shards(tmp_path):
    return counted(tmp_path / "stories", LENGTHS)


@pytest.fixture
def two(tmp_path, shards):
    return [shards, counted(tmp_path / "chats", [4, 9, 30, 6, 6], start=1000)]


def same(a, b):
    """Equal batches, to the last tensor."""
    assert a.source_names == b.source_names
    for name in ("tokens", "targets", "positions", "documents", "sources"):
        one, other = getattr(a, name), getattr(b, name)
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)


def stacked(batches):
    """One batch of all rows."""
    parts = {
        name: [getattr(b, name) for b in batches] for name in ("tokens", "targets", "positions", "documents", "sources")
    }
    whole = {name: None if found[0] is None else torch.cat(found) for name, found in parts.items()}
    return Batch(**whole, source_names=batches[0].source_names)


def braided(ranks):
    """The global batch whose rows k, k + world, … rank k holds."""
    whole = stacked(ranks)
    order = torch.arange(len(whole)).view(len(ranks), -1).T.flatten()
    return whole.map(lambda x: x[order])


def test_batches_are_int64_and_of_one_shape(shards):
    batch = next(iter(Loader(shards, 16, 4)))
    for tensor in (batch.tokens, batch.targets, batch.positions, batch.documents):
        assert tensor.shape == (4, 16)
        assert tensor.dtype == torch.int64
    assert batch.sources is None
    assert batch.source_names == ()


@pytest.mark.parametrize("fill", ["split", "whole"])
def test_no_token_sees_or_predicts_another_document(shards, fill):
    """Ids count up through the corpus, so a document's tokens follow each other and others' do not."""
    borders = torch.tensor(LENGTHS).cumsum(0)
    for batch in islice(Loader(shards, 16, 4, fill=fill), 30):
        real = batch.targets != IGNORE
        assert torch.equal(batch.targets[real], batch.tokens[real] + 1)
        owner = torch.bucketize(batch.tokens, borders, right=True)
        assert torch.equal(torch.bucketize(batch.targets[real], borders, right=True), owner[real])
        for row in range(4):
            for number in batch.documents[row].unique():
                members = batch.documents[row] == number
                assert len(owner[row][members].unique()) == 1
                places = batch.positions[row][members]
                assert torch.equal(places, torch.arange(len(places)))  # positions start anew, and run on
        changes = batch.documents.diff(dim=1)
        assert ((changes == 0) | (changes == 1)).all()


def test_padding_is_on_the_right_and_a_document_of_its_own(shards):
    batches = list(Loader(shards, 64, 2, fill="whole", epochs=1))
    batch = stacked(batches)
    padding = batch.targets == IGNORE
    assert (batch.tokens[padding] == PAD).all()
    assert (padding.int().diff(dim=1) >= 0).all()
    for row in range(len(batch)):
        assert not set(batch.documents[row][padding[row]].tolist()) & set(batch.documents[row][~padding[row]].tolist())


def test_an_epoch_is_every_target_once_and_ends(shards):
    for epochs in (1, 2):
        batches = list(Loader(shards, 16, 4, epochs=epochs))
        targets = torch.cat([b.targets[b.targets != IGNORE] for b in batches])
        assert targets.unique(return_counts=True)[1].tolist() == [epochs] * (sum(LENGTHS) - len(LENGTHS))
        assert all(len(b) == 4 for b in batches)


def test_masked_tokens_are_no_targets(tmp_path):
    masks = [[i % 3 == 0 for i in range(length)] for length in LENGTHS]
    shards = counted(tmp_path / "a", LENGTHS, masks=masks)
    for mode in MODES:
        for batch in islice(Loader(shards, 16, 4, **mode), 10):
            real = batch.targets != IGNORE
            learned = torch.from_numpy(shards.mask.copy())
            assert learned[batch.targets[real]].all()
            missed = ~real & (batch.tokens != PAD)
            assert not learned[(batch.tokens[missed] + 1).clamp(max=len(learned) - 1)].any()


def test_windows_have_no_positions(shards):
    batch = next(iter(Loader(shards, 16, 4, order="windows")))
    assert batch.positions is None
    assert batch.documents is None
    assert torch.equal(batch.targets, batch.tokens + 1)


def test_sources_name_each_token_s_own(two):
    for mode in MODES:
        for batch in islice(Loader(two, 16, 4, weights=[1, 1], **mode), 10):
            assert batch.source_names == ("stories", "chats")
            real = batch.targets != IGNORE
            assert torch.equal(batch.sources[real], (batch.tokens[real] >= 1000).long())


@modes
@pytest.mark.parametrize("mixed", [False, True])
def test_resume_under_another_batch_size_and_rank_count(two, mode, mixed):
    """Batch 4 on one rank, then batch 2 on two, then 1 on three: no row is repeated or skipped."""
    options = {"seed": 3, "weights": [1, 2] if mixed else None, **mode}
    data = two if mixed else two[:1]
    whole = stacked(list(islice(Loader(data, 16, 1, **options), 12 + 8 + 6)))
    first = Loader(data, 16, 4, **options)
    parts = list(islice(first, 3))
    state = json.loads(json.dumps(first.state()))
    for batch, world, steps in ((2, 2, 2), (1, 3, 2)):
        ranks = [Loader(data, 16, batch, rank=rank, world=world, **options) for rank in range(world)]
        for loader in ranks:
            loader.restore(state)
        found = [list(islice(loader, steps)) for loader in ranks]
        parts += [braided(step) for step in zip(*found)]
        states = [loader.state() for loader in ranks]
        assert all(one == states[0] for one in states)
        state = json.loads(json.dumps(states[0]))
    same(stacked(parts), whole)
    assert state["cursor"]["rows"] == 26


@modes
def test_resume_after_any_batch_is_bit_identical(shards, mode):
    straight = list(islice(Loader(shards, 16, 3, **mode), 12))
    loader = Loader(shards, 16, 3, **mode)
    for done in range(12):
        again = Loader(shards, 16, 3, **mode)
        again.restore(json.loads(json.dumps(loader.state())))
        same(next(iter(again)), straight[done])
        same(next(iter(loader)), straight[done])  # a new iterator goes on, too
    assert again.truncated == loader.truncated


@modes
def test_ranks_have_equally_many_batches_at_the_end(shards, mode):
    counts = [[len(b) for b in Loader(shards, 16, 2, epochs=1, rank=rank, world=3, **mode)] for rank in range(3)]
    assert counts[0] == counts[1] == counts[2]
    ranks = [list(Loader(shards, 16, 2, epochs=1, rank=rank, world=3, **mode)) for rank in range(3)]
    one = stacked(list(Loader(shards, 16, 1, epochs=1, **mode)))
    many = stacked([braided(step) for step in zip(*ranks)])
    same(many.map(lambda x: x[: len(one)]), one)
    assert (many.targets[len(one) :] == IGNORE).all()


def test_truncated_documents_are_counted(shards):
    loader = Loader(shards, 16, 4, fill="whole", epochs=1)
    list(loader)
    assert loader.truncated == 3  # of 40, 25 and 18 tokens


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"length": 8}, "length was 16 and is 8"),
        ({"order": "windows"}, "order was 'packed' and is 'windows'"),
        ({"fill": "whole"}, "fill was 'split' and is 'whole'"),
    ],
)
def test_a_position_of_another_order_is_refused(shards, changed, message):
    state = Loader(shards, 16, 4).state()
    options = {"length": 16, "batch": 4} | changed
    with pytest.raises(UserError, match=message):
        Loader(shards, **options).restore(state)


def test_a_position_of_other_data_is_refused(two):
    state = Loader(two[0], 16, 4).state()
    with pytest.raises(UserError, match="the data changed"):
        Loader(two[1], 16, 4).restore(state)
    state["cursor"]["pending"] = [[0, 5, 10**9]]
    with pytest.raises(UserError, match="damaged"):
        Loader(two[0], 16, 4).restore(state)


def test_sources_must_fit_together(tmp_path, shards):
    other = counted(tmp_path / "other", LENGTHS, fingerprint="u")
    with pytest.raises(UserError, match="another tokenizer"):
        Loader([shards, other], 16, 4)
    for weights in ([1, 2], [0], [float("nan")], [float("inf")]):
        with pytest.raises(UserError, match="one number above 0 for each of the 1 sources"):
            Loader(shards, 16, 4, weights=weights)
    with pytest.raises(UserError, match="no data"):
        Loader([], 16, 4)


def test_tell_is_heard_by_no_one(shards):
    loader = Loader(shards, 16, 4)
    before = loader.state()
    loader.tell({"kl": 1.0})
    assert loader.state() == before


def test_evaluation_by_windows_covers_every_target_once(shards):
    batches = list(evaluation(shards, 16, 4, order="windows"))
    targets = torch.cat([b.targets[b.targets != IGNORE] for b in batches])
    assert targets.tolist() == list(range(1, sum(LENGTHS)))
    assert all(b.tokens.shape == (4, 16) and b.positions is None for b in batches)


@pytest.mark.parametrize("length", [4, 16, 1000])
def test_evaluation_by_documents_covers_every_document_once(shards, length):
    batches = list(evaluation(shards, length, 4))
    targets = torch.cat([b.targets[b.targets != IGNORE] for b in batches])
    assert len(targets.unique()) == len(targets) == sum(LENGTHS) - len(LENGTHS)
    assert targets.tolist() == sorted(targets.tolist())


def test_evaluation_is_the_same_every_time_limited_and_shared(shards):
    batches = list(evaluation(shards, 16, 2))
    for one, other in zip(batches, evaluation(shards, 16, 2), strict=True):
        same(one, other)
    assert len(list(evaluation(shards, 16, 2, limit=3))) == 3
    ranks = [list(evaluation(shards, 16, 1, rank=rank, world=2)) for rank in range(2)]
    same(stacked([braided(step) for step in zip(*ranks)]), stacked(batches))


def test_a_long_run_repeats_nothing_within_an_epoch(tmp_path):
    shards = counted(tmp_path / "a", [50] * 400)
    seen = torch.cat([b.targets.flatten() for b in islice(Loader(shards, 64, 8), 38)])  # 19,456 of 19,600 targets
    assert len(seen.unique()) == len(seen)
