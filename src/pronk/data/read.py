"""Reads files, folders, globs and data sets as records, counting what cannot be used; leaves tokens to prepare.py."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from pronk.data import shapes
from pronk.data.files import Paths, Skipped, expand, rows
from pronk.data.records import Comparison, Conversation, Document, Prompt
from pronk.errors import UserError

Record = TypeVar("Record", Document, Conversation, Comparison, Prompt)

__all__ = ["Paths", "Skipped", "comparisons", "conversations", "documents", "prompts"]


def documents(
    paths: Paths,
    strict: bool = False,
    skipped: Skipped | None = None,
    separator: str | None = None,
    key: str = "text",
) -> Iterator[Document]:
    """Texts: a .txt file is one, or one for each stretch between separators; a row of the others has it under key.

    All four readers stream; count what they cannot use in `skipped` (make one to read it afterwards), or raise
    UserError for the first such row when strict; and raise UserError when nothing is left.
    """
    yield from _read(paths, _counter(strict, skipped), lambda row: shapes.document(row, key), separator)


def conversations(paths: Paths, strict: bool = False, skipped: Skipped | None = None) -> Iterator[Conversation]:
    """Conversations: messages, ShareGPT, Alpaca, prompt and completion, question and answer."""
    yield from _read(paths, _counter(strict, skipped), shapes.conversation)


def comparisons(paths: Paths, strict: bool = False, skipped: Skipped | None = None) -> Iterator[Comparison]:
    """Comparisons: TRL explicit or implicit, Anthropic's transcripts, OpenAI's DPO rows, UltraFeedback.

    Pairs of transcripts that do not share their prompt (0.2 % of Anthropic's) are skipped and counted.
    """
    yield from _read(paths, _counter(strict, skipped), shapes.comparison)


def prompts(
    paths: Paths, strict: bool = False, skipped: Skipped | None = None, separator: str | None = "\n"
) -> Iterator[Prompt]:
    """Prompts: a line of a .txt file; prompt, messages, question or instruction of a row, whose other keys are meta."""
    yield from _read(paths, _counter(strict, skipped), shapes.prompt, separator)


def _counter(strict: bool, skipped: Skipped | None) -> Skipped:
    counter = Skipped() if skipped is None else skipped
    counter.strict = counter.strict or strict
    return counter


def _read(
    paths: Paths, skipped: Skipped, convert: Callable[[Any], Record], separator: str | None = None
) -> Iterator[Record]:
    some = False
    for place, row in rows(paths, skipped, separator):
        if separator and isinstance(row, str):
            row = row.strip("\r\n")
            if not row.strip():  # nothing stands between two separators, or after the last
                continue
        try:
            record = convert(row)
        except shapes.Unusable as reason:
            skipped.add(place, str(reason))
        else:
            some = True
            yield record
    if not some:
        found = expand(paths)
        raise UserError(
            f"nothing usable is left in {found[0]}{f' and {len(found) - 1} more' if found[1:] else ''}: "
            + ("; ".join(skipped.report()) or "there are no rows")
        )
