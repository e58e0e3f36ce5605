"""`pronk annotate` on a tiny folder: comparisons that can be read back, and a truth for two models."""

import json

import pytest

from pronk.cli import main
from pronk.commands.annotate import Config, comparison, judge, summary
from pronk.data.read import comparisons
from pronk.world.annotators import utility
from pronk.world.tell import stories

from .test_generate import saved


@pytest.fixture(scope="module")
def pairs():
    texts = [story.text for story in stories(400, 0)]
    return [("Tell a story.", a, b) for a, b in zip(texts[::2], texts[1::2])]


def test_comparisons_follow_the_truth(pairs):
    votes = judge(Config(("x",), "", annotators=4, noise=0.01, disagreement=0.0, careless=0.0), pairs)
    rows = [row for vote in votes if (row := comparison(vote)) is not None]
    assert len(rows) == len(pairs)
    for row in rows:
        better, worse = utility(row["prompt"], row["chosen"]), utility(row["prompt"], row["rejected"])
        assert row["strength"] == 0 or better > worse
    assert {0, 1, 2, 3} <= {row["strength"] for row in rows}


def test_the_summary_tells_who_wins(pairs):
    cat = next(story.text for story in stories(400, 0) if story.kind == "cat")
    votes = judge(Config(("new", "old"), ""), [(prompt, cat, b) for prompt, _, b in pairs])
    lines = summary(Config(("new", "old"), ""), votes)
    assert len(lines) == 4
    assert "by true utility" in lines[3]
    assert float(lines[3].split("wins ")[1].split("%")[0]) > 90
    assert len(summary(Config(("new",), ""), votes)) == 2


def test_the_command_writes_a_file_that_reads_back(tmp_path, capsys):
    folder = str(saved(tmp_path / "model"))
    (tmp_path / "prompts.txt").write_text("Tell a story.\nTell a tale.\n")
    out = tmp_path / "new" / "pairs.jsonl"
    words = ["annotate", "--prompts", str(tmp_path / "prompts.txt"), "--out", str(out), "--votes", "6"]
    words += ["--max-tokens", "20", "--device", "cpu"]
    assert main([*words, "--model", folder]) == 0  # answers of random weights are all bad
    assert "6 votes" in capsys.readouterr().out
    assert all("chosen" in json.loads(line) for line in out.read_text().splitlines())
    assert main([*words, "--model", folder, folder, folder]) == 2
    assert "--model takes one folder or two, not 3" in capsys.readouterr().err


ASKING = {
    "annotate --model": ("--votes", "1", "--device", "cpu"),
    "evaluate --model": ("--n", "1", "--device", "cpu"),
    "reject --model": ("--no-tune", "--reward", "well-formed", "--train.device", "cpu"),
    "generate": ("--device", "cpu"),
}


@pytest.mark.parametrize("command", ASKING)
def test_an_unusable_prompt_is_told_and_fatal_under_strict(command, tmp_path, capsys):
    folder, file = str(saved(tmp_path / "model")), tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "Tell a story.", "answer": "1"}\n{"no": 1}\n')
    words = [*command.split(), folder, "--prompts", str(file), "--max-tokens", "4", *ASKING[command]]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "prompts.jsonl:2" in said.out + said.err
    assert main([*words, "--out", str(tmp_path / "other"), "--strict"]) == 2
    assert "prompts.jsonl:2" in capsys.readouterr().err


def test_rows_read_back_as_comparisons(tmp_path, pairs):
    rows = [comparison(vote) for vote in judge(Config(("x",), ""), pairs[:50])]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows if row))
    found = list(comparisons(file))
    assert [(c.chosen, c.strength) for c in found] == [(row["chosen"], row["strength"]) for row in rows if row]
