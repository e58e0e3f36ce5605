"""The command line: what it lists, what it calls, and how calmly it fails."""

import errno
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest

from pronk import commands
from pronk.cli import main
from pronk.errors import UserError


@dataclass
class Learner:
    micro_batch: int = 16


@dataclass
class Config:
    """Count stripes."""

    stripes: int = 3
    name: str = ""
    learner: Learner = field(default_factory=Learner)


@pytest.fixture
def zebra(monkeypatch):
    """A command `pronk zebra` whose run the test sets."""
    module = ModuleType("pronk.commands.zebra")
    module.Config, module.run, module.BARE = Config, lambda config: None, ("settings", "name")
    module.PRESETS = {"name": {"grevy": {"stripes": 80}}}
    monkeypatch.setitem(sys.modules, "pronk.commands.zebra", module)
    monkeypatch.setitem(commands.COMMANDS, "zebra", "count stripes")
    monkeypatch.delenv("PRONK_DEBUG", raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    return module


def fails(zebra, capsys, error, code=2):
    def run(config):
        raise error

    zebra.run = run
    assert main(["zebra"]) == code
    return capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_lists_every_command_with_its_line(words, capsys):
    assert main(words) == 0
    shown = capsys.readouterr().out
    for name, line in commands.COMMANDS.items():
        assert name in shown
        assert line in shown


def test_listing_imports_nothing_heavy():
    code = (
        "import sys, pronk.cli as c; c.main([]); print(sorted({'torch', 'numpy', 'tyro', 'rich'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == "[]"


def test_every_command_s_file_is_in_the_table():
    files = {path.stem for path in Path(commands.__file__).parent.glob("*.py")}
    assert files - {"__init__"} <= set(commands.COMMANDS)


def test_calls_the_command_with_its_config(zebra):
    seen = []
    zebra.run = seen.append
    assert main(["zebra", "--stripes", "7"]) == 0
    assert main(["zebra", "grevy"]) == 0
    assert seen == [Config(7), Config(80, "grevy")]


def test_unknown_command_names_its_neighbour(capsys):
    assert main(["pretrian"]) == 2
    assert capsys.readouterr().err == "pronk: there is no command 'pretrian'; did you mean pretrain?\n"


def test_user_mistakes_are_one_plain_line(zebra, capsys):
    assert main(["zebra", "--stripe", "7"]) == 2
    assert capsys.readouterr().err == "pronk zebra: --stripe: unknown option; did you mean --stripes?\n"
    assert fails(zebra, capsys, UserError("x.txt: [red]empty")) == "pronk zebra: x.txt: [red]empty\n"


def test_out_of_memory_names_a_value_that_may_fit(zebra, capsys):
    line = "pronk zebra: out of memory; halve the micro-batch: --learner.micro-batch 8 (it was 16)\n"
    assert fails(zebra, capsys, MemoryError()) == line
    assert fails(zebra, capsys, RuntimeError("DefaultCPUAllocator: can't allocate memory: 1 TB")) == line
    import torch

    assert fails(zebra, capsys, torch.OutOfMemoryError("CUDA out of memory")) == line


def test_full_disk_is_plain(zebra, capsys):
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out/x")
    assert fails(zebra, capsys, error).startswith("pronk zebra: out/x: no space left on device; free some")


def test_our_bugs_show_the_traceback(zebra, capsys):
    shown = fails(zebra, capsys, ZeroDivisionError("boom"), code=1)
    assert "Traceback" in shown
    assert "ZeroDivisionError: boom" in shown
    assert "this is a bug in pronk" in shown


def test_stopping_is_no_error(zebra, capsys):
    assert fails(zebra, capsys, KeyboardInterrupt(), code=130) == "pronk zebra: stopped\n"


def test_debug_lets_everything_through(zebra, capsys, monkeypatch):
    monkeypatch.setenv("PRONK_DEBUG", "1")
    with pytest.raises(UserError):
        fails(zebra, capsys, UserError("x"))


def test_version_names_what_matters(capsys):
    assert main(["--version"]) == 0
    assert "torch" in capsys.readouterr().out


def test_runs_as_a_module():
    said = subprocess.run([sys.executable, "-m", "pronk", "nonsense"], capture_output=True, text=True)
    assert said.returncode == 2
