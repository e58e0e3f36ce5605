"""The files in runs/ are true: every key of theirs is a key of the command that their first lines name."""

import re
from pathlib import Path

import pytest

from pronk.commands import load
from pronk.commands.run import read_plan
from pronk.config import flag, required

RUNS = Path(__file__).parent.parent / "runs"


@pytest.mark.parametrize("path", sorted(RUNS.glob("*.toml")), ids=lambda path: path.name)
def test_a_run_is_true(path, tmp_path):
    named = re.search(r"^#\s+pronk ([\w-]+) runs/([\w.-]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert named and named[2] == path.name, "its first lines say how it is run"
    if named[1] == "run":
        assert list(read_plan(str(path), tmp_path))
        return
    command = load(named[1])
    needs = [word for name in required(command.config_class) for word in (flag(name), "something")]
    assert command.parse([str(path), *needs])
