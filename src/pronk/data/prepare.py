"""Makes training and validation shards from files: reads, splits, encodes, writes; leaves their order to loader.py."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pronk.data import read
from pronk.data.encode import encode_texts, place_of, split_key
from pronk.data.files import Paths, Skipped, expand
from pronk.data.records import Conversation, Document
from pronk.data.shards import Item, Writer, replacing
from pronk.errors import UserError
from pronk.text.chat import encode_chat
from pronk.text.tokenizer import Tokenizer

Record = Document | Conversation
Side = Literal["train", "val"]
Split = Literal["auto", "document", "tail"]
Placed = tuple[Side, Record, bool]  # its side, and whether it is a piece of a cut text


@dataclass
class Summary:
    """What preparing did; counts by side ("train", "val")."""

    split: str
    documents: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    learned: dict[str, int] = field(default_factory=dict)  # tokens that are learned
    bytes: int = 0  # on disk
    skipped: Skipped = field(default_factory=Skipped)

    def lines(self) -> list[str]:
        """For the console."""
        sides = [f"{side}: {n:,} documents, {self.tokens[side]:,} tokens" for side, n in self.documents.items()]
        return [*sides, f"split by {self.split}; {self.bytes:,} bytes", *self.skipped.report()]


def prepare(
    paths: Paths,
    folder: str | Path,
    tokenizer: Tokenizer,
    kind: Literal["documents", "conversations"] = "documents",
    split: Split = "auto",
    validation: float = 0.1,
    strict: bool = False,
    separator: str | None = None,
    key: str = "text",
    overwrite: bool = False,
) -> Summary:
    """Write folder/train and folder/val, whole or not at all.

    split: "document" puts each document on a side by its own hash, so duplicates never straddle; where that leaves a
    side of a small corpus empty, the one document nearest to it moves there. "tail": the last `validation` of the
    characters; a text it cuts gets no end token at the cut. "auto": tail for a single document, else document.
    validation 0 writes train alone. Raises UserError for unusable input (see read.py), one conversation that cannot be
    split, and a full disk.
    """
    if not 0 <= validation < 1:
        raise UserError(f"validation {validation} must be at least 0 and below 1, such as 0.1")

    def records(counter: Skipped) -> Iterator[Record]:
        if kind == "conversations":
            return read.conversations(paths, strict, counter)
        return read.documents(paths, strict, counter, separator, key)

    source = Path(folder).name
    done = Summary("none" if validation == 0 else split)
    place = _placer(records, done, validation)
    with replacing(Path(folder), overwrite) as temporary:
        sides: tuple[Side, ...] = ("train", "val") if validation else ("train",)
        writers = {side: Writer(temporary / side, tokenizer, source) for side in sides}
        try:
            for side, (ids, mask) in _encoded(tokenizer, place(records(done.skipped))):
                writers[side].add(ids, mask)
                done.learned[side] = done.learned.get(side, 0) + (len(ids) if mask is None else sum(mask))
            for side, writer in writers.items():
                if not writer.documents:
                    raise UserError(f"{expand(paths)[0]}: too few documents to split: give more, or validation 0")
                done.documents[side], done.tokens[side] = writer.documents, writer.count
                done.bytes += writer.finish()
        finally:
            for writer in writers.values():
                writer.close()
    return done


def _encoded(tokenizer: Tokenizer, placed: Iterable[Placed]) -> Iterator[tuple[Side, Item]]:
    for group in _groups(placed):
        texts = [record.text for _, record, _ in group if isinstance(record, Document)]
        bodies = iter(encode_texts(tokenizer, texts))
        for side, record, cut in group:
            if isinstance(record, Conversation):
                yield side, encode_chat(tokenizer, record.messages)
            else:
                head = [] if cut and side == "val" else [tokenizer.bos]
                yield side, ([*head, *next(bodies), *([] if cut else [tokenizer.eos])], None)


def _groups(placed: Iterable[Placed]) -> Iterator[list[Placed]]:
    """Enough records at a time to keep all processors busy encoding, but no more."""
    group: list[Placed] = []
    size = 0
    for one in placed:
        group.append(one)
        size += _characters(one[1])
        if len(group) == 1024 or size > 1 << 20:
            yield group
            group, size = [], 0
    if group:
        yield group


def _placer(
    records: Callable[[Skipped], Iterator[Record]], done: Summary, validation: float
) -> Callable[[Iterable[Record]], Iterator[Placed]]:
    """How records find their side. Looks through the corpus first, only as far as the rule needs."""
    if not validation:
        return lambda found: (("train", record, False) for record in found)
    if done.split != "tail":
        threshold = _threshold(records(Skipped()), validation)
        if threshold is None and done.split == "document":
            raise UserError("a single document cannot be split by document: give more, or split by tail")
        done.split = "tail" if threshold is None else "document"
        if threshold is not None:
            return lambda found: (("val" if _place(r) < threshold else "train", r, False) for r in found)
    total = sum(map(_characters, records(Skipped())))
    return lambda found: _by_position(found, int(total * (1 - validation)))


def _threshold(records: Iterable[Record], validation: float) -> float | None:
    """The share of hashes for validation that leaves no side empty; None where all documents are the same one."""
    low, high = 1.0, -1.0
    for record in records:
        low, high = min(low, _place(record)), max(high, _place(record))
        if low < validation <= high:
            return validation
    if low == high:
        return None
    return high if high < validation else low + (high - low) / 1e6


def _by_position(records: Iterable[Record], border: int) -> Iterator[Placed]:
    """What begins before the border trains; a text that crosses it is cut there."""
    position = 0
    for record in records:
        start, position = position, position + _characters(record)
        if isinstance(record, Document) and start < border < position:
            yield "train", Document(record.text[: border - start]), True
            yield "val", Document(record.text[border - start :]), True
        else:
            yield "train" if start < border else "val", record, False


def _place(record: Record) -> float:
    return place_of(split_key(record))


def _characters(record: Record) -> int:
    if isinstance(record, Document):
        return len(record.text)
    return sum(len(message.content) for message in record.messages)
