"""Published sizes have their published numbers of parameters."""

import pytest

from pronk.models.build import build, count, multiplied
from pronk.models.config import ModelConfig
from pronk.models.presets import PRESETS

from .make import config


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [
        ("llama2-7b", 6_738_415_616),
        ("llama2-13b", 13_015_864_320),
        ("llama2-70b", 68_976_648_192),
        ("llama3-8b", 8_030_261_248),
        ("llama3-70b", 70_553_706_496),
        ("llama-1.1b", 1_100_048_384),
    ],
)
def test_published_count(preset, parameters):
    assert count(build(ModelConfig(**PRESETS[preset]), "meta")) == parameters


def test_every_preset_builds():
    for row in PRESETS.values():
        build(ModelConfig(**{"vocab": 1000} | row), "meta")


def test_tied_matrix_counts_once():
    tied, untied = build(config(tied=True), "meta"), build(config(tied=False), "meta")
    assert count(untied) - count(tied) == 53 * 32
    assert multiplied(tied) == multiplied(untied) == count(tied)
