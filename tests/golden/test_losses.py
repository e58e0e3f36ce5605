"""Each training command gives the losses it always gave; `python tests/golden/refresh.py` where a change is meant.

Tolerance: 2e-4 of the value (other processors add in another order), and 1e-4 where a value is near zero by
cancellation, as REINFORCE's loss is. A changed sample, batch order, schedule or initialisation is far beyond both.
"""

import json

import pytest

from .runs import KEPT, measured, runs

GOLDEN = json.loads(KEPT.read_text())


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return measured(tmp_path_factory.mktemp("golden"))


def test_every_run_is_kept(tmp_path):
    assert list(GOLDEN) == list(runs(tmp_path))


@pytest.mark.parametrize("name", GOLDEN)
def test_losses_are_those_that_were_kept(found, name):
    assert found[name].keys() == GOLDEN[name].keys()
    for metric, values in GOLDEN[name].items():
        assert found[name][metric] == pytest.approx(values, rel=2e-4, abs=1e-4), metric


def test_the_numbers_would_tell():
    """Were the losses flat or the rewards all one, nothing would be checked."""
    for name, series in GOLDEN.items():
        assert len(set(series["loss"])) >= 12, name
        if name.startswith("rl"):
            assert len(set(series["reward/mean"])) > (1 if name == "rl-ppo" else 6)
            assert max(map(abs, series["kl/sequence"])) > 1e-3, name
        else:
            assert sum(series["loss"][-5:]) / 5 < series["loss"][0] - 0.2, name
