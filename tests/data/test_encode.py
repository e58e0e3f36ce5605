"""Records as ids: begins and ends, answers only, long texts in portions, a split that duplicates cannot straddle."""

import random
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from pronk.data import encode
from pronk.data.records import Comparison, Conversation, Document, Message, Prompt

from .make import tokenizer

USER = Message("user", "Who?")


def test_documents_begin_and_end():
    one = tokenizer()
    ids = encode.encode_document(one, Document("A frog"))
    assert ids == [one.bos, *one.encode("A frog"), one.eos]


def test_comparisons_learn_the_last_answers_only():
    one = tokenizer()
    prompt = (USER, Message("assistant", "The frog."), USER)
    chosen, rejected = encode.encode_comparison(one, Comparison(prompt, "A key!", "Nobody at all."))
    for (ids, mask), answer in ((chosen, "A key!"), (rejected, "Nobody at all.")):
        assert one.decode([i for i, m in zip(ids, mask, strict=True) if m], keep_special=True) == answer + "<|end|>"
    start = encode.encode_prompt(one, prompt)
    assert chosen[0][: len(start)] == rejected[0][: len(start)] == start
    assert not any(chosen[1][: len(start)])


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet="ab \n\t"), size=st.integers(1, 20))
def test_portions_are_the_text(text, size):
    found = list(encode.portions(text, size))
    assert "".join(found) == text
    for left, right in pairwise(found):
        assert left.endswith("\n")
        assert not right[0].isspace()


def test_portions_change_no_token(monkeypatch):
    text = "".join(random.Random(0).choices(["a frog", "\n", "\n\n", " ", "1234", "!", "  \n"], k=3000))
    for kind in ("bytelevel", "bytefallback", "unigram", "char"):
        monkeypatch.setattr(encode, "PORTION", 1 << 22)
        whole = encode.encode_text(tokenizer(kind), text)
        monkeypatch.setattr(encode, "PORTION", 50)
        assert encode.encode_text(tokenizer(kind), text) == whole


def test_the_split_depends_on_the_text_alone():
    texts = [f"story {i}" for i in range(5000)]
    sides = [encode.split_of(text, 0.1) for text in texts]
    assert 400 < sides.count("val") < 600
    assert sides == [encode.split_of(text, 0.1) for text in texts]
    assert encode.place_of("a frog") == 0.345827766185535
    wider = {text for text in texts if encode.split_of(text, 0.2) == "val"}
    assert {text for text, side in zip(texts, sides) if side == "val"} < wider


def test_all_comparisons_of_one_prompt_on_one_side():
    """Pitfall 43."""
    answers = [Comparison((USER,), f"a{i}", f"b{i}") for i in range(20)]
    chats = [Conversation((USER, Message("assistant", f"c{i}"))) for i in range(20)]
    keys = {encode.split_key(one) for one in [*answers, *chats, Prompt((USER,), {"n": 1})]}
    assert len(keys) == 1
    assert encode.split_key(Prompt((Message("system", "Be kind."), USER))) not in keys
