"""`pronk task`, `pronk evaluate` and the grade as a reward, as their users type them."""

import json

import pytest
import torch
from journeys.make import ON_CPU, fails, jsonl, pronk

from pronk.commands.evaluate import measure, tally
from pronk.data.records import Sample
from pronk.engine.engine import Engine
from pronk.folders.huggingface import save
from pronk.models.build import build
from pronk.models.config import ModelConfig
from pronk.text.bpe import train


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("task")
    pronk("task", "arithmetic", "--out", folder, "--worked", 60, "--prompts", 30, "--test", 20)
    tokenizer = train([row["text"] for row in rows(folder / "text.jsonl")], "char", 512)
    torch.manual_seed(0)
    model = build(ModelConfig(vocab=tokenizer.size, width=32, layers=1, heads=2, context=128, multiple_of=8))
    save(folder / "model", model, tokenizer)
    return folder


def test_the_files_are_what_the_other_commands_read(here):
    assert {name: len(rows(here / f"{name}.jsonl")) for name in ("text", "sft", "prompts", "test")} == {
        "text": 60,
        "sft": 60,
        "prompts": 30,
        "test": 20,
    }
    asked = {row["prompt"] for row in rows(here / "prompts.jsonl")}
    asked |= {row["messages"][0]["content"] for row in rows(here / "sft.jsonl")}
    assert not asked & {row["prompt"] for row in rows(here / "test.jsonl")}
    assert all(eval(row["prompt"].removesuffix("=?")) == int(row["answer"]) for row in rows(here / "prompts.jsonl"))
    before = (here / "sft.jsonl").read_bytes()
    pronk("task", "arithmetic", "--out", here, "--worked", 60, "--prompts", 30, "--test", 20)
    assert (here / "sft.jsonl").read_bytes() == before


def test_some_answers_slip(tmp_path, capsys):
    pronk("task", "arithmetic", "--out", tmp_path, "--worked", 200, "--prompts", 5, "--test", 5, "--slips", 0.3)
    shown = [row["messages"][1]["content"] for row in rows(tmp_path / "sft.jsonl")]
    right = [row["text"].partition("\n")[2] for row in rows(tmp_path / "text.jsonl")]
    assert 80 < sum(a != b for a, b in zip(shown, right)) < 170
    assert "only arithmetic" in fails(capsys, "task", "copying", "--slips", 0.5)
    assert "--slips 2: give a rate" in fails(capsys, "task", "arithmetic", "--slips", 2)


def test_evaluation_counts_right_answers_by_level(here, tmp_path, capsys, monkeypatch):
    """A model that answers every other time rightly, whatever is asked."""
    seen = []

    def generate(self, prompts, sampling):
        seen.append(len(prompts))
        asked = [row["answer"] for row in rows(here / "test.jsonl")]
        texts = [f"so\n#### {asked[i] if j % 2 else 'x'}" for i in range(len(prompts)) for j in range(sampling.n)]
        return [Sample(None, text, [1], [2], [0.0], "stop") for text in texts]  # as a Completion: text, ids, finish

    monkeypatch.setattr(
        Engine,
        "generate",
        lambda self, prompts, sampling: [as_completion(x) for x in generate(self, prompts, sampling)],
    )
    test = ("--prompts", here / "test.jsonl", "--n", 4, "--k", 1, 2, "--device", "cpu")
    pronk("evaluate", here / "model", *test, "--out", tmp_path / "found")
    said = capsys.readouterr().out
    assert "one-digit" in said and "two-step" in said and "pass@2" in said
    results = json.loads((tmp_path / "found" / "results.json").read_text())
    assert results["all"]["problems"] == 20
    assert results["all"]["pass@1"]["value"] == 0.5
    assert results["all"]["pass@2"]["value"] == pytest.approx(1 - 1 / 6)
    assert results["all"]["pass@1"]["low"] < 0.5 < results["all"]["pass@1"]["high"]
    answers = rows(tmp_path / "found" / "answers.jsonl")
    assert len(answers) == 80 and sum(row["right"] for row in answers) == 40


def as_completion(sample):
    from pronk.engine.sequence import Completion

    return Completion(sample.prompt_ids, sample.ids, sample.logps, sample.finish, sample.text, 0)


def test_results_by_level():
    right = tally([True, False, True, True, False, False], 2)
    assert right == [1, 2, 0]
    found = measure(["a", "b", "a"], right, 2, (1, 2))
    assert [found[name]["pass@1"]["value"] for name in ("a", "b", "all")] == [0.25, 1.0, 0.5]
    assert found["all"]["pass@2"]["value"] == pytest.approx(2 / 3)
    assert list(measure(["a"], [1], 2, (1,))) == ["a"]


def test_a_random_model_is_graded_and_rewarded(here, tmp_path, capsys):
    """The same object grades in evaluation and in RL."""
    pronk("evaluate", here / "model", "--count", 5, "--n", 2, "--max-tokens", 12, "--device", "cpu")
    assert "all" in capsys.readouterr().out
    words = ("--model", here / "model", "--prompts", here / "prompts.jsonl", "--reward", "task:arithmetic")
    small = ("--train.steps", 1, "--rollout.prompts", 2, "--rollout.max-tokens", 8)
    pronk("rl", *words, *small, *ON_CPU, "--out", tmp_path / "rl")
    (row,) = [row for row in rows(tmp_path / "rl" / "metrics.jsonl") if "reward/mean" in row]
    assert row["reward/task:arithmetic"] == row["reward/mean"]


def test_questions_of_ones_own_are_graded(here, tmp_path, capsys):
    own = [{"question": f"{i} apples and 1?", "answer": f"It is {i}+1.\n#### {i + 1}"} for i in range(3)]
    path = jsonl(tmp_path / "own.jsonl", own)
    words = ("--n", 1, "--temperature", 0, "--max-tokens", 5, "--device", "cpu")
    pronk("evaluate", here / "model", "--task", "gsm8k", "--prompts", path, *words)
    assert "gsm8k" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--task", "gsm8k"), "name your file with --prompts"),
        (("--k", 32), "pass@k needs k from 1 to --n 16"),
        (("--n", 0), "--n 0"),
        (("--temperature", 0), "set --n 1"),
        (("--temperature", -1), "give a number above 0"),
        (("--count", 0), "--count must be at least 1"),
        (("--levels", "hard"), "no level 'hard'"),
        (("--prompts", "test.jsonl", "--levels", "hard"), "no prompt is of a level among hard"),
        (("--prompts", "bare.jsonl", "--count", 1, "--n", 1, "--max-tokens", 2), 'a prompt has no "answer"'),
    ],
)
def test_mistakes_are_named(here, capsys, monkeypatch, words, said):
    monkeypatch.chdir(here)
    jsonl(here / "bare.jsonl", [{"prompt": "1+1=?"}])
    assert said in fails(capsys, "evaluate", "model", "--device", "cpu", *words)


def test_an_unknown_task_is_no_reward(here, capsys):
    words = ("--model", here / "model", "--prompts", here / "prompts.jsonl", "--reward", "task:poetry")
    words = (*words, "--rollout.max-tokens", 8, "--out", here / "poetry", *ON_CPU)
    assert "no such reward; there are subject, " in fails(capsys, "rl", *words)
