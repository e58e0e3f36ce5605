"""Token shards on disk: written whole or not at all, checked, memory-mapped; leaves their order to loader.py."""

import errno
import glob
import hashlib
import json
import os
import shutil
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pronk.disk import sync
from pronk.errors import UserError
from pronk.text.tokenizer import Tokenizer

VERSION = 1
Item = tuple[Sequence[int], Sequence[bool] | None]  # a document's ids, and which of them are learned (None: all)


@dataclass(frozen=True)
class Shards:
    """A folder of documents as ids. tokens [N]; document i is tokens[offsets[i]:offsets[i + 1]]; mask [N] or None."""

    folder: Path
    name: str  # of the source, for its own loss
    tokens: NDArray[Any]  # uint16 or uint32, memory-mapped
    offsets: NDArray[np.int64]  # [documents + 1]
    mask: NDArray[np.bool_] | None  # True: learned as a target
    vocabulary: int
    pad: int
    tokenizer: str  # fingerprint
    digest: str  # of the contents: SHA-256 over the files' own

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def expect(self, tokenizer: Tokenizer) -> None:
        """Raise UserError unless these shards were made with this tokenizer."""
        if tokenizer.fingerprint != self.tokenizer:
            raise UserError(
                f"{self.folder} was prepared with another tokenizer (fingerprint {self.tokenizer[:12]}, this one has "
                f"{tokenizer.fingerprint[:12]}): prepare the data again, or name the tokenizer it was made with"
            )

    def verify(self) -> None:
        """Read everything once: SHA-256 of each file, ids within the vocabulary, offsets that only rise."""
        for name, facts in _meta(self.folder)["files"].items():
            with open(self.folder / name, "rb") as handle:
                found = hashlib.file_digest(handle, "sha256").hexdigest()
            if found != facts["sha256"]:
                raise UserError(f"{self.folder / name}: the contents changed since they were written: {CURE}")
        if int(self.tokens.max()) >= self.vocabulary or bool((np.diff(self.offsets) <= 0).any()):
            raise UserError(f"{self.folder}: holds ids or offsets out of range: {CURE}")


CURE = "prepare the data again"


