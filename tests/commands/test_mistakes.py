"""What users get wrong, through the command line: each message names file, line or option, and the cure."""

import contextlib
import errno
import os

import pytest
import torch
from journeys.make import MODEL, ON_CPU, SHAPE, SMALL, fails, jsonl, pronk, rounds, steps, write_prompts, write_requests
from journeys.make import write_stories as write_them

import pronk.data.shards as shards
from pronk.commands import COMMANDS, load
from pronk.learn import checkpoint
from pronk.learn.learner import Learner

TINY = (*SMALL, *SHAPE, *steps(2))


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with files and a model to make mistakes with."""
    folder = tmp_path_factory.mktemp("mistakes")
    pronk("pretrain", "--data", write_them(folder), "--out", folder / "run", *TINY)
    write_requests(folder)
    write_prompts(folder)
    (folder / "empty.txt").write_text("")
    (folder / "latin.jsonl").write_bytes(b'{"text": "One"}\n{"text": "caf\xe9"}\n{"text": "Two"}\n')
    (folder / "small.txt").write_text("A small text.")
    (folder / "broken.toml").write_text('out = "x"\n[model\nlayers = 2\n')
    (folder / "wrong-key.toml").write_text("[model]\nlayer = 2\n")
    jsonl(folder / "long.jsonl", [{"prompt": "Tell a story. " * 60}])
    (folder / "rewards.py").write_text("def sad(sample):\n    return 'a lot'\n\ndef few(samples):\n    return [1.0]\n")
    (folder / "broken.py").write_text("def broken(sample):\n    return 1 / 0\n")
    (folder / "unreadable.py").write_text("def broken(sample:\n")
    return folder


@pytest.fixture(autouse=True)
def there(here, monkeypatch):
    monkeypatch.chdir(here)


PRETRAIN, SFT = ("pretrain", "--out", "new", *TINY), ("sft", "--out", "new", "--data", "requests.jsonl", *steps(2))
RL = ("rl", "--out", "new", "--model", "run/model", *rounds(1))
ASK = (*RL, "--prompts", "prompts.jsonl")

MISTAKES = {
    "empty file": ((*PRETRAIN, "--data", "empty.txt"), ["nothing usable is left in empty.txt", "empty file"]),
    "missing file": (
        (*PRETRAIN, "--data", "storys.jsonl"),
        ["storys.jsonl: no such file", "check the name and the folder you are in"],
    ),
    "no file": (PRETRAIN, ["nothing to train on", "--data"]),
    "unknown ending": ((*PRETRAIN, "--data", "broken.toml"), ["broken.toml: unknown ending", "pronk reads .txt"]),
    "not UTF-8, strict": (
        (*PRETRAIN, "--data", "latin.jsonl", "--strict"),
        ["latin.jsonl:2: not UTF-8 (byte 14 of the line)", "skipped and counted"],
    ),
    "missing key": (
        (*PRETRAIN, "--data", "stories.jsonl", "--read.key", "story"),
        ["120 × no key 'story' (keys here: text): stories.jsonl:1"],
    ),
    "too few tokens": (
        (*PRETRAIN, "--data", "small.txt"),
        ["small", "too few tokens for one sequence of 64", "use a length of at most", "give more data"],
    ),
    "prepared data without their tokenizer": (
        (*PRETRAIN, "--data", "run/data/stories"),
        ["prepared data needs the tokenizer it was made with", "--tokenizer FOLDER"],
    ),
    "tokenizer of other data": (
        (*PRETRAIN, "--data", "run/data/stories", "--tokenizer", "other"),
        ["run/data/stories/train", "other tokenizer"],
    ),
    "tokenizer too large for the model": (
        (*PRETRAIN, "--data", "stories.jsonl", "--model.vocab", 100),
        ["--model.vocab 100 is too small for the tokenizer's 400 tokens"],
    ),
    "tokenizer that does not fit the model folder": (
        (*SFT, "--model", "patched"),
        ["patched: the tokenizer has 500 tokens but the model's vocabulary only 400", "use the tokenizer"],
    ),
    "no model folder": ((*SFT, "--model", "nowhere"), ["nowhere: no such folder"]),
    "unknown option": (
        (*PRETRAIN, "--train.lenght", 64),
        ["--train.lenght: unknown option; did you mean --train.length?"],
    ),
    "unknown command": (("pretrian",), ["there is no command 'pretrian'; did you mean pretrain?"]),
    "wrong type": (
        (*PRETRAIN, "--model.layers", "two"),
        ["--model.layers: expected a whole number, got 'two'"],
    ),
    "wrong choice": (
        (*PRETRAIN, "--optim.optimizer", "adam"),
        ["--optim.optimizer: expected one of adamw, muon, sgd, got 'adam'; did you mean adamw?"],
    ),
    "no such preset": (
        (*PRETRAIN, "--model.preset", "llama3-9b"),
        ["--model.preset: there is no 'llama3-9b'; did you mean llama3-8b"],
    ),
    "a count of nothing": ((*PRETRAIN, "--train.batch", 0), ["--train.batch 0: give a number of at least 1"]),
    "a rate below nothing": ((*PRETRAIN, "--optim.lr", -1), ["--optim.lr -1.0: give a number of at least 0"]),
    "a share of two": ((*PRETRAIN, "--model.dropout", 2), ["--model.dropout 2.0: give a share from 0 to below 1"]),
    "no layers": ((*PRETRAIN, "--model.layers", 0), ["--model.layers 0: give a number of at least 1"]),
    "broken TOML": (("pretrain", "broken.toml"), ["broken.toml: not valid TOML", "line 2"]),
    "unknown key in TOML": (
        ("pretrain", "wrong-key.toml"),
        ["wrong-key.toml: model.layer: unknown key; did you mean model.layers?"],
    ),
    "missing TOML": (("pretrain", "brokn.toml"), ["brokn.toml: no such file; did you mean broken.toml"]),
    "context too short": (
        (*PRETRAIN, "--data", "stories.jsonl", "--train.length", 256),
        ["--train.length 256 is longer than the model's context of 192", "--train.length 192", "--model.context 256"],
    ),
    "context too short, of a model that is there": (
        (*SFT, "--model", "run/model", "--train.length", 256),
        ["--train.length 256 is longer than the model's context of 192: set --train.length 192\n"],
    ),
    "conversations of plain text": (
        ("sft", "--model", "run/model", "--data", "small.txt", *steps(2), "--out", "new"),
        ["small.txt", "plain text where a row with keys is needed: use .jsonl or .parquet"],
    ),
    "prompts too long": (
        (*RL, "--prompts", "long.jsonl"),
        ["the longest prompt has", "leaves the model's context of 192", "shorten the prompts"],
    ),
    "answers too long": (
        (*ASK, "--rollout.max-tokens", 192),
        ["the longest prompt has", "--rollout.max-tokens 192", "set --rollout.max-tokens 1"],
    ),
    "unknown reward": ((*ASK, "--reward", "funny"), ["--reward funny: no such reward; there are subject, well-formed"]),
    "no such reward file": ((*ASK, "--reward", "my.py:funny"), ["--reward my.py:funny: no such file"]),
    "no such function": ((*ASK, "--reward", "rewards.py:funny"), ["rewards.py has no function 'funny'"]),
    "a weight that is none": ((*ASK, "--reward", "big*subject"), ["the weight 'big' is not a number", "0.5*subject"]),
    "a reward that is no number": ((*ASK, "--reward", "rewards.py:sad"), ["rewards.py:sad", "give one number"]),
    "too few rewards": ((*ASK, "--reward", "rewards.py:few"), ["rewards.py:few", "returned 1 values for 6 samples"]),
    "a reward that fails": (
        (*ASK, "--reward", "0.5*broken.py:broken"),
        ["--reward 0.5*broken.py:broken: ", "broken.py:2: ZeroDivisionError: division by zero"],
    ),
    "a reward that is no Python": (
        (*ASK, "--reward", "unreadable.py:broken"),
        ["--reward unreadable.py:broken: SyntaxError", "unreadable.py, line 1"],
    ),
    "answers without chance": ((*ASK, "--rollout.temperature", 0), ["--rollout.temperature 0.0: give a number above"]),
    "a file where the run's folder should be": (
        ("pretrain", "--data", "stories.jsonl", *TINY, "--out", "small.txt"),
        ["small.txt: is a file, and the run needs a folder", "--out"],
    ),
    "wrong --freeze": (
        (*ASK, "--freeze", "embedding"),
        ["--freeze embedding: no part of the model begins so; the parts are blocks, embed, norm"],
    ),
    "missing options": (("rl",), ["needs --model and --prompts", "pronk rl --help"]),
    "weights for other sources": (
        (*PRETRAIN, "--data", "stories.jsonl", "--read.weights", 1, 2),
        ["weights [1.0, 2.0]: give one number above 0 for each of the 1 sources"],
    ),
    "a vocabulary too small": (
        ("tokenizer", "--data", "stories.jsonl", "--vocabulary.size", 10, "--out", "new"),
        ["size 10 is too small for a bytelevel tokenizer: the smallest that works is 262"],
    ),
    "no such device": (
        ("generate", "run/model", "--prompt", "Hi", "--device", "mps"),
        ["mps: this machine has none that torch can use", "pronk doctor"],
    ),
    "a stage that refers to a later one": (
        ("run", "later.toml"),
        ["later.toml, [stage.sft]", "{pretrain} stands for a stage that comes before this one"],
    ),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_mistakes_name_the_place_and_the_cure(here, capsys, kind):
    words, wanted = MISTAKES[kind]
    if "other" in words:
        pronk("tokenizer", "--data", "stories.jsonl", "--out", "other", "--vocabulary.size", 300)
    if "patched" in words:
        patched()
    if "later.toml" in words:
        (here / "later.toml").write_text('[stage.sft]\nmodel = "{pretrain}/model"\n[stage.pretrain]\n')
    if "mps" in words and torch.backends.mps.is_available():
        pytest.skip("this machine has mps")
    said = fails(capsys, *words)
    assert said.startswith("pronk") and said.count("\n") == 1, said
    for part in wanted:
        assert part in said


def patched():
    """The model's folder with a tokenizer of another size."""
    import shutil

    shutil.copytree("run/model", "patched", dirs_exist_ok=True)
    pronk("tokenizer", "--data", "stories.jsonl", "--out", "larger", "--vocabulary.size", 500)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(f"larger/{name}", f"patched/{name}")


