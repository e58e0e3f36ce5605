"""Published sizes have their published numbers of parameters."""

import pytest

from pronk.models.build import build, count, multiplied, to_scorer
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
        ("gpt1", 116_534_784),
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
        ("tinystories-33m", 68_514_048),
        ("gpt-neo-125m", 125_198_592),
        ("gpt-neo-1.3b", 1_315_575_808),
        ("gpt-neo-2.7b", 2_651_307_520),
        ("llama1-7b", 6_738_415_616),
        ("llama1-65b", 65_285_660_672),
        ("llama3.1-8b", 8_030_261_248),
        ("llama3.1-70b", 70_553_706_496),
        ("llama3.1-405b", 405_853_388_800),
        ("llama3.2-1b", 1_235_814_400),
        ("llama3.2-3b", 3_212_749_824),
        ("mistral-7b", 7_241_732_096),
        ("phi-1", 1_418_270_720),
        ("phi-1.5", 1_418_270_720),
        ("phi-2", 2_779_683_840),
        ("qwen3-0.6b", 596_049_920),
    ],
)
def test_published_count(preset, parameters):
    assert count(build(ModelConfig(**PRESETS[preset]), "meta")) == parameters


def test_every_preset_builds():
    for row in PRESETS.values():
        build(ModelConfig(**{"vocab": 1000} | row), "meta")


@pytest.mark.parametrize(
    ("preset", "billions"),  # table 2.1 of the GPT-3 paper rounds, and its 13B says width 5140 for 5120
    [("gpt3-small", 0.125), ("gpt3-medium", 0.35), ("gpt3-large", 0.76), ("gpt3-xl", 1.3), ("gpt3-2.7b", 2.7)]
    + [("gpt3-6.7b", 6.7), ("gpt3-13b", 13.0), ("gpt3-175b", 175.0), ("llama1-13b", 13.0), ("llama1-33b", 32.5)],
)
def test_published_round_numbers(preset, billions):
    assert count(build(ModelConfig(**PRESETS[preset]), "meta")) / 1e9 == pytest.approx(billions, rel=0.03)


@pytest.mark.parametrize(("preset", "millions"), [("rnn-300", 6), ("lstm-medium", 20), ("lstm-large", 66)])
def test_published_millions(preset, millions):
    """Of Mikolov & Zweig 2012 and Zaremba et al. 2014, as Merity et al. 2017 (arXiv 1708.02182, table 1) count them."""
    assert round(count(build(ModelConfig(**PRESETS[preset]), "meta")) / 1e6) == millions


def test_learned_positions_are_not_multiplied():
    model = build(config(positions="learned"), "meta")
    assert count(model) - multiplied(model) == 128 * 32


def test_tied_matrix_counts_once():
    tied, untied = build(config(tied=True), "meta"), build(config(tied=False), "meta")
    assert count(untied) - count(tied) == 53 * 32
    assert multiplied(tied) == multiplied(untied) == count(tied)


@pytest.mark.parametrize("tied", [True, False])
def test_a_scorer_multiplies_no_embedding(tied):
    scorer = to_scorer(build(config(tied=tied), "meta"))
    assert count(scorer) - multiplied(scorer) == 53 * 32
