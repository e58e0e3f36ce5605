"""Crash-safe checkpoints: safetensors and JSON only, written beside, checked by hash, renamed last."""

import errno
import fcntl
import json
import re
import shutil
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pronk.disk import sha256, sync
from pronk.errors import UserError

TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "MANIFEST.json"


def save(folder: Path, step: int, tensors: dict[str, Tensor], plain: dict[str, Any], keep: int = 2) -> Path:
    """Write folder/step-N. A crash at any moment leaves the older checkpoints whole. Keeps the last `keep`."""
    final, temporary = folder / f"step-{step}", folder / f"step-{step}.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary / TENSORS)
        (temporary / STATE).write_text(json.dumps(plain))
        files = {p.name: {"bytes": p.stat().st_size, "sha256": sha256(p)} for p in sorted(temporary.iterdir())}
        (temporary / MANIFEST).write_text(json.dumps({"step": step, "files": files}, indent=1))
        if _holds(final, (temporary / MANIFEST).read_text()):
            shutil.rmtree(temporary)
            return final  # the same was saved before (SIGTERM right after a save): to replace it would risk it
        for path in [*temporary.iterdir(), temporary]:
            sync(path)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if getattr(error, "errno", 0) != errno.ENOSPC and "No space left" not in str(error):
            raise
        needed = sum(t.numel() * t.element_size() for t in tensors.values()) / 2**20
        free = shutil.disk_usage(folder).free / 2**20
        raise UserError(
            f"{folder}: the disk is full: a checkpoint needs {needed:.0f} MiB, {free:.0f} MiB are free. "
            "Free some space, or set --out to another disk, and run again: the run goes on from its last checkpoint"
        ) from error
    for path in steps(folder)[:-keep]:
        shutil.rmtree(path, ignore_errors=True)
    return final


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read one checkpoint, every byte verified; UserError names the file that is damaged."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        for name in (TENSORS, STATE):
            facts = manifest["files"][name]
            if (path / name).stat().st_size != facts["bytes"] or sha256(path / name) != facts["sha256"]:
                raise UserError(f"{path / name}: damaged (its bytes are not those that were written)")
        return load_file(path / TENSORS), json.loads((path / STATE).read_text())
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: not a whole checkpoint ({error})") from error


def load_newest(folder: Path) -> tuple[Path, dict[str, Tensor], dict[str, Any], list[str]] | None:
    """The newest valid checkpoint and a plain message for each damaged one passed over; None where there is none."""
    messages: list[str] = []
    for path in reversed(steps(folder)):
        try:
            tensors, plain = load(path)
        except UserError as error:
            messages.append(f"{error}; falling back to the checkpoint before it")
            continue
        return path, tensors, plain, messages
    if messages:
        raise UserError("; ".join(messages) + f": no valid checkpoint is left in {folder}. Delete it to start anew")
    return None


def steps(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    found = [p for p in folder.glob("step-*") if re.fullmatch(r"step-\d+", p.name)]
    return sorted(found, key=lambda p: int(p.name.removeprefix("step-")))


def claim(folder: Path) -> IO[str]:
    """Lock a run folder for this process while the returned file is open; UserError if another process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / ".lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise UserError(
            f"{folder}: another pronk is at work here. Wait for it, or set --out to another folder"
        ) from error
    return lock


def check_same(saved: dict[str, Any], now: dict[str, Any], where: Path) -> None:
    """Refuse to resume when what decides the run has changed; both are flat dictionaries."""
    changed = [k for k in sorted(saved.keys() | now.keys()) if saved.get(k) != now.get(k)]
    if changed:
        shown = ", ".join(f"{k}: {saved.get(k)!r} -> {now.get(k)!r}" for k in changed[:5])
        raise UserError(
            f"{where}: was made with other settings ({shown}). Give --out another folder for a new run, "
            "or --train.resume force to go on with the new settings"
        )


def _holds(path: Path, manifest: str) -> bool:
    """Whether this very checkpoint is there already, undamaged."""
    try:
        load(path)
        return (path / MANIFEST).read_text() == manifest
    except UserError:
        return False
