"""A save replaces a folder whole or leaves it alone."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pronk.errors import UserError
from pronk.folders import swap, tensors
from pronk.folders.huggingface import load, load_model, save

from .make import make, saved, tokenizer


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_existing_folder_is_replaced_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(tensors, "SHARD", 40_000)
    saved(tmp_path / "m", tied=False)
    monkeypatch.undo()
    model = saved(tmp_path / "m", layers=1)
    assert torch.equal(load_model(tmp_path / "m").embed.weight, model.embed.weight)
    assert len(list((tmp_path / "m").glob("*.safetensors*"))) == 1  # no shard of before
    assert names(tmp_path) == ["m"]


def test_a_save_that_fails_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
    saved(tmp_path / "m")
    before = {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensors, "save_file", full)
    with pytest.raises(UserError, match="m: cannot be written: No space left on device"):
        saved(tmp_path / "m", layers=1)
    assert {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()} == before
    assert names(tmp_path) == ["m"]


def test_an_error_inside_leaves_no_trace(tmp_path):
    def fail():
        with swap.replaced(tmp_path / "m") as fresh:
            (fresh / "config.json").write_text("{}")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert names(tmp_path) == []


def test_leftovers_of_a_cut_off_save_do_no_harm(tmp_path):
    for name in (".m.pronk-new", ".m.pronk-old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"half")
    saved(tmp_path / "m")
    load(tmp_path / "m")
    assert names(tmp_path) == ["m"]


def test_killed_between_the_two_renames(tmp_path):
    model = saved(tmp_path / "m")
    (tmp_path / "m").rename(swap.aside(tmp_path / "m"))
    again, _ = load(tmp_path / "m")  # the old one still counts
    assert torch.equal(again.embed.weight, model.embed.weight)
    saved(tmp_path / "m", layers=1)
    assert load_model(tmp_path / "m").config.layers == 1
    assert names(tmp_path) == ["m"]


def test_interrupted_between_the_two_renames(tmp_path, monkeypatch):
    saved(tmp_path / "m")
    rename = Path.rename

    def interrupted(path, target):
        if path.name == ".m.pronk-new":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        saved(tmp_path / "m", layers=1)
    assert names(tmp_path) == ["m"]
    assert load_model(tmp_path / "m").config.layers == 2


def test_neighbours_with_similar_names_are_left_alone(tmp_path):
    for name in ("m.old", "m.tmp"):
        (tmp_path / name).mkdir()
    saved(tmp_path / "m")
    saved(tmp_path / "m")
    assert names(tmp_path) == ["m", "m.old", "m.tmp"]


SAVE = """
import sys, torch
sys.path[:0] = [sys.argv[1]]
from folders.make import saved
saved(sys.argv[2] + "/m", layers=1)
print("first", flush=True)
from pronk.folders.huggingface import save
from folders.make import make, tokenizer
from pathlib import Path
models = [make(layers=1), make(layers=2)]
while True:
    for model in models:
        save(Path(sys.argv[2]) / "m", model, tokenizer())
"""


def test_kill_at_any_moment_leaves_a_whole_model(tmp_path):
    tests = str(Path(__file__).parents[1])
    for delay in (0.0, 0.003, 0.011):
        run = subprocess.Popen([sys.executable, "-c", SAVE, tests, str(tmp_path)], stdout=subprocess.PIPE)
        run.stdout.readline()
        time.sleep(delay)
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
        run.stdout.close()
        assert load(tmp_path / "m")[0].config.layers in (1, 2)


@pytest.mark.parametrize("name", ["notes.pdf", "src"])
def test_foreign_files_are_never_lost(tmp_path, name):
    saved(tmp_path / "m")
    (tmp_path / "m" / name).mkdir()
    with pytest.raises(
        UserError, match=f"holds {re.escape(name)}, which is no part of a model; save to another folder"
    ):
        saved(tmp_path / "m")
    assert (tmp_path / "m" / name).exists()


def test_folder_that_holds_no_model_is_not_replaced(tmp_path):
    (tmp_path / "notes.txt").write_text("dear diary")
    with pytest.raises(UserError, match=r"holds files but no config\.json"):
        save(tmp_path, make(), tokenizer())
    with pytest.raises(UserError, match=r"notes\.txt: is a file; a model is saved as a folder"):
        save(tmp_path / "notes.txt", make(), tokenizer())


def test_parents_are_made_and_links_followed(tmp_path):
    saved(tmp_path / "a/b/real")
    (tmp_path / "link").symlink_to(tmp_path / "a/b/real")
    saved(tmp_path / "link", layers=1)
    assert (tmp_path / "link").is_symlink()
    assert load_model(tmp_path / "a/b/real").config.layers == 1
