"""From files to shards: both sides filled, nothing lost, everything counted, real input without a special case."""

from itertools import islice

import pytest
import torch

from pronk.data import encode, read
from pronk.data.batch import IGNORE
from pronk.data.loader import Loader, evaluation
from pronk.data.prepare import prepare
from pronk.data.shards import open_shards
from pronk.errors import UserError
from pronk.text import bpe

from .make import lines, real, tokenizer


def decoded(folder):
    shards = open_shards(folder)
    return [
        tokenizer().decode(shards.tokens[a:b].tolist(), keep_special=True)
        for a, b in zip(shards.offsets.tolist(), shards.offsets.tolist()[1:])
    ]


def test_documents_go_to_their_side_and_duplicates_do_not_straddle(tmp_path):
    rows = [{"text": f"story {i % 50}"} for i in range(200)] + ["broken"]
    done = prepare(lines(tmp_path / "a.jsonl", *rows), tmp_path / "out", tokenizer())
    train, val = decoded(tmp_path / "out" / "train"), decoded(tmp_path / "out" / "val")
    assert sorted(set(train + val)) == sorted(f"<|begin|>story {i}<|end|>" for i in range(50))
    assert len(train) + len(val) == 200
    assert not set(train) & set(val)
    assert done.split == "document"
    assert done.documents == {"train": len(train), "val": len(val)}
    assert done.tokens["val"] == len(open_shards(tmp_path / "out" / "val").tokens) == done.learned["val"]
    assert done.skipped.counts == {"broken JSON": 1}
    assert any("a.jsonl:201" in line for line in done.lines())
    files = [path for side in ("train", "val") for path in (tmp_path / "out" / side).iterdir()]
    assert done.bytes == sum(path.stat().st_size for path in files)


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_small_corpora_leave_no_side_empty(tmp_path, count):
    for start in range(10):
        path = lines(tmp_path / f"{start}.jsonl", *[{"text": f"{start} story {i}"} for i in range(count)])
        done = prepare(path, tmp_path / f"out{start}", tokenizer())
        assert done.split == "document"
        assert min(done.documents.values()) >= 1
        assert sum(done.documents.values()) == count


def test_a_single_text_is_split_by_position(tmp_path):
    text = "".join(f"{i:03d} frogs\n" for i in range(100))
    (tmp_path / "a.txt").write_text(text)
    done = prepare(tmp_path / "a.txt", tmp_path / "out", tokenizer())
    assert done.split == "tail"
    (train,), (val,) = decoded(tmp_path / "out" / "train"), decoded(tmp_path / "out" / "val")
    assert train == "<|begin|>" + text[:900]
    assert val == text[900:]


def test_tail_cuts_the_one_text_that_crosses_the_border(tmp_path):
    rows = [{"text": c * 10} for c in "abcd"]
    prepare(lines(tmp_path / "a.jsonl", *rows), tmp_path / "out", tokenizer(), split="tail", validation=0.4)
    assert decoded(tmp_path / "out" / "train") == [
        "<|begin|>aaaaaaaaaa<|end|>",
        "<|begin|>bbbbbbbbbb<|end|>",
        "<|begin|>cccc",
    ]
    assert decoded(tmp_path / "out" / "val") == ["cccccc", "<|begin|>dddddddddd<|end|>"]


def test_conversations_carry_masks_and_are_never_cut(tmp_path):
    rows = [{"question": f"What is {i}?", "answer": f"It is {i}."} for i in range(10)]
    path = lines(tmp_path / "a.jsonl", *rows)
    for split in ("document", "tail"):
        done = prepare(path, tmp_path / split, tokenizer(), "conversations", split=split, validation=0.25)
        both = decoded(tmp_path / split / "train") + decoded(tmp_path / split / "val")
        assert sorted(both) == [f"<|begin|><|user|>What is {i}?<|assistant|>It is {i}.<|end|>" for i in range(10)]
        shards = open_shards(tmp_path / split / "train")
        answers = tokenizer().decode(shards.tokens[shards.mask].tolist(), keep_special=True).split("<|end|>")
        assert all(answer.startswith("It is") for answer in answers[:-1])
        assert done.learned["train"] == int(shards.mask.sum())


