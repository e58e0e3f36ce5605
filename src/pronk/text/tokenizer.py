"""Turns text into ids and back, opens and saves tokenizer folders; leaves training to bpe.py and chats to chat.py."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import tokenizers

from pronk.errors import UserError

NAMED = ("bos_token", "eos_token", "pad_token", "unk_token")
SPARE_PADS = ("<|finetune_right_pad_id|>", "<|reserved_special_token_0|>", "<pad>", "[PAD]", "<unk>")


class Tokenizer:
    """A `tokenizers.Tokenizer` with its special tokens and its chat template.

    bos: begins a document; where the tokenizer names none, eos stands in (GPT-2's way).
    eos: ends a document and, in pronk's own template, an assistant's turn; a tokenizer without one is refused.
    pad: fills rows; where none is named, the first of SPARE_PADS that the vocabulary holds, else eos. Nothing
        downstream may find padding by this id: targets and lengths say where it is.
    size: one more than the largest id, so every id indexes an embedding of this many rows.
    """

    def __init__(self, definition: str, config: Mapping[str, Any], template: str) -> None:
        """definition: tokenizer.json's text; config: tokenizer_config.json's keys; template: Jinja, may be empty."""
        self.template = template
        self._definition = definition
        self._config = dict(config)
        self._inner = _open(definition)
        vocabulary = self._inner.get_vocab(with_added_tokens=True)
        self.size: int = max(vocabulary.values()) + 1
        self.named = {key: _content(config[key]) for key in NAMED if config.get(key)}
        self._require(vocabulary)
        self.eos: int = vocabulary[self.named["eos_token"]]
        self.bos: int = vocabulary[self.named.get("bos_token", self.named["eos_token"])]
        self.pad: int = vocabulary[self._pad_token(vocabulary)]
        # Naming a token special makes plain encoding treat its text as text.
        self._inner.add_special_tokens([tokenizers.AddedToken(text, special=True) for text in self.named.values()])
        added = self._inner.get_added_tokens_decoder()
        self.specials: dict[str, int] = {token.content: i for i, token in sorted(added.items()) if token.special}

    def _require(self, vocabulary: Mapping[str, int]) -> None:
        if "eos_token" not in self.named:
            raise UserError('tokenizer_config.json names no "eos_token": add the token that ends a text')
        for key, text in self.named.items():
            if text not in vocabulary:
                raise UserError(f"tokenizer_config.json names {key} {text!r}, which tokenizer.json does not hold")

    def _pad_token(self, vocabulary: Mapping[str, int]) -> str:
        spare = [text for text in SPARE_PADS if text in vocabulary]
        return self.named.get("pad_token") or (spare + [self.named["eos_token"]])[0]

    @property
    def definition(self) -> dict[str, Any]:
        """What tokenizer.json holds."""
        values: dict[str, Any] = json.loads(self._definition)
        return values

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of vocabulary, rules and template: shards and models made with another tokenizer do not match."""
        canonical = json.dumps(json.loads(self._definition), sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(f"{canonical}\n{self.template}".encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Plain ids: nothing is put around them, and special tokens written in the text stay text."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """Each text's plain ids, in parallel."""
        texts = list(texts)
        try:
            return [one.ids for one in self._inner.encode_batch_fast(texts, add_special_tokens=False)]
        except TypeError:
            raise UserError("the text holds half a character (a lone surrogate): repair it before encoding") from None

    def encode_marked(self, text: str) -> list[int]:
        """Ids of a text in which written special tokens count as such, as transformers reads it. Not for what a chat's
        users say: they could forge turns."""
        names = "|".join(re.escape(name) for name in sorted(self.specials, key=len, reverse=True))
        parts = [part for part in re.split(f"({names})", text) if part]
        ids = ([self.specials[part]] if part in self.specials else self.encode(part) for part in parts)
        return [i for one in ids for i in one]

    def decode(self, ids: Sequence[int], keep_special: bool = False) -> str:
        """The text of the ids; bytes that are no UTF-8 become U+FFFD, special tokens vanish unless kept."""
        text: str = self._inner.decode(list(ids), skip_special_tokens=not keep_special)
        return text

    def name(self, token: int) -> str:
        """What the vocabulary calls a token; empty if it holds none of this id."""
        return self._inner.id_to_token(token) or ""

    def save(self, folder: str | Path) -> None:
        """Write a Hugging Face tokenizer folder; the template goes both beside and into tokenizer_config.json."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = {**self._config, **({"chat_template": self.template} if self.template else {})}
        special = {key: value for key, value in self._config.items() if key in NAMED}
        (folder / "tokenizer.json").write_text(self._definition, encoding="utf-8", newline="")
        _write_json(folder / "tokenizer_config.json", config)
        _write_json(folder / "special_tokens_map.json", special)
        if self.template:
            (folder / "chat_template.jinja").write_text(self.template, encoding="utf-8", newline="")

    @classmethod
    def load(cls, folder: str | Path, spare: Mapping[str, str] | None = None) -> Self:
        """Open a tokenizer folder, ours or another model's. chat_template.jinja wins over tokenizer_config.json.

        spare: special tokens, such as eos_token, where the folder names none.
        """
        folder = Path(folder)
        if not (folder / "tokenizer.json").is_file():
            raise UserError(
                f"{folder}: no tokenizer.json here; name a folder that `pronk tokenizer` or transformers saved"
            )
        config = _read_json(folder / "special_tokens_map.json") | _read_json(folder / "tokenizer_config.json")
        config |= {key: text for key, text in (spare or {}).items() if not config.get(key)}
        try:
            return cls(_read(folder / "tokenizer.json"), config, template_of(folder))
        except UserError as error:
            raise UserError(f"{folder}: {error}") from None


def _open(definition: str) -> Any:
    try:
        inner = tokenizers.Tokenizer.from_str(definition)
    except Exception as error:  # the library raises a bare Exception
        raise UserError(f"tokenizer.json is broken: {error}") from None
    inner.encode_special_tokens = True
    inner.no_truncation()
    inner.no_padding()
    return inner


def _content(token: Any) -> str:
    """A special token of a config: its text, or a dictionary that holds it."""
    return str(token["content"] if isinstance(token, dict) else token)


def template_of(folder: Path) -> str:
    """The chat template of a tokenizer's folder; empty where it has none."""
    config = _read_json(folder / "tokenizer_config.json")
    if (folder / "chat_template.jinja").is_file():
        return _read(folder / "chat_template.jinja")
    template = config.get("chat_template") or ""
    if isinstance(template, list):  # several named ones: the default counts
        template = {one["name"]: one["template"] for one in template}.get("default", "")
    return str(template)


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8: the file is damaged, fetch it again") from None


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(_read(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: broken JSON ({error.msg})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object")
    return value


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", newline="")