class Writer:
    """Appends documents to a folder's files; finish() makes the folder whole. Holds 8 bytes a document."""

    def __init__(self, folder: Path, tokenizer: Tokenizer, source: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.tokenizer, self.source = folder, tokenizer, source
        self.dtype = np.dtype("uint16" if tokenizer.size <= 1 << 16 else "uint32")
        self.offsets = array("q", [0])
        self.masked: bool | None = None
        self.handles: dict[str, BinaryIO] = {}
        self.hashes: dict[str, Any] = {}
        self._open("tokens.bin")

    @property
    def documents(self) -> int:
        return len(self.offsets) - 1

    @property
    def count(self) -> int:
        """Tokens so far."""
        return self.offsets[-1]

    def add(self, ids: Sequence[int], mask: Sequence[bool] | None) -> None:
        """Append one document. All have a mask, or none has; ids must be at least one."""
        assert len(ids) and (mask is None or len(mask) == len(ids))
        if self.masked is None:
            self.masked = mask is not None
            if self.masked:
                self._open("mask.bin")
        assert self.masked == (mask is not None)
        self._append("tokens.bin", np.asarray(ids, dtype=self.dtype).tobytes())
        if mask is not None:
            self._append("mask.bin", np.asarray(mask, dtype=np.bool_).tobytes())
        self.offsets.append(self.offsets[-1] + len(ids))

    def _open(self, name: str) -> None:
        self.handles[name] = open(self.folder / name, "wb")  # noqa: SIM115 (close() closes it)
        self.hashes[name] = hashlib.sha256()

    def _append(self, name: str, data: bytes) -> None:
        self.handles[name].write(data)
        self.hashes[name].update(data)

    def close(self) -> None:
        for handle in self.handles.values():
            handle.close()

    def finish(self) -> int:
        """Write offsets.npy and meta.json, all on the disk for good; return the folder's bytes."""
        for handle in self.handles.values():
            handle.flush()
            os.fsync(handle.fileno())
        self.close()
        with open(self.folder / "offsets.npy", "wb") as handle:
            np.save(handle, np.frombuffer(self.offsets, dtype=np.int64), allow_pickle=False)
            handle.flush()
            os.fsync(handle.fileno())
        self.hashes["offsets.npy"] = hashlib.sha256((self.folder / "offsets.npy").read_bytes())
        with open(self.folder / "meta.json", "w", encoding="utf-8") as text:
            json.dump(self._facts(), text, indent=2)
            text.flush()
            os.fsync(text.fileno())
        sync(self.folder)
        return sum(path.stat().st_size for path in self.folder.iterdir())

    def _facts(self) -> dict[str, Any]:
        return {
            "format": "pronk shards",
            "version": VERSION,
            "source": self.source,
            "documents": self.documents,
            "tokens": self.count,
            "dtype": self.dtype.name,
            "vocabulary": self.tokenizer.size,
            "pad": self.tokenizer.pad,
            "tokenizer": self.tokenizer.fingerprint,
            "files": {
                name: {"bytes": (self.folder / name).stat().st_size, "sha256": digest.hexdigest()}
                for name, digest in self.hashes.items()
            },
        }


def write(
    folder: str | Path, items: Iterable[Item], tokenizer: Tokenizer, source: str, overwrite: bool = False
) -> None:
    """Write documents as one shard folder, whole or not at all. Raises UserError if there are none."""
    with replacing(Path(folder), overwrite) as temporary:
        writer = Writer(temporary, tokenizer, source)
        try:
            for ids, mask in items:
                writer.add(ids, mask)
            if not writer.documents:
                raise UserError(f"{folder}: there is no document to write")
            writer.finish()
        finally:
            writer.close()


@contextmanager
def replacing(folder: Path, overwrite: bool) -> Iterator[Path]:
    """A fresh folder that becomes `folder` by a rename if the body succeeds, and vanishes if it fails."""
    if folder.exists() and not overwrite:
        raise UserError(f"{folder} exists already: choose another name, or overwrite it")
    if folder.exists() and not list(folder.glob("**/meta.json")):
        raise UserError(
            f"{folder} holds something else than prepared data, so it is not overwritten: choose another name"
        )
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    _sweep(folder)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        sync(temporary)
        if folder.exists():
            old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
            folder.rename(old)
            temporary.rename(folder)
            shutil.rmtree(old)
        else:
            temporary.rename(folder)
        sync(folder.parent)
    except OSError as error:
        raise _told(error, folder, temporary) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what processes that were killed while writing here left behind."""
    for left in folder.parent.glob(f".{glob.escape(folder.name)}.*.*"):
        pid, ending = left.name.split(".")[-2:]
        if pid.isdigit() and ending in ("tmp", "old") and not _alive(int(pid)):
            shutil.rmtree(left, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid != os.getpid()


def _told(error: OSError, folder: Path, temporary: Path) -> Exception:
    """The user's error for a full disk or a forbidden folder; anything else as it is."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        written = sum(path.stat().st_size for path in temporary.rglob("*") if path.is_file())
        free = shutil.disk_usage(temporary).free
        return UserError(
            f"{folder}: the disk is full: {written:,} bytes were written, more than that is needed, and {free:,} are "
            "free: free some, or choose a folder on another disk (nothing was left behind)"
        )
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return UserError(f"{folder}: you may not write there: choose another folder")
    return error


def open_shards(folder: str | Path) -> Shards:
    """Map a shard folder. Raises UserError, naming the file, if one is missing, cut short or does not fit the others.

    Contents are checked by Shards.verify().
    """
    folder = Path(folder)
    meta = _meta(folder)
    for name, facts in meta["files"].items():
        _check_size(folder / name, facts["bytes"])
    count, documents = meta["tokens"], meta["documents"]
    tokens = _map(folder / "tokens.bin", np.dtype(meta["dtype"]), count)
    masked = "mask.bin" in meta["files"]
    try:
        offsets = np.load(folder / "offsets.npy", mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError) as error:
        raise UserError(f"{folder / 'offsets.npy'}: damaged ({error}): {CURE}") from None
    if offsets.shape != (documents + 1,) or offsets.dtype != np.int64 or offsets[0] != 0 or offsets[-1] != count:
        raise UserError(f"{folder / 'offsets.npy'}: does not fit meta.json: {CURE}")
    return Shards(
        folder,
        meta["source"],
        tokens,
        np.asarray(offsets),
        _map(folder / "mask.bin", np.dtype(np.bool_), count) if masked else None,
        meta["vocabulary"],
        meta["pad"],
        meta["tokenizer"],
        hashlib.sha256("".join(facts["sha256"] for facts in meta["files"].values()).encode()).hexdigest(),
    )


def _map(path: Path, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    _check_size(path, count * dtype.itemsize)
    return np.asarray(np.memmap(path, dtype=dtype, mode="r", shape=(count,)))


def _check_size(path: Path, expected: int) -> None:
    if not path.is_file():
        raise UserError(f"{path}: this file is missing: {CURE}")
    size = path.stat().st_size
    if size != expected:
        raise UserError(f"{path}: has {size:,} bytes instead of {expected:,}, so it was cut short or changed: {CURE}")


def _meta(folder: Path) -> dict[str, Any]:
    """meta.json, its fields checked."""
    path = folder / "meta.json"
    if not path.is_file():
        inner = [name for name in ("train", "val") if (folder / name / "meta.json").is_file()]
        cure = f"did you mean {folder / inner[0]}?" if inner else "make it with `pronk prepare`"
        raise UserError(f"{folder}: no prepared data here (meta.json is missing): {cure}")
    try:
        meta = json.loads(path.read_bytes())
        whole = [meta[key] for key in ("documents", "tokens", "vocabulary")]
        sizes = [facts["bytes"] for facts in meta["files"].values()]
        sound = all(type(n) is int and n > 0 for n in whole + sizes) and meta["dtype"] in ("uint16", "uint32")
        sound = sound and type(meta["pad"]) is int and all(isinstance(meta[k], str) for k in ("source", "tokenizer"))
        sound = sound and {"tokens.bin", "offsets.npy"} <= set(meta["files"]) <= {
            "tokens.bin",
            "offsets.npy",
            "mask.bin",
        }
        sound = sound and all(isinstance(facts["sha256"], str) for facts in meta["files"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise UserError(f"{path}: damaged: {CURE}")
    if meta["version"] != VERSION:
        raise UserError(f"{path}: format version {meta['version']}, this pronk reads {VERSION}: {CURE}")
    return dict(meta)