@pytest.mark.parametrize("words", [("--model.heads", 3), ("--model.kv-heads", 3), ("--model.head-dim", 7)])
def test_shapes_that_no_model_can_have(capsys, words):
    assert words[0].replace("-", "_")[2:] in fails(capsys, *PRETRAIN, "--data", "stories.jsonl", *words)


def test_a_bad_line_is_counted_and_named(here, capsys):
    (here / "mixed.jsonl").write_bytes((here / "stories.jsonl").read_bytes() + b'{"text": "caf\xe9"}\nno json\n')
    pronk(*PRETRAIN[:1], "--data", "mixed.jsonl", "--out", "counted", *TINY)
    said = capsys.readouterr().out
    assert "1 × not UTF-8: mixed.jsonl:121" in said
    assert "1 × broken JSON: mixed.jsonl:122" in said


def no_space(*words, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "the/disk")


def test_a_full_disk_while_a_checkpoint_is_written(capsys, monkeypatch):
    monkeypatch.setattr(checkpoint, "save_file", no_space)
    said = fails(capsys, "pretrain", "--data", "stories.jsonl", "--out", "full", *TINY)
    assert "full/checkpoints: the disk is full: a checkpoint needs" in said
    assert "--out to another disk" in said and "run again" in said
    monkeypatch.undo()


