"""Known answers of Random123 (kat_vectors of the reference implementation), and what the engine asks of it."""

import pytest
import torch

from pronk.engine.philox import derive, philox, uniforms

PI = [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], [0xA4093822, 0x299F31D0]
ONES = [0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        (*ONES, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (*PI, [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]),
    ],
)
def test_known_answers(counter, key, words):
    found = philox(tuple(map(torch.tensor, counter)), tuple(map(torch.tensor, key)))
    assert [word.item() for word in found] == words


def test_uniforms_are_above_zero_at_most_one_and_even():
    numbers = uniforms(torch.tensor([[7]]), torch.arange(100_000)[None])
    assert numbers.min() > 0
    assert numbers.max() <= 1
    counts = (numbers[0] * 20).ceil().long().bincount(minlength=21)[1:].double()
    assert ((counts - 5000) ** 2 / 5000).sum() < 43.8  # chi-square, 19 degrees, p = 0.001


def test_uniforms_depend_on_seed_and_position_alone():
    seeds, positions = torch.tensor([[1], [2], [1 << 40]]), torch.arange(5)[None]
    block = uniforms(seeds, positions)
    for row in range(3):
        for column in range(5):
            assert uniforms(seeds[row : row + 1], positions[:, column : column + 1]) == block[row, column]
    assert block.unique().numel() == 15


def test_derived_seeds_keep_the_first_and_differ():
    seeds = derive(torch.full((1000,), 5), torch.arange(1000))
    assert seeds[0] == 5
    assert seeds.unique().numel() == 1000
    assert (seeds >= 0).all()
