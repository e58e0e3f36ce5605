"""`pronk tokenizer --data FILES`: learns a vocabulary and saves it as a Hugging Face tokenizer folder."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pronk.data.files import Skipped
from pronk.data.read import documents
from pronk.data.sources import ReadConfig
from pronk.errors import UserError
from pronk.text.bpe import Kind, train
from pronk.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class VocabularyConfig:
    """What a tokenizer is to be."""

    kind: Kind = "bytelevel"
    """byte-level BPE, BPE with byte fallback, unigram, one token a character, or one for each character of the data and
    no others"""
    size: int = 1024
    """tokens at most, special ones included"""
    sample: int = 100_000_000
    """characters of text to learn from, at most"""


@dataclass(frozen=True)
class Config:
    """Learns a vocabulary from text."""

    data: tuple[str, ...]
    """files (.txt .jsonl .parquet, also .gz .zst), globs, folders, or a data set id"""
    out: str = "out/tokenizer"
    """folder to write"""
    strict: bool = False
    """stop at the first unusable line instead of counting it"""
    vocabulary: VocabularyConfig = field(default_factory=VocabularyConfig)
    read: ReadConfig = field(default_factory=ReadConfig)


def run(config: Config) -> None:
    skipped = Skipped(config.strict)
    tokenizer = learn(config.data, config.vocabulary, config.read, skipped)
    tokenizer.save(config.out)
    print("\n".join([*skipped.report(), f"{config.out}: {tokenizer.size:,} tokens ({config.vocabulary.kind})"]))


def learn(
    data: Sequence[str], vocabulary: VocabularyConfig, read: ReadConfig, skipped: Skipped | None = None
) -> Tokenizer:
    """A tokenizer trained on the beginning of the data."""
    separator = read.separator.encode().decode("unicode_escape") or None
    texts = (d.text for d in documents(list(data), skipped=skipped, separator=separator, key=read.key))
    return train(_first(texts, vocabulary.sample), vocabulary.kind, vocabulary.size)


def open_or_learn(folder: str, data: Sequence[str], vocabulary: VocabularyConfig, read: ReadConfig) -> Tokenizer:
    """The tokenizer of a folder, or a new one where none is named."""
    if folder:
        return Tokenizer.load(folder)
    if any((Path(word) / "train" / "meta.json").exists() for word in data):
        raise UserError("prepared data needs the tokenizer it was made with: --tokenizer FOLDER")
    return learn(data, vocabulary, read)


def _first(texts: Iterator[str], characters: int) -> Iterator[str]:
    for text in texts:
        yield text[:characters]
        characters -= len(text)
        if characters <= 0:
            return
