"""Turns records into ids and masks, and puts each on its side of the split; leaves files to shards.py."""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Literal

from pronk.data.records import Comparison, Conversation, Document, Message, Prompt
from pronk.text.chat import encode_chat
from pronk.text.tokenizer import Tokenizer

Masked = tuple[list[int], list[bool]]  # ids, and which of them are learned
PORTION = 1 << 22  # characters encoded at once


def encode_document(tokenizer: Tokenizer, document: Document) -> list[int]:
    """bos, the text's ids, eos."""
    return [tokenizer.bos, *encode_text(tokenizer, document.text), tokenizer.eos]


def encode_text(tokenizer: Tokenizer, text: str) -> list[int]:
    """Plain ids. Very long texts go in portions that end with a line, where no token of our own tokenizers crosses."""
    return [i for portion in portions(text, PORTION) for i in tokenizer.encode(portion)]


def encode_texts(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Plain ids of each, on all processors."""
    if any(len(text) > PORTION for text in texts):
        return [encode_text(tokenizer, text) for text in texts]
    return tokenizer.encode_batch(texts)


def encode_comparison(tokenizer: Tokenizer, comparison: Comparison) -> tuple[Masked, Masked]:
    """The chosen and the rejected conversation; only the answers and their end tokens are learned."""
    chosen, rejected = (
        encode_chat(tokenizer, [*comparison.prompt, Message("assistant", answer)], learn="last")
        for answer in (comparison.chosen, comparison.rejected)
    )
    return chosen, rejected


def encode_prompt(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """The conversation up to where the assistant's answer begins."""
    return encode_chat(tokenizer, messages, add_generation_prompt=True)[0]


def portions(text: str, size: int) -> Iterator[str]:
    """The text in stretches of about `size` characters, each but the last ending in a line break before a word."""
    start = 0
    while len(text) - start > size:
        cut = start + size
        while 0 < (cut := text.find("\n", cut) + 1) < len(text) and text[cut].isspace():
            pass
        if not 0 < cut < len(text):
            break
        yield text[start:cut]
        start = cut
    yield text[start:]


def split_key(record: Document | Conversation | Comparison | Prompt) -> str:
    """What decides the side of the split: a text, or what was asked, so that one prompt is never on both sides."""
    if isinstance(record, Document):
        return record.text
    messages = record.prompt if isinstance(record, Comparison) else record.messages
    last = max((i for i, message in enumerate(messages) if message.role == "user"), default=len(messages) - 1)
    return "\0".join(f"{message.role}\0{message.content}" for message in islice(messages, last + 1))


def split_of(text: str, fraction: float) -> Literal["train", "val"]:
    """The side of a text: the same text is always on the same side, whatever else the corpus holds."""
    return "val" if place_of(text) < fraction else "train"


def place_of(text: str) -> float:
    """A number in [0, 1) that depends on the text alone: 53 bits of its BLAKE2 hash."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)
