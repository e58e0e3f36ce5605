"""Tokenizers out of other formats: SentencePiece models, tiktoken ranks, llama2.c's and GPT-2's own files."""

import base64
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Inner

from pronk.errors import UserError
from pronk.text.bpe import WORDS
from pronk.text.tokenizer import Tokenizer

SPACE = "\u2581"  # SentencePiece's "▁"
RESERVED = {  # Llama 3.1's names among its 256 special tokens, by their place after the ranks
    0: "<|begin_of_text|>",
    1: "<|end_of_text|>",
    4: "<|finetune_right_pad_id|>",
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    8: "<|eom_id|>",
    9: "<|eot_id|>",
    10: "<|python_tag|>",
}
SAMPLES = (
    *("Once upon a time there was a cat.", " two  spaces   and\ttabs\n\nlines ", "", "  leading", "trailing  ", "a"),
    *("Émile coûte 1234567 €, naïve façade", "日本語のテキスト 中文", "🙂 emoji 👩‍👧", "x = {'a': [1, 2.5]}  # code"),
    *("Привет, мир! שלום عالم", "THE END?!… -- ok", "don't can't we'll", "\u00a0\u200b"),
)


def open_any(folder: Path) -> Tokenizer | None:
    """The tokenizer of a folder that has no tokenizer.json; None where nothing there is one."""
    for name in ("tokenizer.model", "tokenizer.bin"):
        if (folder / name).is_file():
            return open_file(folder / name)
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return gpt2(folder)
    return None


def open_file(path: Path) -> Tokenizer:
    """The tokenizer in one file: llama2.c's where its name ends in .bin, else tiktoken's or SentencePiece's."""
    if path.suffix == ".bin":
        return llama2c(path)
    return tiktoken_ranks(path) if is_ranks(path) else sentencepiece_model(path)


# ── SentencePiece


def sentencepiece_model(path: Path) -> Tokenizer:
    """A SentencePiece BPE model for the tokenizers library, proved to split a set of hard texts alike.

    Unigram models are refused: none of our architectures has one, and there the names of special tokens in a text
    would become the tokens.
    """
    try:
        import sentencepiece
    except ImportError:
        raise UserError(f"{path}: reading a SentencePiece model needs: pip install 'pronk[convert]'") from None
    try:
        theirs = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except Exception as error:  # the library raises RuntimeError, OSError and its own
        raise UserError(f"{path}: not a whole SentencePiece model ({str(error)[:80]}); fetch it again") from None
    size = theirs.get_piece_size()
    pieces = [(theirs.id_to_piece(i), theirs.get_score(i)) for i in range(size)]
    unknown = theirs.unk_id()
    special = [i for i in range(size) if theirs.is_control(i) or theirs.is_unknown(i)]
    for prefix in (True, False):
        inner = _bpe(pieces, special, unknown, prefix)
        if all(inner.encode(text, add_special_tokens=False).ids == theirs.encode(text) for text in SAMPLES):
            names = {"bos_token": theirs.bos_id(), "eos_token": theirs.eos_id(), "pad_token": theirs.pad_id()}
            return _named(inner, {key: pieces[i][0] for key, i in names.items() if i >= 0}, pieces[unknown][0])
    raise UserError(f"{path}: this SentencePiece model splits text in a way that we cannot repeat; use tokenizer.json")


