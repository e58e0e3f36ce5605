"""What single tokens stand for: their text as it reads behind other text, and their bytes; encodes nothing."""

from functools import cached_property

from pronk.text.tokenizer import Tokenizer

BROKEN = "\ufffd"  # what decoders give for half a character


class Pieces:
    """Texts and bytes of a tokenizer's tokens, each worked out once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._texts: dict[int, str] = {}

    def text(self, token: int) -> str:
        """The token's text behind other text: some decoders drop the space of a first word. Special tokens by name."""
        if token not in self._texts:
            decode, anchor = self.tokenizer.decode, self._anchor
            self._texts[token] = decode([anchor, token], keep_special=True)[len(decode([anchor])) :]
        return self._texts[token]

    def raw(self, token: int) -> list[int]:
        """The token's bytes, also where they are half a character."""
        text = self.text(token)
        if BROKEN not in text:
            return list(text.encode("utf-8", "replace"))
        name = self.tokenizer.name(token)
        if len(name) == 6 and name.startswith("<0x"):
            return [int(name[3:5], 16)]
        if all(character in self._bytelevel for character in name):
            return [self._bytelevel[character] for character in name]
        return list(text.encode())

    @cached_property
    def _anchor(self) -> int:
        return self.tokenizer.encode("a")[-1]

    @cached_property
    def _bytelevel(self) -> dict[str, int]:
        """GPT-2's letters for bytes: printable ones stand for themselves, the others follow from U+0100 on."""
        plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        others = [byte for byte in range(0x100) if byte not in plain]
        letters = {chr(byte): byte for byte in plain}
        return letters | {chr(0x100 + place): byte for place, byte in enumerate(others)}
