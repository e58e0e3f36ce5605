"""The command line: what it lists, what it calls, and how calmly it fails."""

import errno
import json
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
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")  # so that what main sets is forgotten after the test
    return module


def fails(zebra, capsys, error, code=2):
    def run(config):
        raise error

    zebra.run = run
    assert main(["zebra"]) == code
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ({}, {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "7"}),
    ],
)
def test_threads_wait_briefly_unless_the_user_says_how(said, wanted, zebra, monkeypatch):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    found = {}
    zebra.run = lambda config: found.update(os.environ)
    assert main(["zebra"]) == 0
    assert {name: found[name] for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT") if name in found} == wanted


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
    shared = {"__init__", "answering", "asking", "collecting", "human", "pairs", "rounds", "scoring", "training"}
    assert files - shared <= set(commands.COMMANDS)


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


@dataclass
class Paint:
    """Paint it."""

    out: str = ""
    source: str = ""
    colours: tuple[str, ...] = ()
    mix: dict[str, float] = field(default_factory=dict)
    learner: Learner = field(default_factory=Learner)


@pytest.fixture
def plan(zebra, tmp_path, monkeypatch):
    """A function that writes a plan and runs it; what ran is in its `ran`."""
    zebra.Config, zebra.BARE, zebra.PRESETS = Paint, ("settings",), {}
    monkeypatch.chdir(tmp_path)

    def run(text, *words):
        (tmp_path / "two.toml").write_text(text)
        run.ran = []
        zebra.run = run.ran.append
        return main(["run", "two.toml", *words])

    return run


TWO = """
[stage.first]
command = "zebra"
colours = ["-1", "red"]
mix = {cat = 0.6}
learner.micro_batch = 2
[stage.zebra]
source = "{first}/x {brace}"
"""


def test_a_plan_s_stages_run_in_order_with_their_folders(plan, tmp_path):
    assert plan(TWO) == 0
    first = Paint("out/two/first", colours=("-1", "red"), mix={"cat": 0.6}, learner=Learner(2))
    assert plan.ran == [first, Paint("out/two/zebra", source="out/two/first/x {brace}")]
    assert (tmp_path / "out/two/config.toml").exists()


def test_finished_stages_are_skipped_until_they_or_their_sources_change(plan, capsys):
    plan(TWO)
    assert (plan(TWO), plan.ran) == (0, [])
    assert "first: done already: out/two/first" in capsys.readouterr().out
    plan(TWO.replace("{first}/x", "{first}/y"))
    assert [config.source for config in plan.ran] == ["out/two/first/y {brace}"]
    plan(TWO.replace("0.6", "0.7"))
    assert len(plan.ran) == 2
    plan(TWO, "--out", "elsewhere", "--dry-run")
    assert plan.ran == []
    assert "first: pronk zebra, to do: elsewhere/first" in capsys.readouterr().out


def test_a_stage_that_fails_is_not_done(plan, zebra, capsys):
    plan(TWO)
    plan.ran.clear()
    changed = TWO.replace("0.6", "0.7")

    def refuse(config):
        raise UserError("x.txt: empty")

    (zebra.run, kept) = (refuse, zebra.run)
    with open("two.toml", "w") as file:
        file.write(changed)
    assert main(["run", "two.toml"]) == 2
    assert capsys.readouterr().err == "pronk run: two.toml, [stage.first]: x.txt: empty\n"
    zebra.run = kept
    assert plan(changed) == 0
    assert len(plan.ran) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "two.toml: no stages; a plan holds tables such as [stage.pretrain] and nothing else"),
        ("[stages.a]", "two.toml: stages: not part of a plan; a plan holds"),
        (
            "[stage.a]\ncommand='zebar'",
            "two.toml, [stage.a]: there is no command 'zebar' for a stage; did you mean zebra?",
        ),
        ("[stage.run]", "two.toml, [stage.run]: there is no command 'run' for a stage"),
        ("stage.zebra = 3", "two.toml, [stage.zebra]: 3 is not a table of keys"),
        ("[stage.zebra]\nsorce = 'x'", "two.toml, [stage.zebra]: --sorce: unknown option; did you mean --source?"),
        ("[stage.zebra]\nsource = '{b}'\n[stage.b]\ncommand = 'zebra'", "{b} stands for a stage that comes before"),
    ],
)
def test_a_plan_s_mistakes_are_told_before_anything_runs(plan, capsys, text, said):
    assert plan(text) == 2
    assert said in capsys.readouterr().err
    assert plan.ran == []


def test_doctor_knows_this_machine(capsys):
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "torch" in shown
    assert "cores" in shown
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cores"] >= 1


def test_doctor_s_warnings_carry_their_cure():
    from pronk.commands.doctor import judge

    well = {"torch": "2.13.0+cpu", "nvidia_driver": False, "device": "cpu", "cores": 2, "threads": 2, "load": 0.1}
    well |= {"memory": 16.0, "disk_free": 50.0, "compiler": "/usr/bin/cc"}
    assert list(judge(well)) == []
    ill = {"torch": "2.9.1", "nvidia_driver": True, "cores": 1, "load": 3.0, "memory": 2.0, "disk_free": 0.5}
    said = "\n".join(judge({**well, **ill, "compiler": ""}))
    for cure in ("torch>=2.10", "CUDA build", "twice", "OMP_NUM_THREADS=1", "longer", "small models", "--out", "gcc"):
        assert cure in said
