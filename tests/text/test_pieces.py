"""Texts and bytes of single tokens, for every kind of tokenizer."""

import pytest

from pronk.text.bpe import KINDS, train
from pronk.text.pieces import Pieces

TEXT = "Once upon a time a cat said héllo to the wörld, 世界, and 🙂 said: “no”."


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_of_tokens_are_those_of_the_text(kind):
    tokenizer = train([TEXT] * 3, kind, 600 if kind == "unigram" else 330)
    pieces = Pieces(tokenizer)
    others = ("Ωμέγα 👩‍🚀 zebra", " two  spaces\n\n") if kind != "alphabet" else ()  # which knows what it was shown
    for text in (TEXT, *others):
        ids = tokenizer.encode(text)
        assert bytes(byte for token in ids for byte in pieces.raw(token)).decode() == text
        whole = [pieces.text(token) for token in ids]
        assert "\ufffd" in "".join(whole) or "".join(whole) == text


def test_special_tokens_go_by_their_names():
    tokenizer = train([TEXT], size=300)
    pieces = Pieces(tokenizer)
    assert pieces.text(tokenizer.eos) == "<|end|>"
    assert bytes(pieces.raw(tokenizer.eos)) == b"<|end|>"
    assert tokenizer.name(tokenizer.eos) == "<|end|>" and tokenizer.name(10**6) == ""


def test_written_special_tokens_count_only_where_they_are_asked_for():
    tokenizer = train([TEXT], size=300)
    text = "<|begin|><|user|>a cat<|end|>"
    ids = tokenizer.encode_marked(text)
    named = [tokenizer.specials[name] for name in ("<|begin|>", "<|user|>", "<|end|>")]
    assert ids == [*named[:2], *tokenizer.encode("a cat"), named[2]]
    assert tokenizer.decode(ids, keep_special=True) == text
    assert tokenizer.encode_marked("a cat") == tokenizer.encode("a cat") and tokenizer.encode_marked("") == []
    assert not set(tokenizer.encode(text)) & set(tokenizer.specials.values())
