"""A user's own text: every kind of file becomes a tokenizer, token shards, a model and a continuation."""

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from .make import SHAPE, SMALL, curve, pronk, same_weights, steps, told


def as_txt(path, texts):
    path.write_text("\n---\n".join(texts), encoding="utf-8")


def as_jsonl(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")


def as_parquet(path, texts):
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path)


def as_txt_gz(path, texts):
    path.write_bytes(gzip.compress("\n---\n".join(texts).encode()))


def as_jsonl_zst(path, texts):
    path.write_bytes(zstandard.compress("".join(json.dumps({"text": text}) + "\n" for text in texts).encode()))


KINDS = {
    "stories.txt": as_txt,
    "stories.jsonl": as_jsonl,
    "stories.parquet": as_parquet,
    "stories.txt.gz": as_txt_gz,
    "stories.jsonl.zst": as_jsonl_zst,
}
SPLIT = ("--read.separator", "\\n---\\n")  # only .txt files need it


@pytest.mark.parametrize("name", KINDS)
def test_from_text_to_a_continuation(tmp_path, capsys, name):
    data = tmp_path / name
    KINDS[name](data, told())
    pronk("tokenizer", "--data", data, "--out", tmp_path / "tokenizer", *SMALL, *SPLIT)
    pronk("prepare", "--data", data, "--tokenizer", tmp_path / "tokenizer", "--out", tmp_path / "data", *SPLIT)
    said = capsys.readouterr().out
    assert "400 tokens (bytelevel)" in said
    assert "split by document" in said
    source = ("--data", tmp_path / "data", "--tokenizer", tmp_path / "tokenizer")
    pronk("pretrain", *source, "--out", tmp_path / "run", *SHAPE, *steps(4))
    said = capsys.readouterr().out
    assert f"pretrain: the model is in {tmp_path / 'run' / 'model'}" in said
    pronk("generate", tmp_path / "run" / "model", "--no-chat", "--prompt", "Once", "--max-tokens", 5, "--seed", 1)
    assert capsys.readouterr().out.endswith("\n")


def test_every_kind_of_file_gives_the_same_tokens(tmp_path):
    """So the runs above differ in nothing but the file."""
    as_jsonl(tmp_path / "stories.jsonl", told())
    pronk("tokenizer", "--data", tmp_path / "stories.jsonl", "--out", tmp_path / "tokenizer", *SMALL)
    found = []
    for name, write in KINDS.items():
        write(tmp_path / name, told())
        out = tmp_path / f"of-{name}"
        pronk("prepare", "--data", tmp_path / name, "--tokenizer", tmp_path / "tokenizer", "--out", out, *SPLIT)
        found.append([(out / side / "tokens.bin").read_bytes() for side in ("train", "val")])
    assert all(one == found[0] for one in found)


def test_a_glob_is_one_source_and_pretrain_does_all_of_it_alone(tmp_path, capsys):
    """No tokenizer, no prepared data: pretrain makes them beside the run, and makes them once."""
    as_jsonl(tmp_path / "part-1.jsonl", told()[:60])
    as_txt_gz(tmp_path / "part-2.txt.gz", told()[60:])
    words = ("pretrain", "--data", tmp_path / "part-*", *SMALL, *SPLIT, *SHAPE, *steps(3))
    pronk(*words, "--out", tmp_path / "one")
    out, err = capsys.readouterr()
    assert "part-*: train: " in out
    assert err == ""
    assert (tmp_path / "one" / "tokenizer" / "tokenizer.json").exists()
    assert len(list((tmp_path / "one" / "data").glob("*/train/tokens.bin"))) == 1
    assert not list((tmp_path / "one" / "data").glob("*[*]*"))  # no file name that a shell would expand
    pronk(*words, "--out", tmp_path / "one", "--train.resume", "never")
    assert "split by" not in capsys.readouterr().out  # prepared already
    pronk(*words, "--out", tmp_path / "two")
    assert same_weights(tmp_path / "one", tmp_path / "two")


def test_sources_are_mixed_by_weight_and_each_has_its_loss(tmp_path):
    as_jsonl(tmp_path / "forest.jsonl", told()[:60])
    as_jsonl(tmp_path / "sea.jsonl.gz", told()[60:])
    (tmp_path / "sea.jsonl.gz").write_bytes(gzip.compress((tmp_path / "sea.jsonl.gz").read_bytes()))
    data = ("--data", tmp_path / "forest.jsonl", tmp_path / "sea.jsonl.gz", "--read.weights", 3, 1)
    words = ("--train.log-every", 1, "--train.eval-every", 5, "--out", tmp_path / "run")
    pronk("pretrain", *data, *SMALL, *SHAPE, *steps(10, batch=2), *words)
    training = [row for row in curve(tmp_path / "run") if "loss" in row]
    validation = [row for row in curve(tmp_path / "run") if "val_loss" in row]
    assert [row["step"] for row in training] == [*range(1, 11)]
    assert [row["step"] for row in validation] == [5, 10]
    both = [row for row in training if "loss/forest" in row and "loss/sea" in row]
    assert 0 < len(both) < 10  # two rows do not always hold both; then nothing is said of the other, least of all 0
    for row in training:
        parts = [value for name, value in row.items() if name.startswith("loss/")]
        assert 1 < min(parts) <= row["loss"] + 1e-5 and row["loss"] - 1e-5 <= max(parts)
    for row in validation:
        low, high = sorted((row["val_loss/forest"], row["val_loss/sea"]))
        assert 1 < low <= row["val_loss"] <= high


def test_two_sources_of_one_name_are_told_apart(tmp_path):
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        as_jsonl(tmp_path / place / "stories.jsonl", told()[60 * (place == "b") :][:60])
    data = ("--data", tmp_path / "a" / "stories.jsonl", tmp_path / "b" / "stories.jsonl")
    pronk("pretrain", *data, *SMALL, *SHAPE, *steps(3), "--out", tmp_path / "run")
    names = {name for row in curve(tmp_path / "run") for name in row if name.startswith("val_loss/")}
    assert len(names) == 2


def test_without_validation_nothing_is_said_of_it(tmp_path, capsys):
    as_jsonl(tmp_path / "stories.jsonl", told())
    words = ("--data", tmp_path / "stories.jsonl", "--read.validation", 0, *SMALL, *SHAPE, *steps(3))
    pronk("pretrain", *words, "--out", tmp_path / "run")
    said = capsys.readouterr().out
    assert "no validation loss" in said and "nan" not in said
    assert not any("val_loss" in row for row in curve(tmp_path / "run"))
