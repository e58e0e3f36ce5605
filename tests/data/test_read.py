"""Readers: every input format and every shape of row gives the records it should; bad input is test_bad_input.py's."""

import gzip
import json
import sys
import tracemalloc
import types

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from pronk.data import files
from pronk.data.read import Skipped, comparisons, conversations, documents, prompts
from pronk.data.records import Comparison, Conversation, Document, Message, Prompt

from .make import lines, real

USER, ANSWER = Message("user", "Hi"), Message("assistant", "Hello!")
ROWS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
GOOD, BAD = {"role": "assistant", "content": "Good"}, {"role": "assistant", "content": "Bad"}


def texts(*arguments, **options):
    return [document.text for document in documents(*arguments, **options)]


def test_a_text_file_is_one_document_kept_as_it_is(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\n One\r\n\n\ntwo \n")
    assert texts(tmp_path / "a.txt") == ["\n One\r\n\n\ntwo \n"]


@pytest.mark.parametrize("chunk", [1, 2, 5, 1000])
def test_a_separator_splits_a_text_file(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(files, "CHUNK", chunk)
    (tmp_path / "a.txt").write_text("One\n<|endoftext|>\nTwo\nlines\n<|endoftext|>\n\n<|endoftext|>\n")
    assert texts(tmp_path / "a.txt", separator="<|endoftext|>") == ["One", "Two\nlines"]
    (tmp_path / "b.txt").write_text("One\n\n\n\n\nTwo\nlines\n\nThree")
    assert texts(tmp_path / "b.txt", separator="\n\n") == ["One", "Two\nlines", "Three"]


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_bad_stretches_are_placed_by_line(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(files, "CHUNK", chunk)
    (tmp_path / "a.txt").write_bytes(b"One\n--\nTwo\nmore\nbad \xff\n--\nThree")
    skipped = Skipped()
    assert texts(tmp_path / "a.txt", separator="--", skipped=skipped) == ["One", "Three"]
    assert skipped.total == 1
    assert "a.txt:5" in skipped.report()[0]


def test_compressed_and_parquet_read_like_plain(tmp_path):
    raw = b'{"text": "One"}\n{"text": "Two \xc3\xa9"}\n'
    (tmp_path / "a.jsonl").write_bytes(raw)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(raw))
    (tmp_path / "c.jsonl.zst").write_bytes(zstandard.compress(raw))
    pyarrow.parquet.write_table(pyarrow.table({"text": ["One", "Two é"]}), tmp_path / "d.parquet")
    (tmp_path / "e.txt.gz").write_bytes(gzip.compress("é".encode()))
    (tmp_path / "f.txt.zst").write_bytes(zstandard.compress("é".encode()))
    (tmp_path / "ignored.md").write_text("no")
    assert texts(tmp_path) == ["One", "Two é"] * 4 + ["é"] * 2
    assert texts(str(tmp_path / "*.jsonl*")) == ["One", "Two é"] * 3
    assert texts([tmp_path / "a.jsonl", str(tmp_path / "?.jsonl")]) == ["One", "Two é"]  # each file once


def test_another_key_and_a_byte_order_mark(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"story": "One"}\r\n')
    assert texts(tmp_path / "a.jsonl", key="story") == ["One"]
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfOne")
    assert texts(tmp_path / "a.txt") == ["One"]


def test_reading_streams(tmp_path):
    """The first record comes before the rest is looked at."""
    path = lines(tmp_path / "a.jsonl", {"text": "One"}, "broken")
    assert next(documents(path, strict=True)) == Document("One")


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt"])
def test_reading_holds_no_whole_file(tmp_path, name):
    line = json.dumps({"text": "frog " * 200})
    (tmp_path / name).write_text((line + "\n") * 20_000)  # 20 MB
    tracemalloc.start()
    try:
        count = sum(1 for _ in documents(tmp_path / name, separator="\n" if name == "a.txt" else None))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 20_000
    assert peak < 6_000_000


def test_the_last_ending_counts(tmp_path):
    (tmp_path / "notes.jsonl.txt").write_text("One")
    assert texts(tmp_path) == ["One"]


def test_a_data_set_id_reads_like_a_path(monkeypatch):
    asked = []
    fake = types.ModuleType("datasets")
    fake.load_dataset = lambda *names, **options: asked.append((names, options)) or iter([{"text": "One"}])
    monkeypatch.setitem(sys.modules, "datasets", fake)
    assert texts("owner/name") == texts("owner/some-name/main:test") == ["One"]
    assert asked[0] == (("owner/name", None), {"split": "train", "streaming": True})
    assert asked[1] == (("owner/some-name", "main"), {"split": "test", "streaming": True})


@pytest.mark.parametrize(
    "row",
    [
        {"messages": ROWS},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, ROWS[1]]},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]},
        {"instruction": "Hi", "input": "", "output": "Hello!"},
        {"instruction": "Hi", "output": "Hello!"},
        {"prompt": "Hi", "completion": "Hello!"},
        {"prompt": ROWS[:1], "completion": ROWS[1:]},
        {"question": "Hi", "answer": "Hello!"},
    ],
)
def test_conversations(tmp_path, row):
    assert list(conversations(lines(tmp_path / "a.jsonl", row))) == [Conversation((USER, ANSWER))]


