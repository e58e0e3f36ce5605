"""Training: every kind is lossless on any text, deterministic, and says which sizes work."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pronk.errors import UserError
from pronk.text import bpe

from .make import CORPUS, HARD, KINDS, SCRIPTS, trained

kinds = pytest.mark.parametrize("kind", KINDS)


@kinds
@pytest.mark.parametrize("name", [*SCRIPTS, *HARD])
def test_any_text_survives(kind, name):
    text = (SCRIPTS | HARD)[name]
    tokenizer = trained(kind)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids, keep_special=True) == text
    assert all(0 <= i < tokenizer.size for i in ids)
    assert not set(ids) & set(tokenizer.specials.values())


@kinds
@settings(max_examples=150, deadline=None)
@given(text=st.text())
def test_random_unicode_survives(kind, text):
    tokenizer = trained(kind)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@kinds
@settings(max_examples=100, deadline=None)
@given(text=st.text(alphabet="<|0xFFA41enduser> \n▁Ġ'"))
def test_text_like_our_own_marks_survives(kind, text):
    tokenizer = trained(kind)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not set(ids) & set(tokenizer.specials.values())


@kinds
def test_corpus_full_of_marks_gives_no_such_pieces(kind):
    """Text that names special or byte tokens a thousand times must not train its way to their ids."""
    text = "<|end|> <0x41><0x42> <|user|>hi "
    tokenizer = bpe.train([text * 50] * 20, kind, 400)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not set(ids) & set(tokenizer.specials.values())


@pytest.mark.parametrize("kind", ["bytelevel", "bytefallback", "unigram"])
def test_training_compresses(kind):
    text = CORPUS[-1]
    assert len(trained(kind, 500).encode(text)) < 0.5 * len(text)


def test_char_is_one_token_a_character():
    tokenizer = bpe.train(["To be, or not to be: that is the question.\n"], "char")
    assert len(tokenizer.encode("not that")) == 8
    assert tokenizer.size == bpe.smallest_size("char") == 249
    assert len(tokenizer.encode("é")) == 2  # unseen: its bytes


def test_an_alphabet_is_the_characters_of_the_texts():
    """Any other one is told, not dropped; special tokens written in a text stay text."""
    tokenizer = bpe.train(["cab\n", "bad"], "alphabet")
    assert tokenizer.size == 1 + 5 + len(bpe.SPECIALS)  # the unknown one; newline, a, b, c, d
    assert tokenizer.decode(tokenizer.encode("bad\ncab")) == "bad\ncab"
    assert tokenizer.decode(tokenizer.encode("bed")) == "b<|unknown|>d"
    assert len(tokenizer.encode("<|end|>")) == 7
    smallest = bpe.train(["aab"], "alphabet", bpe.smallest_size("alphabet"))
    assert smallest.encode("ab") == [1, 0]


def test_char_keeps_the_commonest_characters():
    tokenizer = bpe.train(["天天天地地人"], "char", size=251)
    assert [len(tokenizer.encode(c)) for c in "天地人"] == [1, 1, 3]


@kinds
def test_smallest_size_works_and_less_is_refused(kind):
    smallest = bpe.smallest_size(kind)
    with pytest.raises(UserError, match=f"smallest that works is {smallest}"):
        bpe.train(CORPUS, kind, smallest - 1)
    for size in range(smallest, smallest + 4):
        tokenizer = bpe.train(CORPUS, kind, size)
        assert tokenizer.size <= size
        assert all(tokenizer.decode(tokenizer.encode(text)) == text for text in (SCRIPTS | HARD).values())


@kinds
def test_more_kinds_of_characters_than_room(kind):
    many = "".join(chr(code) for code in range(0x4E00, 0x5600))
    tokenizer = bpe.train([many, "天地人" * 50], kind, 400)
    assert tokenizer.size <= 400
    assert tokenizer.decode(tokenizer.encode(many)) == many


@kinds
def test_size_is_reached_where_the_corpus_allows(kind):
    size = trained(kind, 330).size
    assert size == (bpe.smallest_size("char") + 2 if kind == "char" else 330)  # é and ï


@kinds
def test_empty_corpus_is_refused(kind):
    for texts in ([], [""], iter(["", ""])):
        with pytest.raises(UserError, match="no text to train"):
            bpe.train(texts, kind)


def test_training_is_deterministic_across_processes():
    """Rust's hash seeds differ from process to process; the result must not."""
    code = (
        "from tests.text.make import KINDS, CORPUS, SCRIPTS; from pronk.text import bpe;"
        "print([bpe.train(CORPUS + list(SCRIPTS.values()), kind, 420).fingerprint for kind in KINDS])"
    )
    command = [sys.executable, "-c", code]
    root = Path(__file__).parents[2]
    runs = {subprocess.run(command, capture_output=True, text=True, check=True, cwd=root).stdout for _ in "ab"}
    assert len(runs) == 1
    assert "[" in runs.pop()


def test_specials_take_the_last_ids():
    tokenizer = trained()
    assert (tokenizer.bos, tokenizer.eos, tokenizer.pad) == (394, 395, 396)
    assert list(tokenizer.specials.values()) == list(range(394, 400))
    assert len({tokenizer.bos, tokenizer.eos, tokenizer.pad}) == 3  # pitfall 7: pad is not eos