def _bpe(pieces: Sequence[tuple[str, float]], special: Sequence[int], unknown: int, prefix: bool) -> Any:
    """Merges in the order of their results' scores, as SentencePiece makes them."""
    vocabulary = {piece: i for i, (piece, _) in enumerate(pieces)}
    normal = [i for i in range(len(pieces)) if i not in set(special) and not _is_byte(pieces[i][0])]
    merges = []
    for i in sorted(normal, key=lambda i: (-pieces[i][1], i)):
        piece = pieces[i][0]
        splits = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        known = [pair for pair in splits if pair[0] in vocabulary and pair[1] in vocabulary]
        merges += sorted(known, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
    fallback = "<0x00>" in vocabulary
    model = models.BPE(vocabulary, merges, unk_token=pieces[unknown][0], fuse_unk=True, byte_fallback=fallback)
    return _spaced(Inner(model), pieces, special, prefix)


def _spaced(inner: Any, pieces: Sequence[tuple[str, float]], special: Sequence[int], prefix: bool) -> Any:
    """Spaces become "▁", with one in front of the text where `prefix` says so, and back again."""
    steps = [normalizers.Prepend(SPACE)] if prefix else []
    inner.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    inner.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    inner.add_special_tokens([AddedToken(pieces[i][0], special=True, normalized=False) for i in special])
    return inner


def _is_byte(piece: str) -> bool:
    return len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")


# ── tiktoken, llama2.c, GPT-2


def is_ranks(path: Path) -> bool:
    """Whether a tokenizer.model holds tiktoken's lines, "IQ== 0", and no SentencePiece model."""
    line = path.read_bytes()[:200].split(b"\n")[0].split()
    return len(line) == 2 and line[1].isdigit()


def tiktoken_ranks(path: Path) -> Tokenizer:
    """Llama 3's tokenizer: byte-level BPE by the ranks of the file, and 256 special tokens after them."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except ValueError:
            raise UserError(f"{path}:{number}: expected a token in base64 and its rank; fetch the file again") from None
    if sorted(ranks.values()) != list(range(len(ranks))) or any(bytes([b]) not in ranks for b in range(256)):
        raise UserError(f"{path}: ranks are missing or come twice; fetch the file again")
    letters = _letters()
    spelled = {"".join(letters[b] for b in token): rank for token, rank in ranks.items()}
    inner = Inner(models.BPE(spelled, _merges(spelled), ignore_merges=True))
    split = pre_tokenizers.Split(Regex(WORDS), "isolated")
    inner.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    inner.decoder = decoders.ByteLevel()
    spare = iter(range(256))
    names = [RESERVED.get(place) or f"<|reserved_special_token_{next(spare)}|>" for place in range(256)]
    inner.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    return _named(inner, {"bos_token": names[0], "eos_token": names[1], "pad_token": names[4]})


def _letters() -> dict[int, str]:
    """GPT-2's letter for each byte: itself where it prints, else one from 256 on."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + n) for n, byte in enumerate(others)}


def _merges(ranks: Mapping[str, int]) -> list[tuple[str, str]]:
    """For each token the two that BPE has just before the last merge that makes it, in the order of ranks."""
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        parts = list(token)
        while len(parts) > 2:
            pairs = [ranks.get(parts[i] + parts[i + 1], len(ranks)) for i in range(len(parts) - 1)]
            place = min(range(len(pairs)), key=pairs.__getitem__)
            if pairs[place] >= ranks[token]:
                break
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        if len(parts) == 2:
            merges.append((parts[0], parts[1]))
    return merges


def llama2c(path: Path) -> Tokenizer:
    """llama2.c's tokenizer.bin: SentencePiece's pieces with their scores; ids 1 and 2 begin and end a text."""
    data, place, pieces = path.read_bytes(), 4, list[tuple[str, float]]()
    try:
        while place < len(data):
            score, length = struct.unpack_from("<fi", data, place)
            text = struct.unpack_from(f"<{length}s", data, place + 8)[0].decode("utf-8")
            pieces.append((text.replace(" ", SPACE), score))
            place += 8 + length
    except (struct.error, UnicodeDecodeError):
        raise UserError(f"{path}: ends or breaks within token {len(pieces)}; fetch it again") from None
    if len(pieces) < 259 or pieces[3][0] != "<0x00>":
        raise UserError(f"{path}: not a tokenizer of llama2.c: byte tokens are not at ids 3 to 258")
    pieces[:3] = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0)]
    return _named(_bpe(pieces, range(3), 0, True), {"bos_token": "<s>", "eos_token": "</s>"}, "<unk>")


def gpt2(folder: Path) -> Tokenizer:
    """vocab.json and merges.txt: byte-level BPE with GPT-2's own split."""
    try:
        vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
        pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
        inner = Inner(models.BPE(vocabulary, [(left, right) for left, right in pairs]))
    except Exception as error:  # the library raises a bare Exception
        reason = str(error)[:80]
        raise UserError(f"{folder}: vocab.json and merges.txt do not match ({reason}); fetch them again") from None
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(False), decoders.ByteLevel()
    end = "<|endoftext|>"
    if end not in vocabulary:
        raise UserError(f"{folder / 'vocab.json'}: it holds no {end}; name another tokenizer with --tokenizer")
    inner.add_special_tokens([AddedToken(end, special=True, normalized=False)])
    return _named(inner, {"bos_token": end, "eos_token": end})


def _named(inner: Any, names: Mapping[str, str], unknown: str = "") -> Tokenizer:
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **names}
    return Tokenizer(inner.to_str(pretty=True), config | ({"unk_token": unknown} if unknown else {}), "")