def test_a_full_disk_while_data_are_prepared(capsys, monkeypatch):
    monkeypatch.setattr(shards.Writer, "add", no_space)
    said = fails(capsys, "prepare", "--data", "stories.jsonl", "--tokenizer", "run/tokenizer", "--out", "full-data")
    assert "the/disk" in said or "full-data" in said
    assert "full" in said or "no space left" in said
    assert not os.path.exists("full-data")


def hungry(fits):
    """A learner's forward for which only so many rows fit."""
    plain = Learner._gradient

    def gradient(self, loss, part):
        if len(part) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.21 GiB")
        return plain(self, loss, part)

    return gradient


def advice(said):
    """The option that the message names."""
    return ("--train.micro-batch", said.split("--train.micro-batch ")[1].split()[0])


@pytest.mark.parametrize("command", ["pretrain", "sft", "rl"])
def test_out_of_memory_names_a_micro_batch_until_one_fits(tmp_path, capsys, monkeypatch, command):
    """Following the advice, again and again, ends in a run that works."""
    words = {
        "pretrain": ("pretrain", "--data", "stories.jsonl", *SMALL, *SHAPE, *steps(2, batch=8)),
        "sft": ("sft", "--model", "run/model", "--data", "requests.jsonl", *steps(2, batch=8, length=192)),
        "rl": (*ASK, "--rollout.prompts", 4),
    }[command]
    words = (*words, "--out", tmp_path / "run")
    monkeypatch.setattr(Learner, "_gradient", hungry(3))
    said = fails(capsys, *words)
    assert said == f"pronk {command}: out of memory; halve the micro-batch: --train.micro-batch 4 (it was 8)\n"
    said = fails(capsys, *words, *advice(said))
    assert said == f"pronk {command}: out of memory; halve the micro-batch: --train.micro-batch 2 (it was 4)\n"
    pronk(*words, *advice(said))


