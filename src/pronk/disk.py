"""Files that survive a power cut, and sums that tell whether they did."""

import hashlib
import os
from pathlib import Path


def sync(path: Path) -> None:
    """Ask the disk to keep a file, or a folder's list of names, for good."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """A file's SHA-256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
