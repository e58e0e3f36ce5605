"""`pronk prepare --data FILES --tokenizer FOLDER`: turns text or conversations into memory-mapped token shards."""

from dataclasses import dataclass, field
from typing import Literal

from pronk.data.prepare import prepare
from pronk.data.sources import ReadConfig
from pronk.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Config:
    """Turns files into token shards that training maps into memory."""

    data: tuple[str, ...]
    """files (.txt .jsonl .parquet, also .gz .zst), globs, folders, or a data set id"""
    tokenizer: str
    """tokenizer folder"""
    out: str = "out/data"
    """folder to write: train/ and val/"""
    kind: Literal["documents", "conversations"] = "documents"
    """texts to continue, or conversations of which the assistant's words are learned"""
    overwrite: bool = False
    """replace prepared data that is there already"""
    strict: bool = False
    """stop at the first unusable line instead of counting it"""
    read: ReadConfig = field(default_factory=ReadConfig)


def run(config: Config) -> None:
    tokenizer, read = Tokenizer.load(config.tokenizer), config.read
    separator = read.separator.encode().decode("unicode_escape") or None
    summary = prepare(
        list(config.data),
        config.out,
        tokenizer,
        config.kind,
        read.split,
        read.validation,
        config.strict,
        separator,
        read.key,
        config.overwrite,
    )
    print("\n".join([*summary.lines(), f"written to {config.out}"]))
