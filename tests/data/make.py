"""Small shards whose every token is told apart, a tokenizer, and the real data that some checkouts have beside them."""

import json
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest

from pronk.data.shards import open_shards, write
from pronk.text import bpe

PAD = 99_999
CORPUS = ["Once upon a time there was a brave frog.\nThe frog found a key!", "What is 1 + 2? It is 3."] * 20


@cache
def tokenizer(kind="bytelevel"):
    return bpe.train(CORPUS, kind, 320)


def stub(fingerprint="t"):
    """What shards need to know of a tokenizer whose ids are counted up, one for each token of a corpus."""
    return SimpleNamespace(size=100_000, pad=PAD, fingerprint=fingerprint)


def counted(folder, lengths, start=0, masks=None, fingerprint="t"):
    """Shards of documents of these lengths; token ids count up from start, so each occurs once."""
    documents, at = [], start
    for i, length in enumerate(lengths):
        documents.append((list(range(at, at + length)), None if masks is None else masks[i]))
        at += length
    write(folder, documents, stub(fingerprint), source=folder.name)
    return open_shards(folder)


def real(name):
    """A file of ../shared/data, or the test is skipped."""
    for parent in Path(__file__).resolve().parents:
        if (parent / "shared" / "data" / name).is_file():
            return str(parent / "shared" / "data" / name)
    pytest.skip(f"needs ../shared/data/{name}, which this checkout does not have")


def lines(path, *rows):
    """Write rows as JSON lines; strings as they are."""
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return str(path)
