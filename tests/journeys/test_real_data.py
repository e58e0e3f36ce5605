"""Real files, where a checkout has ../shared/data beside it: they go through with no special case."""

from pathlib import Path

import pytest

from .make import MODEL, metrics, pronk, steps


def real(name):
    for parent in Path(__file__).resolve().parents:
        if (parent / "shared" / "data" / name).is_file():
            return parent / "shared" / "data" / name
    pytest.skip(f"needs ../shared/data/{name}, which this checkout does not have")


def beginning(path, folder, characters):
    """The first lines of a large file, so that the test stays short."""
    kept = folder / path.name
    text = path.read_text(encoding="utf-8")[:characters]
    kept.write_text(text[: text.rindex("\n") + 1], encoding="utf-8")
    return kept


def losses(folder, name="loss"):
    return [row[name] for row in metrics(folder) if name in row]


def test_tinystories(tmp_path, capsys):
    data = real("tinystories-sample.txt")
    shape = (*MODEL, "--model.context", 128, "--train.log-every", 5)
    pronk("pretrain", "--data", data, "--out", tmp_path / "run", *shape, *steps(15, batch=8, length=128))
    assert losses(tmp_path / "run")[-1] < losses(tmp_path / "run")[0] - 0.3
    capsys.readouterr()
    pronk("generate", tmp_path / "run" / "model", "--prompt", "Once upon a time", "--no-chat", "--max-tokens", 8)
    assert capsys.readouterr().out.strip()


def test_gsm8k(raised, tmp_path):
    data = beginning(real("gsm8k-train.jsonl"), tmp_path, 200_000)
    shape = (*MODEL, "--model.context", 512)
    words = ("--data", data, "--out", tmp_path / "pretrain", *shape, "--read.key", "question")
    pronk("pretrain", *words, *steps(5))
    begin = ("--model", tmp_path / "pretrain" / "model", "--data", data, "--train.log-every", 2)
    pronk("sft", *begin, "--out", tmp_path / "sft", *steps(10, length=512))
    assert losses(tmp_path / "sft")[-1] < losses(tmp_path / "sft")[0] - 0.05
    assert losses(tmp_path / "sft", "val_loss")[-1] > 1


def test_shakespeare_in_characters(tmp_path):
    data = beginning(real("tinyshakespeare.txt"), tmp_path, 200_000)
    read = ("--vocabulary.kind", "char", "--read.order", "windows", "--read.split", "tail")
    words = ("--data", data, "--out", tmp_path / "run", *read, *MODEL, "--train.log-every", 5)
    pronk("pretrain", *words, *steps(15, batch=8))
    assert losses(tmp_path / "run")[-1] < losses(tmp_path / "run")[0] - 0.3
    assert losses(tmp_path / "run", "val_loss")[-1] < 4.4  # below the loss of a uniform guess over its characters


@pytest.mark.parametrize("name", ["shakespeare-cpu.toml", "shakespeare-gpu.toml"])
def test_the_files_of_runs_are_true(name, tmp_path, capsys):
    """Every key that they set is one that exists."""
    file = Path(__file__).resolve().parents[2] / "runs" / name
    pronk("pretrain", file, "--data", "tinyshakespeare.txt", "--dry-run", "--train.device", "cpu")
    assert "parameters" in capsys.readouterr().out
