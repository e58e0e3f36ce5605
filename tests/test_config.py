"""Settings: files and words become configs, configs become files, and mistakes are named with their cure."""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pronk.config import leaves, parse, save, to_toml
from pronk.errors import UserError


@dataclass
class Model:
    """The model's shape."""

    preset: str = ""
    """A row of the table of presets."""
    layers: int = 4
    """How many blocks."""
    width: int = 128
    tied: bool = True
    kind: Literal["llama", "lstm"] = "llama"
    window: int | None = None


@dataclass
class Config:
    """Train something."""

    data: tuple[str, ...] = ()
    """Files to read."""
    out: Path = Path("out/x")
    rate: float = 3e-4
    betas: tuple[float, float] = (0.9, 0.95)
    note: str = ""
    limit: int | None = 7
    dry_run: bool = False
    mix: dict[str, float] = field(default_factory=dict)
    grid: list[tuple[int, int]] = field(default_factory=list)
    model: Model = field(default_factory=lambda: Model(width=64))

    def __post_init__(self):
        if self.rate < 0:
            raise UserError(f"--rate {self.rate}: must not be negative")


@dataclass
class Needs:
    data: str
    model: Model = field(default_factory=Model)


PRESETS = {"model.preset": {"llama3-8b": {"width": 4096, "layers": 32}, "tiny": {"width": 8, "window": 2}}}


def toml(folder, text):
    path = folder / "cpu.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def mistake(*words, config=Config, presets=PRESETS):
    with pytest.raises(UserError) as caught:
        parse(config, list(words), presets)
    return str(caught.value)


def test_words_over_file_over_defaults(tmp_path):
    file = toml(tmp_path, 'rate = 1e-3\ndata = ["a", "b"]\ndry-run = true\n[model]\nlayers = 6\ntied = false\n')
    config = parse(Config, [file, "--model.layers", "8", "--model.layers=9", "--no-dry-run"])
    assert config == Config(data=("a", "b"), rate=1e-3, model=Model(layers=9, width=64, tied=False))


def test_hyphen_underscore_and_written_truth():
    assert parse(Config, ["--dry_run", "--model.no_tied"]) == parse(Config, ["--dry-run", "true", "--model.tied=False"])
    assert parse(Config, ["--note", "-5 is cold", "--limit", "-5", "--data", "-1", "b"]).note == "-5 is cold"
    assert parse(Config, ["--note", "--- dashes"]).note == "--- dashes"


@dataclass
class Switch:
    """Three answers."""

    fast: bool | None = None


def test_a_switch_may_be_left_open(tmp_path):
    said = {"--fast": True, "--no-fast": False, "--fast=true": True, "--fast=None": None, "--fast=false": False}
    assert {word: parse(Switch, [word]).fast for word in said} == said
    assert parse(Switch, []).fast is None
    for value in (True, False):
        assert parse(Switch, [toml(tmp_path, to_toml(Switch(value)))]).fast is value
    assert parse(Switch, [toml(tmp_path, "fast = true\n"), "--no-fast"]).fast is False
    assert mistake("--fast", "maybe", config=Switch) == "--fast: expected true or false (or None), got 'maybe'"


def test_dicts_and_nested_lists(tmp_path):
    file = toml(tmp_path, "grid = [[1, 2], [3, 4]]\n[mix]\ncat = 0.6\nformed = 0.4\n")
    config = parse(Config, [file])
    assert config.mix == {"cat": 0.6, "formed": 0.4}
    assert config.grid == [(1, 2), (3, 4)]


def test_preset_lies_under_every_written_key(tmp_path):
    file = toml(tmp_path, '[model]\npreset = "llama3-8b"\nlayers = 2\n')
    model = parse(Config, [file], PRESETS).model
    assert (model.width, model.layers) == (4096, 2)
    assert parse(Config, [file, "--model.preset", "tiny"], PRESETS).model == Model("tiny", 2, 8, window=2)
    assert parse(Config, ["--model.preset", ""], PRESETS).model.width == 64


def test_bare_words_fill_their_fields(tmp_path):
    file = toml(tmp_path, "rate = 0.5\n")
    bare = ("settings", "note")
    assert parse(Config, ["out/demo/model"], bare=bare).note == "out/demo/model"
    config = parse(Config, [file, "out/demo/model"], bare=bare)
    assert (config.rate, config.note) == (0.5, "out/demo/model")
    assert parse(Config, [file], bare=("note",)).note == file


def test_a_list_that_is_named_again_goes_on(tmp_path):
    (tmp_path / "a.toml").write_text('data = ["file"]\n')
    config = parse(
        Config, [str(tmp_path / "a.toml"), "--data", "a", "b", "--data", "c", "--betas", "0", "0", "--betas", "1", "1"]
    )
    assert config.data == ("a", "b", "c") and config.betas == (1.0, 1.0)


