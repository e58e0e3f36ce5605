"""Bad input, by the message the user sees: it names file, line or key, and says the cure."""

import gzip
import json
import sys
import types

import pytest
import zstandard

from pronk.data.loader import Loader
from pronk.data.prepare import prepare
from pronk.data.read import Skipped, comparisons, conversations, documents, prompts
from pronk.data.shards import open_shards
from pronk.errors import UserError

from .make import counted, lines, tokenizer

HI = {"role": "user", "content": "Hi"}


def message(act, *arguments, **options):
    """What the user reads when this fails."""

    def run():
        result = act(*arguments, **options)
        return list(result) if hasattr(result, "__next__") else result

    with pytest.raises(UserError) as error:
        run()
    return str(error.value)


def told(act, path, *phrases, **options):
    text = message(act, path, **options)
    for phrase in phrases:
        assert phrase in text
    assert "Traceback" not in text
    return text


def test_missing_file(tmp_path):
    told(documents, tmp_path / "nope.txt", "nope.txt: no such file; check the name")


def test_no_input_named():
    told(documents, [], "no input named: give a file, a folder, a glob")


def test_glob_without_match(tmp_path):
    told(documents, str(tmp_path / "*.jsonl"), "*.jsonl: no file matches this pattern")


def test_folder_without_data(tmp_path):
    told(documents, tmp_path, "the folder holds no file that ends in .txt, .jsonl, .parquet")


def test_unknown_ending(tmp_path):
    (tmp_path / "a.csv").write_text("x")
    told(documents, tmp_path / "a.csv", "a.csv: unknown ending; pronk reads .txt, .jsonl, .parquet", "convert it")
    (tmp_path / "a.json").write_text("[]")
    told(documents, tmp_path / "a.json", "jq -c '.[]'")


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet", "a.jsonl.gz"])
def test_empty_file(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    told(documents, tmp_path / name, f"nothing usable is left in {tmp_path / name}: 1 × empty file")


def test_file_of_blank_lines(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n\n")
    told(documents, tmp_path / "a.jsonl", "2 × empty line", "a.jsonl:1, ")
    (tmp_path / "a.txt").write_text(" \n ")
    told(documents, tmp_path / "a.txt", "1 × text is empty")


def test_text_that_is_not_utf8(tmp_path):
    (tmp_path / "a.txt").write_bytes("fine\ncafé".encode("latin1"))
    told(documents, tmp_path / "a.txt", "a.txt:2", "not UTF-8", "iconv")


def test_bad_lines_are_counted_and_fatal_only_when_strict(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'{"text": "One"}\n{"text": "caf\xe9"}\n{"text": \n\n[1]\n{"text": ""}\n{"text": 3}\n{"body": "x"}\n'
    )
    skipped = Skipped()
    assert [one.text for one in documents(path, skipped=skipped)] == ["One"]
    assert skipped.total == 7
    report = "\n".join(skipped.report())
    for place, reason in (
        (2, "not UTF-8"),
        (3, "broken JSON"),
        (4, "empty line"),
        (5, "expected an object with the key 'text', found list"),
        (6, "text is empty"),
        (7, "text is no text but int"),
        (8, "no key 'text' (keys here: body)"),
    ):
        assert f"1 × {reason}: {path}:{place}" in report
    told(documents, path, "a.jsonl:2: not UTF-8 (byte 14 of the line)", "without strict", strict=True)


def test_report_counts_and_names_the_first_places(tmp_path):
    path = lines(tmp_path / "a.jsonl", {"text": "x"}, *["broken"] * 5)
    skipped = Skipped()
    list(documents(path, skipped=skipped))
    assert skipped.report() == [f"5 × broken JSON: {path}:2, {path}:3, {path}:4, …"]


def test_missing_key_names_the_keys_there(tmp_path):
    path = lines(tmp_path / "a.jsonl", *[{"story": "x", "id": 1}] * 3)
    told(documents, path, "nothing usable is left", "3 × no key 'text' (keys here: story, id)", f"{path}:1")
    told(
        conversations, path, "none of the keys messages, conversations, instruction, prompt, question (keys here: story"
    )
    told(comparisons, path, "no key 'chosen' (keys here: story, id)")
    told(prompts, path, "none of the keys prompt, messages, question, instruction (keys here: story, id)")


def test_damaged_compressed_and_parquet_files(tmp_path):
    whole = gzip.compress(b'{"text": "One"}\n' * 1000)
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[:-20])
    told(documents, tmp_path / "cut.jsonl.gz", "cut.jsonl.gz: the file is damaged or cut short", "fetch it again")
    (tmp_path / "cut.jsonl.zst").write_bytes(zstandard.compress(b'{"text": "One"}\n' * 1000)[:-5])
    told(documents, tmp_path / "cut.jsonl.zst", "cut.jsonl.zst: the file is damaged or cut short", "fetch it again")
    for name in ("a.txt.gz", "a.jsonl.zst", "a.parquet"):
        (tmp_path / name).write_bytes(b"this is not compressed")
        told(documents, tmp_path / name, f"{name}: ", "damaged", "fetch it again")


def test_lone_surrogate_in_json(tmp_path):
    told(documents, lines(tmp_path / "a.jsonl", '{"text": "a\\ud83d"}'), "half a character (a lone surrogate)")


def test_very_deep_json(tmp_path):
    told(documents, lines(tmp_path / "a.jsonl", "[" * 200_000), "1 × broken JSON")


def test_data_set_that_cannot_be_had(monkeypatch):
    def offline(*names, **options):
        raise ConnectionError("Couldn't reach the Hub\nmore lines")

    fake = types.ModuleType("datasets")
    fake.load_dataset = offline
    monkeypatch.setitem(sys.modules, "datasets", fake)
    told(
        documents,
        "owner/name",
        "owner/name: no such file, and the Hugging Face hub",
        "Couldn't reach the Hub",
        "network",
    )
    monkeypatch.setitem(sys.modules, "datasets", None)  # not installed
    told(documents, "owner/name", "pip install 'pronk[hub]'")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": []}, "the messages must be a list with something in it"),
        ({"messages": "Hi"}, "the messages must be a list"),
        ({"messages": ["Hi"]}, "a message must be an object with role and content"),
        ({"messages": [{"role": "user"}]}, "no key 'content' (keys here: role)"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "unknown role 'tool'"),
        ({"messages": [HI]}, "the assistant says nothing"),
        ({"messages": [HI, {"role": "assistant", "content": " "}]}, "content of the assistant is empty"),
        ({"messages": [{"role": ["user"], "content": "Hi"}]}, "unknown role"),
        ({"question": "Hi"}, "no key 'answer' (keys here: question)"),
        ({"prompt": "Hi", "completion": None}, "must be a list with something in it, not NoneType"),
    ],
)
def test_unusable_conversations(tmp_path, row, reason):
    told(conversations, lines(tmp_path / "a.jsonl", row), reason)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "Hi", "chosen": "A"}, "no key 'rejected' (keys here: prompt, chosen)"),
        ({"prompt": "Hi", "chosen": "A", "rejected": "A"}, "both answers are the same"),
        ({"prompt": "Hi", "chosen": "A", "rejected": " "}, "rejected is empty"),
        ({"prompt": "Hi", "chosen": "A", "rejected": "B", "strength": 9}, "strength must be a whole number from 0"),
        ({"chosen": "\n\nHuman: a\n\nAssistant: A", "rejected": "\n\nHuman: b\n\nAssistant: B"}, "different prompts"),
        ({"chosen": "abc", "rejected": "xyz"}, "share no beginning"),
        ({"chosen": [HI], "rejected": [HI | {"content": "B"}]}, "one message of the assistant"),
        ({"prompt": "", "chosen": "A", "rejected": "B"}, "prompt is empty"),
    ],
)
def test_unusable_comparisons(tmp_path, row, reason):
    told(comparisons, lines(tmp_path / "a.jsonl", row), reason)


