"""`pronk generate` and `pronk chat` as their users type them, on a tiny folder with random weights."""

import io
import json
import sys

import pytest
import torch

import pronk.commands.chat as chat
from pronk.cli import main
from pronk.commands.generate import Options, open_model, to_sampling
from pronk.errors import UserError
from pronk.folders.huggingface import save
from pronk.models.build import build
from pronk.models.config import ModelConfig
from pronk.text.bpe import train


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(saved(tmp_path_factory.mktemp("models") / "model"))


def saved(path, template=True, generation=None):
    tokenizer = train(["Once upon a time there was a cat. It sat on a mat and saw a rat."] * 3, "bytelevel", 300)
    if not template:
        tokenizer.template = ""
    torch.manual_seed(0)
    model = build(ModelConfig(vocab=tokenizer.size, width=32, layers=2, context=64, multiple_of=8))
    save(path, model, tokenizer, generation)
    return path


def said(capsys, *words):
    code = main(list(words))
    return code, *capsys.readouterr()


def piped(monkeypatch, text):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


# ── generate


def test_one_prompt_prints_its_answer_alone(folder, capsys):
    words = ("generate", folder, "--prompt", "A cat", "--max-tokens", "8", "--seed", "1")
    code, first, _ = said(capsys, *words)
    assert code == 0
    assert first.endswith("\n")
    assert said(capsys, *words)[1] == first
    assert said(capsys, *words[:-1], "2")[1] != first
    assert said(capsys, *words, "--no-chat")[1] != first


def test_answers_differ_from_run_to_run_without_a_seed(folder, capsys):
    words = ("generate", folder, "--prompt", "A cat", "--max-tokens", "20")
    assert said(capsys, *words)[1] != said(capsys, *words)[1]


def test_several_prompts_and_answers_are_told_apart(folder, capsys):
    code, out, _ = said(capsys, "generate", folder, "--prompt", "A cat", "A rat", "--n", "3", "--max-tokens", "8")
    assert code == 0
    assert out.count("── ") == 2
    assert "── A rat\n1. " in out
    assert "\n3. " in out


def test_a_file_of_prompts_and_a_file_of_answers(folder, tmp_path, capsys):
    asked = tmp_path / "asked.jsonl"
    asked.write_text('{"prompt": "A cat"}\nbroken\n{"messages": [{"role": "user", "content": "A rat"}]}\n')
    out = tmp_path / "new" / "answers.jsonl"
    words = ("--prompts", str(asked), "--out", str(out), "--n", "2", "--max-tokens", "8", "--temperature", "0.7")
    code, printed, errors = said(capsys, "generate", "--model", folder, *words)
    assert code == 0
    assert "4 answers" in printed
    assert "asked.jsonl:2" in errors
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["A cat", "A cat", "A rat", "A rat"]
    assert all(len(row["ids"]) == len(row["logps"]) <= 8 and row["finish"] in ("stop", "length") for row in rows)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "--prompt"),
        (["--prompt", "x", "--temperature", "-1"], "temperature must be 0"),
        (["--prompt", "a cat sat " * 40], "context of 64"),
        (["--prompt", "x", "--temprature", "1"], "did you mean --temperature"),
    ],
)
def test_mistakes_are_named(folder, capsys, words, says):
    code, _, errors = said(capsys, "generate", folder, *words)
    assert code == 2
    assert says in errors


def test_the_folders_generation_config_counts_where_the_user_says_nothing(tmp_path):
    folder = saved(tmp_path / "model", generation={"temperature": 0.25, "top_k": 7, "eos_token_id": [1, 2]})
    opened = open_model(Options(str(folder), seed=1), chat=True, slots=1)
    assert opened.stop == (opened.tokenizer.eos, 1, 2)
    sampling = to_sampling(Options(str(folder), top_k=0), opened)
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.25, 0, 1.0)


# ── chat


def test_piped_lines_get_one_plain_answer_each(folder, capsys, monkeypatch):
    piped(monkeypatch, "Tell a story.\n\nAnother.\n")
    code, out, errors = said(capsys, "chat", folder, "--max-tokens", "5", "--temperature", "0")
    assert code == 0
    assert errors == ""
    assert out.count("\n") >= 2


def test_a_seeded_conversation_repeats(folder, capsys, monkeypatch):
    found = []
    for seed in ("5", "5", "6"):
        piped(monkeypatch, f"Hello.\n/seed {seed}\nOnce more.\n/quit\nnever heard\n")
        found.append(said(capsys, "chat", folder, "--max-tokens", "12", "--seed", "1")[1])
    assert found[0] == found[1] != found[2]


def test_commands_of_the_conversation(folder, capsys, monkeypatch):
    piped(monkeypatch, "/temperature 0\n/temperature warm\n/temperature -2\n/seed\n/reset\n/dance\n")
    code, out, errors = said(capsys, "chat", folder)
    assert (code, out) == (0, "")
    assert "needs a number, not 'warm'" in errors
    assert "temperature must be 0" in errors
    assert "/seed needs a number" in errors
    assert "forgotten" in errors
    assert chat.HELP in errors


def session(folder, **options):
    config = chat.Config(folder, max_tokens=8, seed=1, **options)
    return chat.Session(config, open_model(config, True, 1))


def test_the_oldest_turns_are_dropped_with_a_notice(folder, capsys):
    talk = session(folder)
    for _ in range(6):
        talk.hear("A cat sat on a mat.")
    assert "forgot the oldest" in capsys.readouterr().err
    assert [m.role for m in talk.said] == ["user", "assistant"] * (len(talk.said) // 2)
    talk.hear("A cat sat on a mat. " * 20)
    assert "ask it shorter" in capsys.readouterr().err
    talk.hear("A cat.")
    assert talk.said[-2].content == "A cat."


def test_without_history_each_question_is_asked_afresh(folder):
    talk = session(folder, history=False)
    talk.hear("A cat.")
    talk.hear("A rat.")
    assert [m.content for m in talk.said if m.role == "user"] == ["A rat."]


def test_ctrl_c_stops_the_answer_and_not_the_conversation(folder, capsys, monkeypatch):
    talk = session(folder)
    plain = talk.opened.engine.stream

    def interrupted(*words):
        for place, piece in enumerate(plain(*words)):
            if place == 3:
                raise KeyboardInterrupt
            yield piece

    monkeypatch.setattr(talk.opened.engine, "stream", interrupted)
    talk.hear("A cat.")
    assert "stopped" in capsys.readouterr().err
    monkeypatch.undo()
    talk.hear("A rat.")
    assert len(talk.said) == 4


def test_a_terminal_is_asked_line_by_line(monkeypatch, capsys):
    lines = iter(["Hello.", KeyboardInterrupt, "again", EOFError])

    def answer(_):
        line = next(lines)
        if not isinstance(line, str):
            raise line
        return line

    monkeypatch.setattr("builtins.input", answer)
    assert list(chat.typed()) == ["Hello.", "again"]
    assert "/quit" in capsys.readouterr().err


def test_a_model_without_template_cannot_chat(tmp_path):
    folder = saved(tmp_path / "model", template=False)
    with pytest.raises(UserError, match="no chat template"):
        chat.run(chat.Config(str(folder)))
