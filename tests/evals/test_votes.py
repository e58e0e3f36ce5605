"""The dashboard's pictures are PNG for every state, on light and on dark."""

import pytest

from pronk.evals.votes import draw

MODEL = {"strength": 0.4, "low": 0.1, "high": 0.7, "votes": 90}
FULL = {
    "standings": [MODEL | {"model": f"out/demo/model-{n}", "strength": -n / 3} for n in range(4)],
    "pace": {"hours": [{"start": 1.7e9 + 3600 * n, "votes": n % 7} for n in range(60)], "rate": 100.0},
}
EMPTY = {"standings": [], "pace": {"hours": [], "rate": None}}


@pytest.mark.parametrize("name", ["standing", "pace"])
@pytest.mark.parametrize("dark", [False, True])
def test_pictures_are_drawn(name, dark):
    pictures = [draw(facts, name, dark) for facts in (FULL, EMPTY)]
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert pictures[0] != pictures[1]
