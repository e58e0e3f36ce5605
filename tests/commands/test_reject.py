"""`pronk reject` as its users type it: rounds of sampling and tuning, stopped, resumed, and their mistakes."""

import json
import shutil

import pytest
from journeys.make import SHAPE, SMALL, fails, jsonl, pronk, same_weights, steps, write_prompts
from journeys.make import write_stories as write_them

from pronk.world.tell import OPEN_PROMPTS

REWARD = """
import os

def short(sample):
    return 20.0 - len(sample.ids)

def deadly(samples):
    if len(samples) and os.environ.get("DIE"):
        raise KeyboardInterrupt
    return [20.0 - len(s.ids) for s in samples]

def endless(sample):
    return float("nan")

def words(sample):
    return "many"
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reject")
    pronk("pretrain", "--data", write_them(folder), "--out", folder / "run", *SMALL, *SHAPE, *steps(2))
    write_prompts(folder)
    (folder / "mine.py").write_text(REWARD)
    asked = [{"prompt": prompt, "completion": "ab" * (1 + i % 4)} for i in range(4) for prompt in OPEN_PROMPTS[:6]]
    begin = ("--model", folder / "run" / "model", "--data", jsonl(folder / "short.jsonl", asked))
    pronk("sft", *begin, "--out", folder / "tuned", *steps(40, length=64, batch=4), "--optim.lr", 1e-2)
    return folder


@pytest.fixture(autouse=True)
def there(here, monkeypatch):
    monkeypatch.chdir(here)


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def words(*more, reward="short"):
    begin = ("reject", "--model", "tuned/model", "--prompts", "prompts.jsonl", "--reward", f"mine.py:{reward}")
    small = ("--n", 6, "--max-tokens", 12, *steps(4, length=64, batch=2), "--train.save-every", 2)
    return (*begin, *small, *more)


def test_two_rounds_end_in_a_model(tmp_path, capsys):
    out = tmp_path / "out"
    pronk(*words("--rounds", 2, "--threshold", 8, "--out", out))
    said = capsys.readouterr().out
    assert "pass@4" in said and "at most 0.96 nats" in said
    for number in (1, 2):
        folder = out / f"round-{number}"
        answers, kept = rows(folder / "answers.jsonl"), rows(folder / "kept.jsonl")
        assert len(answers) == 36 and 0 < len(kept) <= 6
        best = {}
        for row in answers:
            if row["finish"] == "stop" and row["text"].strip():
                best[row["prompt"]] = max(best.get(row["prompt"], row["score"]), row["score"])
        found = {(m[0]["content"], m[1]["content"]) for m in (row["messages"] for row in kept)}
        scores = {(row["prompt"], row["text"]): row["score"] for row in answers}
        assert all(scores[one] == best[one[0]] >= 8 for one in found)
        for pair in rows(folder / "comparisons.jsonl"):
            asked = pair["prompt"][-1]["content"]
            assert scores[asked, pair["chosen"]] > scores[asked, pair["rejected"]]
        results = json.loads((folder / "results.json").read_text())
        right = [row["score"] >= 8 for row in answers]
        assert results["pass"]["pass@1"]["value"] == pytest.approx(sum(right) / 36)
    assert same_weights(out, out / "round-2" / "sft")
    assert not same_weights(out, out / "round-1" / "sft")
    first = json.loads((out / "round-1" / "results.json").read_text())
    again = tmp_path / "again"
    pronk("reject", out / "config.toml", "--out", again)
    assert same_weights(out, again)
    assert first == json.loads((again / "round-1" / "results.json").read_text())


def test_a_run_that_was_cut_off_goes_on_to_the_same_weights(tmp_path, capsys, monkeypatch):
    out, whole = tmp_path / "out", tmp_path / "whole"
    asked = words("--rounds", 2, reward="deadly")
    pronk(*asked, "--out", out)
    shutil.copytree(out, whole)
    shutil.rmtree(out / "model")  # as if killed in the second round's tuning
    shutil.rmtree(out / "round-2" / "sft" / "model")
    shutil.rmtree(out / "round-2" / "sft" / "checkpoints" / "step-4")
    pronk(*asked, "--out", out)
    assert "round 2 has been sampled" in capsys.readouterr().out
    assert same_weights(out, whole)
    shutil.rmtree(out / "round-2")  # as if killed while it was sampling
    monkeypatch.setenv("DIE", "1")
    assert "stopped" in fails(capsys, *asked, "--out", out, code=130)
    assert not (out / "round-2").exists()
    monkeypatch.delenv("DIE")
    pronk(*asked, "--out", out)
    assert same_weights(out, whole)


def test_without_tuning_it_writes_what_it_kept(tmp_path):
    pronk(*words("--no-tune", "--keep", "passing", "--threshold", 0, "--comparisons", 2, "--out", tmp_path / "out"))
    names = {path.name for path in (tmp_path / "out" / "round-1").iterdir()}
    assert names == {"answers.jsonl", "kept.jsonl", "comparisons.jsonl", "results.json"}
    assert len(rows(tmp_path / "out" / "round-1" / "kept.jsonl")) > 6


def test_adapters_are_tuned_round_by_round(tmp_path):
    pronk(*words("--rounds", 2, "--lora.rank", 2, "--out", tmp_path / "out"))
    assert not same_weights(tmp_path / "out", "tuned")


def test_a_dry_run_shows_the_tuning(capsys, tmp_path):
    pronk(*words("--dry-run", "--out", tmp_path / "out"))
    assert "1 rounds of 6 answers" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--rounds", 2, "--no-tune"), "leave out --no-tune"),
        (("--rounds", 0), "--rounds must be at least 1"),
        (("--n", 0), "--n 0"),
        (("--temperature", 0), "give a number above 0"),
        (("--keep", "passing"), "needs a --threshold"),
        (("--threshold", 1000), "none of 36 answers is worth keeping"),
        (("--reward", "mine.py:endless"), "not a finite number"),
        (("--reward", "mine.py:words"), "give one number a sample"),
        (("--prompts", "none.jsonl"), "no such file"),
    ],
)
def test_mistakes_are_named(more, said, capsys, tmp_path):
    assert said in fails(capsys, *words(*more), "--out", tmp_path / "out")


def test_other_settings_are_refused(capsys, tmp_path):
    out = tmp_path / "out"
    pronk(*words("--no-tune", "--out", out))
    assert "n: 6 -> 5" in fails(capsys, *words("--no-tune", "--n", 5, "--out", out))
    pronk(*words("--no-tune", "--n", 5, "--train.resume", "never", "--out", out))
    assert len(rows(out / "round-1" / "answers.jsonl")) == 30