def test_out_of_memory_with_a_single_row(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Learner, "_gradient", hungry(0))
    words = ("pretrain", "--data", "stories.jsonl", *TINY, "--train.micro-batch", 1, "--out", tmp_path / "run")
    assert "try a smaller model" in fails(capsys, *words)


@pytest.mark.parametrize(
    "words",
    [
        ("pretrain", "--data", "stories.jsonl", *MODEL, *ON_CPU, "--train.length", 128),
        ("pretrain", "--data", "stories.jsonl", "--tokenizer", "run/tokenizer", "--model.family", "lstm", *ON_CPU),
        ("sft", "--model", "run/model", "--data", "requests.jsonl", *ON_CPU, "--train.length", 128),
        ("rl", "--model", "run/model", "--prompts", "prompts.jsonl", *rounds(5)),
        ("rl", "--model", "run/model", "--prompts", "prompts.jsonl", "--algorithm", "ppo", *rounds(5)),
    ],
)
def test_a_dry_run_says_what_it_would_take_and_writes_nothing(here, tmp_path, capsys, words):
    before = sorted(here.rglob("*"))
    pronk(*words, "--out", tmp_path / "run", "--dry-run")
    said, errors = capsys.readouterr()
    assert errors == ""
    facts = dict(line.split(maxsplit=1) for line in said.splitlines()[-5:])
    assert facts.keys() == {"parameters", "tokens", "memory", "disk", "time"}
    assert int(facts["parameters"].replace(",", "")) > 10_000
    assert "MiB" in facts["memory"] and "MiB" in facts["disk"] and "about" in facts["time"]
    assert "[train]" in said and "steps = " in said  # the resolved settings
    assert not (tmp_path / "run").exists()
    assert sorted(here.rglob("*")) == before


def test_a_dry_run_counts_a_round_s_own_rows(capsys):
    """Not the options of --train that alignment has no use for."""
    pronk("rl", "--model", "run/model", "--prompts", "prompts.jsonl", *rounds(5, prompts=3, tokens=12), "--dry-run")
    tokens = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("tokens"))
    rows, length = tokens.removesuffix(")").split(" of ")[1].split(" x ")
    assert int(rows) == 6
    assert 12 < int(length) < 100


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_file_and_its_help(name, capsys):
    command = load(name)
    assert callable(command.run)
    with contextlib.suppress(SystemExit):
        command.parse(["--help"])
    said = capsys.readouterr().out
    assert f"pronk {name}" in said
    assert (command.config_class.__doc__ or "").split("\n")[0].rstrip(".") in " ".join(said.replace("│", "").split())


def test_conversations_longer_than_a_row_are_told_of(here, capsys):
    pronk("sft", "--out", "cut", "--data", "requests.jsonl", "--model", "run/model", *steps(2, length=32))
    assert "conversations are longer than a row and lose their ends: --train.length" in capsys.readouterr().out
