"""Trains the kinds of tokenizers, all but one lossless on any text; leaves reading the texts and using the result."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Inner

from pronk.errors import UserError
from pronk.text.chat import SPECIALS, TEMPLATE
from pronk.text.tokenizer import Tokenizer

Kind = Literal["bytelevel", "bytefallback", "unigram", "char", "alphabet"]

# Llama 3's split into words. No piece crosses it, so no text can ever match the names of special or byte tokens
# ("<|end|>", "<0x41>"), and since nothing is replaced (no "▁" for a space), nothing is lost.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
UNKNOWN = "<|unknown|>"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def train(texts: Iterable[str], kind: Kind = "bytelevel", size: int = 1024) -> Tokenizer:
    """Train a tokenizer of at most `size` tokens; the special tokens take the last ids.

    bytelevel: byte-level BPE with Llama 3's split. bytefallback: BPE over characters. unigram: Kudo 2018
    (arXiv 1804.10959). char: every character a token. The last three write what they do not know as UTF-8 bytes,
    and hold the texts in memory. A corpus too small for the size gives a smaller vocabulary. alphabet: the characters
    of the texts and no others, for toys whose policy explores its whole vocabulary; any other reads "<|unknown|>".
    The result depends on the texts alone. Raises UserError if there is no text or the size holds no base vocabulary.
    """
    smallest = smallest_size(kind)
    if size < smallest:
        raise UserError(f"size {size} is too small for a {kind} tokenizer: the smallest that works is {smallest}")
    inner = KINDS[kind](_filled(texts), size - len(SPECIALS))
    inner.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIALS])
    begin = SPECIALS[0]  # transformers' users get it in front of a text; our own plain encoding adds nothing
    inner.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A {begin} $B", special_tokens=[(begin, inner.token_to_id(begin))]
    )
    return Tokenizer(inner.to_str(pretty=True), CONFIG, TEMPLATE)


def smallest_size(kind: Kind) -> int:
    """The fewest tokens with which this kind can write any text; of an alphabet, the fewest that there can be."""
    own = {"char": len(_fallback_bytes("")), "alphabet": 2}
    return len(SPECIALS) + own.get(kind, 256)


CONFIG: dict[str, Any] = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<|begin|>",
    "eos_token": "<|end|>",
    "pad_token": "<|pad|>",
    "additional_special_tokens": ["<|user|>", "<|assistant|>", "<|system|>"],
    "clean_up_tokenization_spaces": False,
}


def _bytelevel(texts: Iterator[str], size: int) -> Any:
    inner = Inner(models.BPE())
    split = pre_tokenizers.Split(Regex(WORDS), "isolated")
    inner.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(texts, _bpe_trainer(vocab_size=size, initial_alphabet=alphabet))
    return inner


def _bytefallback(texts: Iterator[str], size: int) -> Any:
    """Byte tokens enter the vocabulary after training: given as special tokens they would vanish on decoding."""
    budget = size - len(BYTES)
    trained = _splitting(models.BPE())
    if budget:
        trained.train_from_iterator(_common_only(texts, max(1, budget // 2)), _bpe_trainer(vocab_size=budget))
    model = _model(trained)
    pieces = BYTES + sorted(model["vocab"], key=model["vocab"].__getitem__)
    merges = [tuple(pair) for pair in model["merges"]]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    return _splitting(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True))


def _unigram(texts: Iterator[str], size: int) -> Any:
    budget = size - len(BYTES)
    trained = _splitting(models.Unigram())
    if budget < 2:  # the trainer wants an unknown token and one piece
        return _splitting(models.Unigram([(byte, 0.0) for byte in BYTES], unk_id=0, byte_fallback=True))
    unknown = "<unk>"
    trainer = trainers.UnigramTrainer(
        vocab_size=budget + 1, unk_token=unknown, special_tokens=[unknown], show_progress=False
    )
    trained.train_from_iterator(_common_only(texts, max(1, budget // 2)), trainer)
    scores = _settled({piece: score for piece, score in _model(trained)["vocab"] if piece != unknown})
    lowest = min(scores.values())
    pieces = [(byte, lowest) for byte in BYTES] + sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    return _splitting(models.Unigram(pieces, unk_id=0, byte_fallback=True))


def _char(texts: Iterator[str], size: int) -> Any:
    counts = Counter[str]()
    for text in texts:
        counts.update(text)
    plain = sorted(character for character in counts if character.isascii())
    others = sorted((c for c in counts if not c.isascii()), key=lambda c: (-counts[c], c))
    room = size - len(_fallback_bytes(""))
    characters = plain + sorted(others[:room])
    vocabulary = {piece: i for i, piece in enumerate(characters + _fallback_bytes("".join(plain)))}
    inner = Inner(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    inner.decoder = _byte_decoder()
    return inner


def _alphabet(texts: Iterator[str], size: int) -> Any:
    counts = Counter[str]()
    for text in texts:
        counts.update(text)
    common = sorted(counts, key=lambda character: (-counts[character], character))[: size - 1]
    vocabulary = {piece: i for i, piece in enumerate([UNKNOWN, *sorted(common)])}
    inner = Inner(models.BPE(vocab=vocabulary, merges=[], unk_token=UNKNOWN))
    inner.decoder = decoders.Fuse()
    return inner


KINDS: dict[str, Callable[[Iterator[str], int], Any]] = {
    "bytelevel": _bytelevel,
    "bytefallback": _bytefallback,
    "unigram": _unigram,
    "char": _char,
    "alphabet": _alphabet,
}


def _filled(texts: Iterable[str]) -> Iterator[str]:
    """The texts, or an error when all of them are empty."""
    some = False
    for text in texts:
        some = some or bool(text)
        yield text
    if not some:
        raise UserError("there is no text to train a tokenizer on: the corpus is empty")


def _bpe_trainer(**options: Any) -> Any:
    return trainers.BpeTrainer(min_frequency=2, show_progress=False, **options)


def _splitting(model: Any) -> Any:
    inner = Inner(model)
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(WORDS), "isolated")
    inner.decoder = _byte_decoder()
    return inner


def _byte_decoder() -> Any:
    return decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])


def _model(inner: Any) -> dict[str, Any]:
    model: dict[str, Any] = json.loads(inner.to_str())["model"]
    return model


def _fallback_bytes(known: str) -> list[str]:
    """Names of the bytes that UTF-8 needs for the characters not known: none of 0xC0, 0xC1, 0xF5 and above occurs."""
    return [BYTES[b] for b in range(0xF5) if b not in (0xC0, 0xC1) and not (b < 0x80 and chr(b) in known)]


def _common_only(texts: Iterator[str], limit: int) -> Iterator[str]:
    """The texts with only their `limit` commonest characters; ties go by code point, as the trainers' own do not."""
    held = list(texts)
    counts = Counter[str]()
    for text in held:
        counts.update(text)
    ranked = sorted(counts, key=lambda character: (-counts[character], character))
    rare = dict.fromkeys(map(ord, ranked[limit:]))
    return iter([text.translate(rare) for text in held] if rare else held)


def _settled(scores: dict[str, float]) -> dict[str, float]:
    """Scores freed of what depends on the trainer's hash order.

    Sums differ in their last digits, and characters that pruning dropped come back at the lowest score plus
    0.0001 a piece in random order: they all get the lowest.
    """
    lowest = min(scores.values())
    margin = 0.0001 * sum(len(piece) == 1 for piece in scores)
    return {p: round(lowest if len(p) == 1 and s <= lowest + margin else s, 6) for p, s in scores.items()}
