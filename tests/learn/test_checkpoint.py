"""Checkpoints: killed, damaged, full or contested, a run goes on from its last whole one."""

import errno
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from pronk.errors import UserError
from pronk.learn import checkpoint

TENSORS = "tensors.safetensors"


def contents(step):
    """Tensors of several types, and plain values: all name their step."""
    tensors = {
        "model.weight": torch.full((50, 40), float(step)),
        "model.half": torch.full((7,), step, dtype=torch.bfloat16),
        "random.torch": torch.full((16,), step % 256, dtype=torch.uint8),
        "optimizer.step": torch.tensor(float(step)),
        "odd": torch.arange(12.0).view(3, 4).T + step,  # not contiguous
    }
    return tensors, {"step": step, "random": [3, [1, 2, step], None], "learning": 1e-3}


def save(folder, step, keep=2):
    return checkpoint.save(folder, step, *contents(step), keep=keep)


def whole(folder):
    """The step that would be resumed from; every value is checked."""
    found = checkpoint.load_newest(folder)
    if found is None:
        return 0
    path, tensors, plain, _ = found
    wanted, wanted_plain = contents(plain["step"])
    assert plain == wanted_plain
    assert path.name == f"step-{plain['step']}"
    assert tensors.keys() == wanted.keys()
    assert all(torch.equal(tensors[k], v) and tensors[k].dtype == v.dtype for k, v in wanted.items())
    return plain["step"]


def test_what_is_saved_comes_back_with_its_types(tmp_path):
    path = save(tmp_path, 7)
    assert sorted(p.name for p in path.iterdir()) == [checkpoint.MANIFEST, "state.json", TENSORS]
    assert whole(tmp_path) == 7
    assert not list(tmp_path.glob("*.tmp"))


def test_nothing_saved_is_no_checkpoint(tmp_path):
    assert checkpoint.load_newest(tmp_path) is None
    assert checkpoint.load_newest(tmp_path / "nowhere") is None


def test_only_safetensors_and_json_are_written(tmp_path):
    """Nothing that unpickles: JSON parses, safetensors starts with its header's length and a JSON header."""
    for path in save(tmp_path, 1).iterdir():
        if path.suffix == ".json":
            json.loads(path.read_text())
        else:
            size = int.from_bytes(path.read_bytes()[:8], "little")
            assert "odd" in json.loads(path.read_bytes()[8 : 8 + size])
        assert b"\x80\x02" not in path.read_bytes()[:4]


def test_the_last_ones_are_kept(tmp_path):
    for step in (5, 10, 100, 20):
        save(tmp_path, step, keep=2)
    assert [p.name for p in checkpoint.steps(tmp_path)] == ["step-20", "step-100"]  # by number, not by name
    (tmp_path / "step-7.tmp").mkdir()
    (tmp_path / "step-best").mkdir()
    save(tmp_path, 101, keep=1)
    assert [p.name for p in checkpoint.steps(tmp_path)] == ["step-101"]


def test_a_step_saved_again_is_replaced(tmp_path):
    checkpoint.save(tmp_path, 3, {"a": torch.zeros(1)}, {"old": True})
    save(tmp_path, 3)
    assert whole(tmp_path) == 3


