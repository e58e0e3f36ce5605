"""Shards: what is written is what is read, whole or not at all, and damage is found."""

import errno
import json
import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest

from pronk.data import shards as module
from pronk.data.shards import Writer, open_shards, write
from pronk.errors import UserError

from .make import counted, stub, tokenizer

DOCUMENTS = [([1, 2, 3], [False, True, True]), ([4, 5], [False, True])]


@pytest.mark.parametrize(("size", "dtype"), [(65_536, np.uint16), (65_537, np.uint32), (200_000, np.uint32)])
def test_what_is_written_is_read(tmp_path, size, dtype):
    largest = size - 1
    one = SimpleNamespace(size=size, pad=0, fingerprint="f")
    write(tmp_path / "a", [([1, largest], None), ([3], None)], one, "stories")
    shards = open_shards(tmp_path / "a")
    assert shards.tokens.dtype == dtype
    assert shards.tokens.tolist() == [1, largest, 3]
    assert shards.offsets.tolist() == [0, 2, 3]
    assert shards.mask is None
    assert (len(shards), shards.name, shards.vocabulary, shards.pad) == (2, "stories", size, 0)
    shards.verify()


def test_masks_are_kept(tmp_path):
    write(tmp_path / "a", DOCUMENTS, stub(), "chats")
    shards = open_shards(tmp_path / "a")
    assert shards.mask.tolist() == [False, True, True, False, True]
    shards.verify()


def test_tokens_are_mapped_not_loaded(tmp_path):
    shards = counted(tmp_path / "a", [5])
    assert isinstance(shards.tokens.base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        shards.tokens[0] = 1


def test_digest_is_that_of_the_contents(tmp_path):
    digests = {counted(tmp_path / name, lengths).digest for name, lengths in (("a", [5]), ("b", [5]), ("c", [2, 3]))}
    assert len(digests) == 2


@pytest.mark.parametrize("name", ["tokens.bin", "mask.bin", "offsets.npy"])
def test_flipped_byte_is_found(tmp_path, name):
    write(tmp_path / "a", DOCUMENTS, stub(), "chats")
    data = bytearray((tmp_path / "a" / name).read_bytes())
    data[-3] ^= 1
    (tmp_path / "a" / name).write_bytes(data)
    with pytest.raises(UserError, match=name):  # offsets are checked on opening
        open_shards(tmp_path / "a").verify()


@pytest.mark.parametrize("name", ["tokens.bin", "mask.bin", "offsets.npy", "meta.json"])
@pytest.mark.parametrize("change", ["cut", "long", "gone", "empty"])
def test_truncated_or_missing_file_is_found_on_opening(tmp_path, name, change):
    write(tmp_path / "a", DOCUMENTS, stub(), "chats")
    path = tmp_path / "a" / name
    data = path.read_bytes()
    path.unlink()
    if change != "gone":
        path.write_bytes({"cut": data[:-1], "long": data + b"\0", "empty": b""}[change])
    with pytest.raises(UserError, match=name):
        open_shards(tmp_path / "a")


@pytest.mark.parametrize(
    "change",
    [
        {"version": 99},
        {"tokens": -1},
        {"tokens": 2**62},
        {"documents": True},
        {"documents": 1},
        {"dtype": "object"},
        {"dtype": "float32"},
        {"vocabulary": "x"},
        {"files": {}},
        {"files": []},
        {"files": {"../../secret": {"bytes": 1, "sha256": ""}}},
    ],
)
def test_meta_is_not_trusted(tmp_path, change):
    write(tmp_path / "a", DOCUMENTS, stub(), "chats")
    path = tmp_path / "a" / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match="prepare the data again"):
        open_shards(tmp_path / "a")


def test_pickled_offsets_are_refused(tmp_path):
    write(tmp_path / "a", DOCUMENTS, stub(), "chats")
    np.save(tmp_path / "a" / "offsets.npy", np.array([0, 3, 5], dtype=object), allow_pickle=True)
    meta = json.loads((tmp_path / "a" / "meta.json").read_text())
    meta["files"]["offsets.npy"]["bytes"] = os.path.getsize(tmp_path / "a" / "offsets.npy")
    (tmp_path / "a" / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(UserError, match=r"offsets\.npy: damaged"):
        open_shards(tmp_path / "a")


def test_ids_out_of_range_are_found_by_verify(tmp_path):
    one = SimpleNamespace(size=10, pad=0, fingerprint="f")
    write(tmp_path / "a", [([1, 10], None)], one, "x")
    with pytest.raises(UserError, match="out of range"):
        open_shards(tmp_path / "a").verify()


def test_a_failure_leaves_nothing(tmp_path):
    def broken():
        yield [1, 2], None
        raise UserError("a.txt:3: bad")

    with pytest.raises(UserError, match=r"a\.txt:3"):
        write(tmp_path / "a", broken(), stub(), "x")
    with pytest.raises(UserError, match="no document to write"):
        write(tmp_path / "a", [], stub(), "x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("after", [0, 1])
def test_full_disk_is_told_with_bytes_and_leaves_nothing(tmp_path, monkeypatch, after):
    calls = []

    def full(self, name, data):
        calls.append(name)
        if len(calls) > after:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.handles[name].write(data)
        self.handles[name].flush()

    monkeypatch.setattr(Writer, "_append", full)
    with pytest.raises(UserError) as error:
        write(tmp_path / "a", [([1, 2], None)] * 2, stub(), "x")
    assert f"the disk is full: {8 * after} bytes were written" in str(error.value)
    assert "are free" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_on_sync_is_told_too(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(UserError, match="disk is full"):
        write(tmp_path / "a", [([1, 2], None)], stub(), "x")


def test_nothing_is_overwritten_unasked(tmp_path):
    counted(tmp_path / "a", [5])
    with pytest.raises(UserError, match="exists already"):
        counted(tmp_path / "a", [3])
    write(tmp_path / "a", [([7], None)], stub(), "x", overwrite=True)
    assert open_shards(tmp_path / "a").tokens.tolist() == [7]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="holds something else"):
        write(tmp_path / "home", [([7], None)], stub(), "x", overwrite=True)
    assert (tmp_path / "home" / "thesis.txt").exists()


def test_an_old_version_is_kept_when_overwriting_fails(tmp_path):
    counted(tmp_path / "a", [5])
    with pytest.raises(UserError):
        write(tmp_path / "a", [], stub(), "x", overwrite=True)
    assert len(open_shards(tmp_path / "a").tokens) == 5


def test_a_writer_killed_midway_leaves_the_old_version_and_the_next_one_sweeps(tmp_path):
    counted(tmp_path / "a", [5])
    child = os.fork()
    if not child:

        def items():
            yield [1, 2], None
            os.kill(os.getpid(), signal.SIGKILL)

        write(tmp_path / "a", items(), stub(), "x", overwrite=True)
    os.waitpid(child, 0)
    assert [path.name for path in tmp_path.iterdir() if path.name != "a"] == [f".a.{child}.tmp"]
    assert len(open_shards(tmp_path / "a").tokens) == 5
    write(tmp_path / "a", [([7], None)], stub(), "x", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_another_tokenizer_is_refused(tmp_path):
    write(tmp_path / "a", [([1, 2], None)], tokenizer(), "x")
    open_shards(tmp_path / "a").expect(tokenizer())
    with pytest.raises(UserError, match="prepared with another tokenizer"):
        open_shards(tmp_path / "a").expect(tokenizer("char"))
