"""Puts a folder in another's place whole: a crash at any moment leaves the old one or the new one, never a mixture."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pronk.disk import sync
from pronk.errors import UserError

PARTS = ("*.json", "*.safetensors", "*.jinja", "*.md", "*.txt", "*.model")


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """An empty folder to fill, which takes the place of `folder` when the block ends without an error.

    Raises UserError where `folder` holds something that is no part of a model and would be lost.
    """
    folder = folder.resolve()
    refuse_foreign(folder)
    fresh, old = folder.with_name(f".{folder.name}.pronk-new"), aside(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(fresh, ignore_errors=True)  # left by a save that was cut off
        fresh.mkdir()
        yield fresh
        sync_all(fresh)
        swap(fresh, folder, old)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def standing(folder: Path) -> Path:
    """Where the content of `folder` is: beside it, if a save was cut off between its two renames."""
    return aside(folder) if aside(folder).is_dir() and not folder.exists() else folder


def aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.pronk-old")


def swap(fresh: Path, folder: Path, old: Path) -> None:
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    try:
        fresh.rename(folder)
    except BaseException:
        if old.exists():
            old.rename(folder)
        raise
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def refuse_foreign(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder}: is a file; a model is saved as a folder: choose another name")
    for entry in sorted(folder.iterdir()):
        if not entry.is_file() or not any(entry.match(part) for part in PARTS):
            raise UserError(f"{folder}: holds {entry.name}, which is no part of a model; save to another folder")
    if any(folder.iterdir()) and not (folder / "config.json").exists():
        raise UserError(f"{folder}: holds files but no config.json, so no model; save to another folder")


def sync_all(folder: Path) -> None:
    for entry in [*folder.iterdir(), folder]:
        sync(entry)
