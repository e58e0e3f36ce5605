"""The lines of ours that docs/families quotes stand in the source, and every preset it names exists."""

import re
from pathlib import Path

import pytest

import pronk.models
from pronk.models.presets import PRESETS

HERE = Path(__file__).parent.parent.parent
PAGES = sorted((HERE / "docs" / "families").glob("*.md"))
SOURCE = "\n".join(file.read_text(encoding="utf-8") for file in Path(pronk.models.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_is_quoted_is_true(page):
    text = page.read_text(encoding="utf-8")
    quoted = [line.strip() for block in re.findall(r"```python\n(.*?)```", text, re.S) for line in block.splitlines()]
    assert [line for line in quoted if line not in SOURCE] == []
    assert set(re.findall(r"--model\.preset (\S+?)[`\s]", text)) <= set(PRESETS)
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert [link for link in links if not (page.parent / link).exists()] == []