def test_plain_text_where_conversations_are_needed(tmp_path):
    (tmp_path / "a.txt").write_text("Hi")
    told(conversations, tmp_path / "a.txt", "plain text where a row with keys is needed: use .jsonl or .parquet")


def test_too_few_tokens_for_one_sequence(tmp_path):
    shards = counted(tmp_path / "a", [5, 5])
    assert "too few tokens for one sequence of 64: the data can fill 8; use a length of at most 8" in message(
        Loader, shards, 64, 1
    )
    assert "use a length of at most 9" in message(Loader, shards, 64, 1, order="windows")
    assert len(next(iter(Loader(shards, 8, 1)))) == 1
    assert len(next(iter(Loader(shards, 9, 1, order="windows")))) == 1


def test_shards_that_are_not_there_or_damaged(tmp_path):
    counted(tmp_path / "data" / "train", [5, 5])
    told(open_shards, tmp_path / "nothing", "no prepared data here", "pronk prepare")
    told(open_shards, tmp_path / "data", f"did you mean {tmp_path / 'data' / 'train'}?")
    tokens = tmp_path / "data" / "train" / "tokens.bin"
    tokens.write_bytes(tokens.read_bytes()[:-1])
    told(open_shards, tmp_path / "data" / "train", "tokens.bin: has 39 bytes instead of 40", "prepare the data again")
    meta = tmp_path / "data" / "train" / "meta.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"tokens": "many"}))
    told(open_shards, tmp_path / "data" / "train", "meta.json: damaged")


def test_a_corpus_that_cannot_be_split(tmp_path):
    row = {"question": "Hi", "answer": "Hello!"}
    path = lines(tmp_path / "a.jsonl", row)
    text = message(prepare, path, tmp_path / "out", tokenizer(), "conversations")
    assert "too few documents to split: give more, or validation 0" in text
    text = message(prepare, path, tmp_path / "out", tokenizer(), "conversations", split="document")
    assert "a single document cannot be split by document" in text
    assert "validation 1.5 must be" in message(prepare, path, tmp_path / "out", tokenizer(), validation=1.5)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("extra", "said"),
    [({"first": "left"}, "first must be"), ({"score_chosen": 2, "score_rejected": 3}, "score_chosen is below")],
)
def test_comparisons_that_contradict_themselves_are_refused(tmp_path, extra, said):
    row = {"prompt": "Hi", "chosen": "A", "rejected": "B"} | extra
    with pytest.raises(UserError, match=said):
        list(comparisons(lines(tmp_path / "a.jsonl", row)))