def test_without_validation_all_trains(tmp_path):
    path = lines(tmp_path / "a.jsonl", *[{"text": f"story {i}"} for i in range(30)])
    done = prepare(path, tmp_path / "out", tokenizer(), validation=0)
    assert done.documents == {"train": 30}
    assert not (tmp_path / "out" / "val").exists()


def test_groups_and_portions_change_nothing(tmp_path, monkeypatch):
    path = lines(tmp_path / "a.jsonl", *[{"text": f"story {i}\n" * (i % 7 + 1)} for i in range(2500)])
    prepare(path, tmp_path / "a", tokenizer())
    monkeypatch.setattr(encode, "PORTION", 20)
    prepare(path, tmp_path / "b", tokenizer())
    for side in ("train", "val"):
        assert open_shards(tmp_path / "a" / side).digest == open_shards(tmp_path / "b" / side).digest


def test_strict_fails_whole(tmp_path):
    path = lines(tmp_path / "a.jsonl", *[{"text": f"story {i}"} for i in range(30)], "broken")
    with pytest.raises(UserError, match=r"a\.jsonl:31: broken JSON"):
        prepare(path, tmp_path / "out", tokenizer(), strict=True)
    assert not (tmp_path / "out").exists()


def test_prepare_again_gives_the_same_bytes(tmp_path):
    path = lines(tmp_path / "a.jsonl", *[{"text": f"story {i}"} for i in range(30)])
    for name in "ab":
        prepare(path, tmp_path / name, tokenizer())
    assert open_shards(tmp_path / "a" / "train").digest == open_shards(tmp_path / "b" / "train").digest
    prepare(path, tmp_path / "a", tokenizer(), overwrite=True)
    open_shards(tmp_path / "a" / "val").verify()


def test_gsm8k_from_file_to_batch(tmp_path):
    path = real("gsm8k-test.jsonl")
    chats = list(read.conversations(path, strict=True))
    one = bpe.train([message.content for chat in chats for message in chat.messages], size=1024)
    done = prepare(path, tmp_path / "gsm8k", one, "conversations")
    assert sum(done.documents.values()) == len(chats) == 1319
    shards = open_shards(tmp_path / "gsm8k" / "train")
    shards.verify()
    shards.expect(one)
    for batch in islice(Loader(shards, 512, 4, fill="whole"), 5):
        for row in range(4):
            learned = one.decode(batch.targets[row][batch.targets[row] != IGNORE].tolist(), keep_special=True)
            assert "<|user|>" not in learned
            assert learned.count("<|end|>") == learned.count("####")


def test_tinystories_from_file_to_batch(tmp_path):
    path = real("tinystories-sample.txt")
    with open(path, encoding="utf-8") as handle:
        text = handle.read()
    one = bpe.train(text.split("\n\n"), size=1024)
    done = prepare(path, tmp_path / "stories", one)  # one file is one document
    assert (done.split, done.documents) == ("tail", {"train": 1, "val": 1})
    train, val = open_shards(tmp_path / "stories" / "train"), open_shards(tmp_path / "stories" / "val")
    assert one.decode(train.tokens.tolist()) + one.decode(val.tokens.tolist()) == text
    batch = next(iter(Loader(train, 256, 4)))
    assert (batch.targets != IGNORE).all()
    count = sum(int((b.targets != IGNORE).sum()) for b in evaluation(val, 256, 8, order="windows"))
    assert count == len(val.tokens) - 1
    paragraphs = prepare(path, tmp_path / "paragraphs", one, separator="\n\n")
    assert paragraphs.split == "document"
    assert sum(paragraphs.documents.values()) == sum(bool(part.strip()) for part in text.split("\n\n"))


def test_shakespeare_by_characters(tmp_path):
    """The last tenth by position, as nanoGPT splits it, characters as ids."""
    path = real("tinyshakespeare.txt")
    with open(path, encoding="utf-8", newline="") as handle:
        text = handle.read()
    one = bpe.train([text], "char")
    assert one.size == 249
    done = prepare(path, tmp_path / "shakespeare", one)
    assert done.tokens == {"train": 1_003_855, "val": 111_540}  # with its begin
    val = open_shards(tmp_path / "shakespeare" / "val")
    assert one.decode(val.tokens.tolist()) == text[int(0.9 * len(text)) :]
    batches = list(evaluation(val, 256, 16, order="windows"))
    targets = torch.cat([b.targets.flatten() for b in batches])
    assert int((targets != IGNORE).sum()) == 111_539
