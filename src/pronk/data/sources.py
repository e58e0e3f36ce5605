"""What a training command calls --data: folders of shards as they are, anything else prepared beside the run."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pronk.data.files import expand
from pronk.data.loader import Fill, Order
from pronk.data.prepare import Split, prepare
from pronk.data.shards import Shards, open_shards
from pronk.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class ReadConfig:
    """How files become rows of tokens."""

    order: Order = "packed"
    """packed = whole documents side by side, each seeing only itself; windows = random windows over all text"""
    fill: Literal["auto", "split", "whole"] = "auto"
    """packed: a document that does not fit goes on in the next row, or is kept whole; auto = whole for conversations"""
    weights: tuple[float, ...] = ()
    """how often each --data is drawn; none = by their sizes"""
    validation: float = 0.1
    """share of the data that is kept for validation"""
    split: Split = "auto"
    """by document, or the tail of a single text"""
    separator: str = ""
    """what separates the documents of a .txt file; none = a file is one document"""
    key: str = "text"
    """where a row of .jsonl or .parquet has its text"""


def open_sources(
    data: Sequence[str],
    folder: Path,
    tokenizer: Tokenizer,
    kind: Literal["documents", "conversations"],
    read: ReadConfig,
    strict: bool = False,
) -> tuple[list[Shards], list[Shards]]:
    """Training and validation shards of each word of --data; prepared ones are kept in `folder` and used again.

    strict: the first unusable line is a UserError.
    """
    train: list[Shards] = []
    validation: list[Shards] = []
    names = _names(data)
    for word, name in zip(data, names):
        place = Path(word)
        if not (place / "train" / "meta.json").exists():
            place = folder / name
            _prepare_once(word, place, tokenizer, kind, read, strict)
        for side, found in (("train", train), ("val", validation)):
            if (place / side).exists():
                shards = open_shards(place / side)
                shards.expect(tokenizer)
                found.append(shards)
    return train, validation


def _names(data: Sequence[str]) -> list[str]:
    """A short name for each word of --data, fit for a folder; the place is put before names that come twice."""
    short = [re.sub(r"[^\w-]+", "", Path(word).name.split(".")[0]).strip("-_") or "data" for word in data]
    return [f"{i}-{name}" if short.count(name) > 1 else name for i, name in enumerate(short)]


def fill(kind: Literal["documents", "conversations"], read: ReadConfig) -> Fill:
    """Conversations are kept whole; documents may go on in the next row."""
    if read.fill == "auto":
        return "whole" if kind == "conversations" else "split"
    return read.fill


def _prepare_once(
    word: str,
    place: Path,
    tokenizer: Tokenizer,
    kind: Literal["documents", "conversations"],
    read: ReadConfig,
    strict: bool,
) -> None:
    """Prepare unless the folder was made from the same files with the same settings."""
    files = [Path(name) for name in expand(word)]
    stamps = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) if f.exists() else (str(f),) for f in files]
    settings = {k: v for k, v in asdict(read).items() if k not in ("order", "fill", "weights")} | {"strict": strict}
    made_from = json.dumps({"files": stamps, "kind": kind, "tokenizer": tokenizer.fingerprint, "read": settings})
    note = place.parent / f"{place.name}.json"
    if place.exists() and note.exists() and note.read_text() == made_from:
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    summary = prepare(
        word,
        place,
        tokenizer,
        kind,
        read.split,
        read.validation,
        strict,
        read.separator.encode().decode("unicode_escape") or None,
        read.key,
        overwrite=True,
    )
    print("\n".join(f"data {word}: {line}" for line in summary.lines()), flush=True)
    note.write_text(made_from)
