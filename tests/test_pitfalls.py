"""docs/pitfalls.md tells the truth: 46 rows, and every test that it names exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROWS = re.findall(r"^\| (\d+) \| .*?\| (.*) \|$", (ROOT / "docs" / "pitfalls.md").read_text(), re.MULTILINE)


def test_all_46_have_a_row():
    assert [int(number) for number, _ in ROWS] == list(range(1, 47))


@pytest.mark.parametrize(("number", "cell"), ROWS)
def test_each_named_test_is_there(number, cell):
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", cell)
    assert named
    for path, test in named:
        text = (ROOT / path).read_text()
        assert not test or f"def {test}(" in text, f"pitfall {number}: {path} has no {test}"
