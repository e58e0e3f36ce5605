"""Opens what the user named (files, folders, globs, data sets) as rows with places; their meaning is read.py's."""

import glob
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from pronk.errors import UserError

PLAIN = (".txt", ".jsonl", ".parquet")
ENDINGS = (*PLAIN, ".txt.gz", ".txt.zst", ".jsonl.gz", ".jsonl.zst")
DATASET = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(/(?P<config>[\w.-]+))?(:(?P<split>[\w.-]+))?")
CHUNK = 1 << 20  # bytes read at once

Paths = str | Path | Sequence[str | Path]
Row = tuple[str, Any]  # its place ("stories.jsonl:3") and its value: a dictionary, or text


@dataclass
class Skipped:
    """Counts rows that could not be used, by reason, with each reason's first places; strict makes the first fatal."""

    strict: bool = False
    places: dict[str, list[str]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, place: str, reason: str) -> None:
        if self.strict:
            raise UserError(f"{place}: {reason} (without strict, such rows are skipped and counted)")
        if reason not in self.counts and len(self.counts) >= 50:
            reason = "other reasons"
        self.counts[reason] = self.counts.get(reason, 0) + 1
        known = self.places.setdefault(reason, [])
        if len(known) < 3:
            known.append(place)

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def report(self) -> list[str]:
        """One line a reason, the commonest first: '12 × broken JSON: a.jsonl:3, a.jsonl:9, …'."""
        ranked = sorted(self.counts, key=lambda reason: (-self.counts[reason], reason))
        return [f"{self.counts[reason]} × {reason}: {self._where(reason)}" for reason in ranked]

    def _where(self, reason: str) -> str:
        more = ", …" if self.counts[reason] > len(self.places[reason]) else ""
        return ", ".join(self.places[reason]) + more


def expand(paths: Paths) -> list[str]:
    """The files and data set ids that the user means, globs and folders opened up, in a fixed order, each once."""
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    if not given:
        raise UserError("no input named: give a file, a folder, a glob or a Hugging Face data set id")
    return list(dict.fromkeys(found for one in given for found in _expand_one(str(one))))


def _expand_one(path: str) -> list[str]:
    if Path(path).is_dir():
        found = sorted(str(p) for p in Path(path).rglob("*") if p.is_file() and p.name.endswith(ENDINGS))
        if not found:
            raise UserError(f"{path}: the folder holds no file that ends in {', '.join(ENDINGS)}")
        return found
    if Path(path).is_file():
        if not path.endswith(ENDINGS):
            raise UserError(_ending_unknown(path))
        return [path]
    if glob.has_magic(path):
        found = sorted(p for p in glob.glob(path, recursive=True) if p.endswith(ENDINGS))
        if not found:
            raise UserError(f"{path}: no file matches this pattern and ends in {', '.join(ENDINGS)}")
        return found
    if DATASET.fullmatch(path) and not path.endswith(ENDINGS):
        return [path]
    raise UserError(f"{path}: no such file; check the name and the folder you are in ({Path.cwd()})")


def _ending_unknown(path: str) -> str:
    cure = "rename it, or convert it to one of them"
    if path.endswith(".json"):
        cure = f"convert it: jq -c '.[]' {path} > {path}l"
    return f"{path}: unknown ending; pronk reads {', '.join(ENDINGS)}: {cure}"


def rows(paths: Paths, skipped: Skipped, separator: str | None = None) -> Iterator[Row]:
    """Every row of every input, streamed. Text files give strings, the others dictionaries.

    A text file is one row, or one for each stretch between separators. Empty files and lines that are no UTF-8 or no
    JSON are skipped and counted. Raises UserError for files that are missing, damaged or of unknown ending.
    """
    for path in expand(paths):
        if not Path(path).exists():
            yield from _dataset_rows(path)
        elif Path(path).stat().st_size == 0:
            skipped.add(path, "empty file")
        elif path.endswith(".parquet"):
            yield from _parquet_rows(path)
        elif path.endswith((".jsonl", ".jsonl.gz", ".jsonl.zst")):
            yield from _json_rows(path, skipped)
        else:
            yield from _text_rows(path, skipped, separator)


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    """The file's bytes, decompressed; damage is told as the user's error."""
    try:
        if path.endswith(".gz"):
            with gzip.open(path) as handle:
                yield handle  # type: ignore[misc]
        elif path.endswith(".zst"):
            import pyarrow  # unlike zstandard's own reader, it notices when a file is cut short

            with pyarrow.input_stream(path, compression="zstd") as stream, io.BufferedReader(stream) as handle:
                yield handle
        else:
            with open(path, "rb") as handle:
                yield handle
    except PermissionError:
        raise UserError(f"{path}: you may not read this file; change its permissions") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: the file is damaged or cut short ({error}); fetch it again") from None


def _json_rows(path: str, skipped: Skipped) -> Iterator[Row]:
    with _opened(path) as handle:
        for number, line in enumerate(handle, 1):
            place = f"{path}:{number}"
            try:
                value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                skipped.add(place, f"not UTF-8 (byte {error.start + 1} of the line)" if skipped.strict else "not UTF-8")
            except (json.JSONDecodeError, RecursionError):
                skipped.add(place, "broken JSON" if line.strip() else "empty line")
            else:
                yield place, value


def _text_rows(path: str, skipped: Skipped, separator: str | None) -> Iterator[Row]:
    with _opened(path) as handle:
        for line, raw in _stretches(handle, separator.encode() if separator else None):
            try:
                yield f"{path}:{line}", raw.decode("utf-8-sig" if line == 1 else "utf-8")
            except UnicodeDecodeError as error:
                bad = line + raw[: error.start].count(b"\n")
                skipped.add(f"{path}:{bad}", "not UTF-8; convert the file, for instance with iconv -f latin1 -t utf-8")


def _stretches(handle: BinaryIO, separator: bytes | None) -> Iterator[tuple[int, bytes]]:
    """The stretches between separators with the line each begins on; no more than one is held."""
    if separator is None:
        yield 1, handle.read()
        return
    line, held = 1, b""
    while chunk := handle.read(CHUNK):
        fresh = max(0, len(held) - len(separator) + 1)
        held += chunk
        if held.find(separator, fresh) < 0:
            continue
        *whole, held = held.split(separator)
        for raw in whole:
            yield line, raw
            line += (raw + separator).count(b"\n")
    yield line, held


def _parquet_rows(path: str) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        number = 0
        for batch in file.iter_batches(batch_size=256):
            for value in batch.to_pylist():
                number += 1
                yield f"{path}: row {number}", value
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a parquet file, or damaged ({error}); fetch it again") from None


def _dataset_rows(name: str) -> Iterator[Row]:
    """Rows of a Hugging Face data set "owner/name[/config][:split]", streamed."""
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"{name}: no such file; to read it as a data set of the Hugging Face hub: pip install 'pronk[hub]'"
        ) from None
    parts = DATASET.fullmatch(name)
    assert parts
    try:
        data = datasets.load_dataset(parts["id"], parts["config"], split=parts["split"] or "train", streaming=True)
        for number, value in enumerate(data, 1):
            yield f"{name}: row {number}", value
    except UserError:
        raise
    except Exception as error:  # the library raises a dozen kinds when it is offline or the name is wrong
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{name}: no such file, and the Hugging Face hub did not give such a data set ({reason}); check the name "
            "(owner/name[/config][:split]) and the network, or download it and name the file"
        ) from None