def test_alpaca_input_and_system_messages(tmp_path):
    system = {"from": "system", "value": "Be kind."}
    rows = (
        {"instruction": "Add", "input": "1, 2", "output": "3"},
        {"conversations": [system, {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]},
    )
    first, second = conversations(lines(tmp_path / "a.jsonl", *rows))
    assert first.messages[0].content == "Add\n\n1, 2"
    assert second.messages == (Message("system", "Be kind."), USER, ANSWER)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi", "chosen": "Good", "rejected": "Bad"},
        {"prompt": ROWS[:1], "chosen": [GOOD], "rejected": "Bad"},
        {"chosen": [ROWS[0], GOOD], "rejected": [ROWS[0], BAD]},
        {"chosen": "\n\nHuman: Hi\n\nAssistant: Good", "rejected": "\n\nHuman: Hi\n\nAssistant: Bad"},
        {"prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": " Good", "rejected": " Bad"},
        {"chosen": "Hi Good", "rejected": "Hi Bad"},
        {
            "input": {"messages": ROWS[:1], "tools": []},
            "preferred_output": [GOOD],
            "non_preferred_output": [BAD],
        },
        {  # UltraFeedback repeats the prompt
            "prompt": "Hi",
            "chosen": [ROWS[0], GOOD],
            "rejected": [ROWS[0], BAD],
            "score_chosen": 8.0,
            "score_rejected": 5.5,
        },
    ],
)
def test_comparisons(tmp_path, row):
    (found,) = comparisons(lines(tmp_path / "a.jsonl", row))
    assert found == Comparison((USER,), "Good", "Bad", 1)


def test_strength_and_ties(tmp_path):
    base = {"prompt": "Hi", "chosen": "Good", "rejected": "Bad"}
    rows = [base | {"strength": 4}, base | {"strength": 0}, base | {"score_chosen": 3, "score_rejected": 3}]
    assert [one.strength for one in comparisons(lines(tmp_path / "a.jsonl", *rows))] == [4, 0, 0]


def test_long_transcripts_keep_their_turns(tmp_path):
    start = "\n\nHuman: One\n\nAssistant: Two\nlines\n\n\n\nHuman: Three\n\nAssistant:"
    (found,) = comparisons(lines(tmp_path / "a.jsonl", {"chosen": start + " A", "rejected": start + " B"}))
    assert [message.content for message in found.prompt] == ["One", "Two\nlines", "Three"]
    assert (found.chosen, found.rejected) == ("A", "B")


def test_prompts_keep_what_else_is_known_as_meta(tmp_path):
    rows = [
        {"prompt": "Hi", "kind": "frog", "n": 3},
        {"question": "Hi", "answer": "Hello!"},
        {"messages": ROWS},
        {"instruction": "Hi", "input": "", "output": "Hello!"},
    ]
    found = list(prompts(lines(tmp_path / "a.jsonl", *rows)))
    assert [one.messages for one in found] == [(USER,)] * 4
    assert [one.meta for one in found] == [
        {"kind": "frog", "n": 3},
        {"answer": "Hello!"},
        {"answer": "Hello!"},
        {"output": "Hello!"},
    ]
    (tmp_path / "a.txt").write_text("Hi\n\nTell a story.\n")
    assert list(prompts(tmp_path / "a.txt")) == [Prompt((USER,)), Prompt((Message("user", "Tell a story."),))]


def test_gsm8k_reads_without_a_special_case():
    found = list(conversations(real("gsm8k-train.jsonl"), strict=True))
    assert len(found) == 7473
    assert found[0].messages[0].content.startswith("Natalia sold clips")
    assert found[0].messages[1].content.endswith("#### 72")


def test_hh_reads_with_its_odd_pairs_counted():
    skipped = Skipped()
    found = list(comparisons(real("hh-harmless-1700.jsonl"), skipped=skipped))
    assert len(found) + skipped.total == 1700
    assert skipped.counts == {"chosen and rejected answer different prompts": 2, "chosen is empty": 4}
    assert all(one.prompt[-1].role == "user" and one.prompt[0].role == "user" for one in found)
    assert not any("\n\nHuman:" in message.content for one in found for message in one.prompt)


def test_which_answer_was_seen_first_is_kept(tmp_path):
    base = {"prompt": "Hi", "chosen": "Good", "rejected": "Bad"}
    rows = [base, base | {"first": "chosen"}, base | {"first": "rejected"}]
    assert [one.first for one in comparisons(lines(tmp_path / "a.jsonl", *rows))] == ["", "chosen", "rejected"]