def test_unknown_option_names_its_neighbour():
    assert mistake("--modle.layers", "3") == "--modle.layers: unknown option; did you mean --model.layers?"
    assert "did you mean --model.layers?" in mistake("--layers", "3")
    assert mistake("--zzz") == "--zzz: unknown option"
    assert mistake("--model", "tiny").startswith("--model: holds options of its own, such as --model.preset")


def test_unknown_key_names_file_and_key(tmp_path):
    file = toml(tmp_path, "[model]\nlayrs = 4\n")
    assert mistake(file) == f"{file}: model.layrs: unknown key; did you mean model.layers?"


def test_wrong_types_say_what_was_expected(tmp_path):
    assert mistake("--model.layers", "x") == "--model.layers: expected a whole number, got 'x'"
    assert mistake("--model.layers") == "--model.layers: expected a whole number, got nothing"
    assert mistake("--betas", "1") == "--betas: expected 2 values (a number, a number), got '1'"
    assert "one of llama, lstm, got 'lama'; did you mean llama?" in mistake("--model.kind", "lama")
    assert mistake("--note", "a", "b").endswith("got 'a b' (put quotes around text that has spaces)")
    assert mistake("--dry-run", "maybe") == "--dry-run: expected true or false, got 'maybe'"
    assert mistake("--limit", "1e3") == "--limit: expected a whole number (or None), got '1e3'"
    file = toml(tmp_path, "rate = true\n")
    assert mistake(file) == f"{file}: rate: expected a number, got 'True'"


def test_a_config_s_own_check_speaks():
    assert mistake("--rate=-1") == "--rate -1.0: must not be negative"


def test_unknown_preset():
    assert mistake("--model.preset", "llama3-8") == (
        "--model.preset: there is no 'llama3-8'; did you mean llama3-8b? (rows: llama3-8b, tiny)"
    )


def test_files_that_cannot_be_read(tmp_path):
    toml(tmp_path, "")
    assert "cpux.toml: no such file; did you mean" in mistake(str(tmp_path / "cpux.toml"))
    assert "not valid TOML" in mistake(toml(tmp_path, "a = 1\nb = = 2\n"))
    assert "line 2" in mistake(toml(tmp_path, "a = 1\nb = = 2\n"))
    (tmp_path / "latin.toml").write_bytes(b'note = "caf\xe9"')
    assert "not UTF-8 text (byte 11)" in mistake(str(tmp_path / "latin.toml"))
    (tmp_path / "folder.toml").mkdir()
    assert "cannot be read" in mistake(str(tmp_path / "folder.toml"))


def test_stray_words_and_missing_options():
    assert mistake("train").startswith("'train': not expected here")
    assert mistake(config=Needs) == "needs --data (pronk --help lists all options)"
    assert parse(Needs, ["--data", "x"]).data == "x"


def test_help_shows_defaults_and_the_lines_under_fields(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(Config, ["--help"], prog="pronk train")
    assert stop.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for part in ("pronk train [file.toml]", "Train something.", "Files to read.", "How many blocks. (default: 4)"):
        assert part in shown


def test_leaves_are_the_options():
    assert list(leaves(Needs))[:3] == ["data", "model.preset", "model.layers"]


texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
words = texts.filter(lambda t: not t.startswith("-"))
models = st.builds(
    Model,
    preset=st.sampled_from(["", "tiny"]),
    layers=st.integers(),
    tied=st.booleans(),
    kind=st.sampled_from(["llama", "lstm"]),
    window=st.none() | st.integers(1, 9),
)
configs = st.builds(
    Config,
    data=st.lists(words, max_size=3).map(tuple),
    rate=st.floats(0, allow_nan=False),
    betas=st.tuples(st.floats(allow_nan=False), st.just(3e-4)),
    note=texts,
    limit=st.none() | st.integers(),
    dry_run=st.booleans(),
    mix=st.dictionaries(words, st.floats(allow_nan=False), max_size=2),
    grid=st.lists(st.tuples(st.integers(), st.integers()), max_size=2),
    model=models,
)


@given(configs)
def test_round_trip(tmp_path_factory, config):
    file = toml(tmp_path_factory.getbasetemp(), to_toml(config))
    assert parse(Config, [file], PRESETS) == config


def test_save_says_what_made_it(tmp_path):
    config = Config(note='a "b"\nc', model=Model("tiny", window=None))
    save(config, tmp_path / "run", "pretrain")
    text = (tmp_path / "run" / "config.toml").read_text()
    head = [line for line in text.splitlines() if line.startswith("#")]
    assert "pronk pretrain" in head[0]
    assert "torch 2" in head[1]
    assert "git commit" in head[2]
    assert "pronk" not in tomllib.loads(text)
    assert parse(Config, [str(tmp_path / "run" / "config.toml")], PRESETS) == config