def in_a_child(work):
    """Run work in a forked process, which dies as kill -9 kills: no cleanup. Returns its exit code."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:  # a failure of the test itself
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def dying_at(point, folder, step, keep):
    """Save, but die before file operation number `point`; exits with 0 when there are fewer."""

    def work():
        left = [point]

        def count(*_):
            left[0] -= 1
            if left[0] < 0:
                os._exit(7)

        def hook(event, arguments):
            if event in {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir"}:
                count()

        sync = os.fsync
        os.fsync = lambda handle: (count(), sync(handle))
        sys.addaudithook(hook)  # cannot be taken away: it goes with the process
        save(folder, step, keep)

    return work


def half_a_file(folder, step):
    """Die in the middle of the large file."""

    def work():
        def cut(tensors, path):
            save_file(tensors, path)
            path.write_bytes(path.read_bytes()[:3000])
            os._exit(7)

        checkpoint.save_file = cut
        save(folder, step)

    return work


@pytest.mark.parametrize(("again", "keep"), [(False, 2), (False, 1), (True, 1)])
def test_a_kill_between_any_two_file_operations_loses_at_most_one_interval(tmp_path, again, keep):
    """Steps 1 and 2 are saved, 3 is being saved; `again`: for the second time (SIGTERM right after a save)."""
    outcomes = []
    for point in range(1000):
        folder = tmp_path / str(point)
        for step in (1, 2, 3) if again else (1, 2):
            save(folder, step, keep)
        code = in_a_child(dying_at(point, folder, 3, keep))
        assert code in (0, 7), point
        outcomes.append(whole(folder))
        assert outcomes[-1] in ((3,) if again and keep == 1 else (2, 3)), point
        save(folder, 4, keep)  # what the dead left behind is in nobody's way
        assert whole(folder) == 4
        assert len(checkpoint.steps(folder)) <= keep
        shutil.rmtree(folder)
        if code == 0:
            break
    assert len(outcomes) > (20 if not again else 15)
    assert outcomes[-1] == 3
    assert again or outcomes[0] == 2


def test_a_kill_in_the_middle_of_a_file(tmp_path):
    save(tmp_path, 1)
    assert in_a_child(half_a_file(tmp_path, 2)) == 7
    assert whole(tmp_path) == 1
    save(tmp_path, 2)
    assert whole(tmp_path) == 2


@pytest.mark.soak
def test_a_hundred_kills_at_random_moments(tmp_path):
    """A process saves step after step and is killed without warning; the last checkpoint it told of is never lost."""
    dice, done = random.Random(0), 0
    for _ in range(150):
        listen, speak = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                for step in itertools.count(done + 1):
                    save(tmp_path, step)
                    os.write(speak, b"%d " % step)
            finally:
                os._exit(99)
        time.sleep(0.01 + dice.random() * 0.05)
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        os.close(speak)
        with os.fdopen(listen) as told:
            last = max(map(int, told.read().split()), default=done)
        done = whole(tmp_path)
        assert last <= done <= last + 1
    assert done > 20  # many kills come before a save is done, how many is up to the machine


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << (place % 8)
    path.write_bytes(data)


@pytest.mark.parametrize("name", [TENSORS, "state.json", checkpoint.MANIFEST])
def test_a_flipped_byte_falls_back_with_a_message(tmp_path, name):
    save(tmp_path, 1)
    path = save(tmp_path, 2) / name
    good = path.read_bytes()
    dice = random.Random(0)
    places = {0, 1, 8, 9, len(good) - 1, *(dice.randrange(len(good)) for _ in range(40))}
    for place in sorted(places):
        flip(path, place)
        found = checkpoint.load_newest(tmp_path)
        harmless = name == checkpoint.MANIFEST and found[0].name == "step-2"  # a digit of its own step number
        if not harmless:
            assert found[2]["step"] == 1, place
            (message,) = found[3]
            assert "step-2" in message and "falling back" in message
            assert name == checkpoint.MANIFEST or name in message
        assert found[1]["model.weight"][0, 0] == found[2]["step"]
        path.write_bytes(good)
    assert whole(tmp_path) == 2


@pytest.mark.parametrize("name", [TENSORS, "state.json", checkpoint.MANIFEST])
@pytest.mark.parametrize("size", [0, 1, 30, -1])
def test_a_truncated_or_missing_file_falls_back(tmp_path, name, size):
    save(tmp_path, 1)
    path = save(tmp_path, 2) / name
    data = path.read_bytes()
    path.write_bytes(data[:size])
    assert whole(tmp_path) == 1
    path.unlink()
    assert whole(tmp_path) == 1
    path.write_bytes(data + b" ")  # too long is damaged, too; the manifest is JSON, where a space means nothing
    assert whole(tmp_path) == (2 if name == checkpoint.MANIFEST else 1)


@pytest.mark.parametrize("text", ["[]", "{}", "null", '{"files": []}', '{"files": {"x": 1}}', '{"files": {}}'])
def test_a_strange_manifest_falls_back(tmp_path, text):
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    (path / checkpoint.MANIFEST).write_text(text)
    if text == '{"files": {}}':
        (path / TENSORS).unlink()
    assert whole(tmp_path) == 1


def test_a_manifest_must_vouch_for_both_files(tmp_path):
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    (path / checkpoint.MANIFEST).write_text('{"files": {}}')
    flip(path / TENSORS, 5000)
    assert whole(tmp_path) == 1


def test_no_valid_checkpoint_left_says_so(tmp_path):
    for step in (1, 2):
        flip(save(tmp_path, step) / "state.json", 3)
    with pytest.raises(UserError, match=r"(?s)step-2.*step-1.*no valid checkpoint is left.*Delete"):
        checkpoint.load_newest(tmp_path)


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
]


@pytest.mark.parametrize("error", FULL, ids=["OSError", "SafetensorError"])
def test_a_full_disk_is_told_plainly_and_older_checkpoints_stay(tmp_path, monkeypatch, error):
    """safetensors 0.8 raises its own error where the disk is full, which is no OSError."""
    save(tmp_path, 1)

    def full(tensors, path):
        path.write_bytes(b"some bytes")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        with pytest.raises(UserError, match=r"disk is full.*MiB are free.*--out.*last checkpoint"):
            save(tmp_path, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["step-1"]  # the half-written one is gone
    assert whole(tmp_path) == 1
    save(tmp_path, 2)
    assert whole(tmp_path) == 2


def test_a_disk_that_fills_up_at_the_manifest(tmp_path, monkeypatch):
    save(tmp_path, 1)
    write = type(tmp_path).write_text

    def full(self, text, *rest, **more):
        if self.name == checkpoint.MANIFEST:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, text, *rest, **more)

    monkeypatch.setattr(type(tmp_path), "write_text", full)
    with pytest.raises(UserError, match="disk is full"):
        save(tmp_path, 2)
    assert whole(tmp_path) == 1


def test_other_faults_of_the_disk_keep_their_name(tmp_path, monkeypatch):
    def refuse(tensors, path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(checkpoint, "save_file", refuse)
    with pytest.raises(PermissionError):
        save(tmp_path, 1)


def test_files_and_folders_are_synced_before_the_rename(tmp_path, monkeypatch):
    """A rename that reaches the disk before what it names would leave an empty checkpoint after a power cut."""
    done = []
    sync, rename = checkpoint.sync, type(tmp_path).rename
    monkeypatch.setattr(checkpoint, "sync", lambda path: (done.append(path.name), sync(path)))
    monkeypatch.setattr(
        type(tmp_path), "rename", lambda self, to: (done.append(f"{self.name} -> {to.name}"), rename(self, to))[1]
    )
    save(tmp_path / "run", 1)
    at = done.index("step-1.tmp -> step-1")
    assert {TENSORS, "state.json", checkpoint.MANIFEST, "step-1.tmp"} <= set(done[:at])
    assert "run" in done[at:]


def test_a_run_folder_belongs_to_one_process(tmp_path):
    other = f"from pathlib import Path; from pronk.learn import checkpoint as c; c.claim(Path({str(tmp_path)!r}))"
    lock = checkpoint.claim(tmp_path)
    with pytest.raises(UserError, match="another pronk is at work"):
        checkpoint.claim(tmp_path)
    found = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True)
    assert found.returncode != 0
    assert "another pronk is at work here" in found.stderr
    lock.close()
    assert subprocess.run([sys.executable, "-c", other], capture_output=True).returncode == 0


def test_a_dead_process_leaves_no_lock(tmp_path):
    assert in_a_child(lambda: (checkpoint.claim(tmp_path), os._exit(7))) == 7
    checkpoint.claim(tmp_path).close()


def test_changed_settings_are_named(tmp_path):
    checkpoint.check_same({"lr": 1, "data": "a"}, {"data": "a", "lr": 1}, tmp_path)
    with pytest.raises(UserError, match=r"lr: 1 -> 2.*--out.*force"):
        checkpoint.check_same({"lr": 1, "data": "a"}, {"lr": 2, "data": "a"}, tmp_path)
    with pytest.raises(UserError, match="new: None -> 3"):
        checkpoint.check_same({}, {"new": 3}, tmp_path)
