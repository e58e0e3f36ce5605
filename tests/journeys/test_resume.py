"""Runs that are killed, stopped, damaged or contested go on to the weights that an undisturbed run reaches."""

import json
import os
import random
import signal
from pathlib import Path

import pytest

import pronk.data.loader as loading
from pronk import load
from pronk.commands import training
from pronk.learn import build as building
from pronk.learn.build import flops_per_token

from .make import SHAPE, SMALL, curve, fails, metrics, pronk, rounds, same_weights, start, steps, wait_for_step

REWARD = "def funny(sample):\n    return sample.text.count('a') - 0.1 * len(sample.ids)\n"


def pretrain(raised, count=100, **options):
    words = ("--data", raised.stories, *SMALL, *SHAPE, *steps(count, **options), "--model.dropout", 0.1)
    return ("pretrain", *words, "--train.save-every", 7, "--train.log-every", 1)


def rl(raised, folder, algorithm):
    (folder / "my_rewards.py").write_text(REWARD)
    words = ("--model", raised.model, "--prompts", raised.prompts, "--reward", f"{folder / 'my_rewards.py'}:funny")
    return ("rl", *words, "--algorithm", algorithm, "--kl.adaptive", *rounds(60), "--train.save-every", 5)


def kill_at(step, words, out):
    """Start the command, kill -9 it once this step is logged; returns how far it came."""
    process = start(*words, "--out", out)
    try:
        wait_for_step(process, out, step)
    finally:
        process.kill()
    process.communicate()
    return max((row["step"] for row in metrics(out)), default=0)


def by_signal_at(monkeypatch, batch, number=signal.SIGTERM):
    """This process gets the signal while it makes its n-th batch."""
    plain, made = loading.fill_rows, []

    def noticed(*words):
        made.append(1)
        if len(made) == batch:
            os.kill(os.getpid(), number)
        return plain(*words)

    monkeypatch.setattr(loading, "fill_rows", noticed)


@pytest.fixture(scope="module")
def undisturbed(raised, tmp_path_factory):
    """The run that the others are held against."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    pronk(*pretrain(raised), "--out", out)
    return out


def test_pretraining_survives_kill_9_at_random_points(raised, undisturbed, tmp_path):
    out, reached = tmp_path / "run", 0
    for step in sorted(random.Random().sample(range(1, 40), 3)):
        reached = max(reached, kill_at(max(step, reached + 1), pretrain(raised), out))
        print(f"killed at step {reached}")
    assert 0 < reached < 100, "killed too late to mean anything"
    pronk(*pretrain(raised), "--out", out)
    assert same_weights(undisturbed, out)
    assert curve(out) == curve(undisturbed)  # no line lost, none twice


@pytest.mark.parametrize("algorithm", ["reinforce", "ppo"])
def test_alignment_survives_kill_9(raised, tmp_path, algorithm):
    words, out = rl(raised, tmp_path, algorithm), tmp_path / "run"
    pronk(*words, "--out", tmp_path / "undisturbed")
    reached = kill_at(random.Random().randrange(6, 20), words, out)
    print(f"killed at step {reached}")
    assert 0 < reached < 60, "killed too late to mean anything"
    pronk(*words, "--out", out)
    assert same_weights(tmp_path / "undisturbed", out)
    assert curve(out) == curve(tmp_path / "undisturbed")


def test_a_process_that_is_told_to_end_saves_first(raised, undisturbed, tmp_path, capsys):
    out = tmp_path / "run"
    process = start(*pretrain(raised), "--out", out)
    try:
        wait_for_step(process, out, 3)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "pretrain: saved at step " in said and "the same command goes on from here" in said
    assert "pronk pretrain: stopped" in said and "Traceback" not in said
    assert not (out / "model").exists()
    pronk(*pretrain(raised), "--out", out)
    assert f"pretrain: going on from {out / 'checkpoints' / 'step-'}" in capsys.readouterr().out
    assert same_weights(undisturbed, out)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_follows_a_stopped_stage_does_not_begin(raised, tmp_path, capsys, monkeypatch, number):
    """A plan and the demo hear of it, too: a stopped stage is not a finished one."""
    by_signal_at(monkeypatch, 5, number)
    plan = tmp_path / "plan.toml"
    words = {"data": raised.stories, "vocabulary.size": 400, "model.context": 192, "train.length": 64}
    words |= {"train.steps": 9, "train.batch": 4, "train.device": "cpu", "train.precision": "fp32"}
    keys = "".join(f"{key} = {json.dumps(value)}\n" for key, value in words.items())
    sft = f'[stage.sft]\nmodel = "{{pretrain}}/model"\ndata = {json.dumps(raised.requests)}\n'
    plan.write_text(f"[stage.pretrain]\n{keys}{sft}train = {{steps = 2, length = 192}}\n")
    old = signal.getsignal(number)
    said = fails(capsys, "run", plan, "--out", tmp_path / "out", code=130)
    assert said == "pronk run: stopped\n"
    assert signal.getsignal(number) is old
    assert not (tmp_path / "out" / "sft").exists()
    pronk("run", plan, "--out", tmp_path / "out")
    said = capsys.readouterr().out
    assert "pretrain: pronk pretrain" in said and "going on from" in said
    assert (tmp_path / "out" / "sft" / "model").exists()


def test_changed_settings_are_refused_unless_forced(raised, tmp_path, capsys):
    out = tmp_path / "run"
    pronk(*pretrain(raised, 6), "--out", out)
    before = (out / "config.toml").read_text()
    said = fails(capsys, *pretrain(raised, 8), "--optim.lr", 1e-3, "--out", out)
    assert "was made with other settings (optim.lr: 0.003 -> 0.001, train.steps: 6 -> 8)" in said
    assert "--train.resume force" in said and "--out" in said
    assert (out / "config.toml").read_text() == before  # it still says what the run was made with
    pronk(*pretrain(raised, 8), "--optim.lr", 1e-3, "--out", out, "--train.resume", "force")
    assert "going on from" in capsys.readouterr().out
    assert [row["step"] for row in metrics(out) if "loss" in row] == [*range(1, 9)]
    assert "steps = 8" in (out / "config.toml").read_text()


def test_changed_prompts_are_noticed(raised, tmp_path, capsys):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Tell a story.\nWrite a tale.\n")
    words = ("rl", "--model", raised.model, "--prompts", prompts, "--reward", "subject", "--out", tmp_path / "rl")
    pronk(*words, *rounds(1))
    prompts.write_text("Tell a story.\nSing a song.\n")
    assert "contents of --prompts" in fails(capsys, *words, *rounds(1))


def test_changed_data_are_noticed(raised, tmp_path, capsys):
    data = tmp_path / "stories.jsonl"
    whole = Path(raised.stories).read_text().splitlines(keepends=True)
    data.write_text("".join(whole[:80]))
    words = ("pretrain", "--data", data, *SMALL, *SHAPE, *steps(3), "--out", tmp_path / "run")
    pronk(*words)
    data.write_text("".join(whole[40:]))
    assert "the data changed" in fails(capsys, *words)


def test_starting_anew_leaves_nothing_of_the_old_run(raised, tmp_path, capsys):
    """Not even checkpoints: one of a later step would be taken up by the next resume."""
    out = tmp_path / "run"
    pronk(*pretrain(raised, 20), "--out", out)
    pronk(*pretrain(raised, 8), "--out", out, "--train.resume", "never")
    assert "going on" not in capsys.readouterr().out
    assert {path.name for path in (out / "checkpoints").iterdir()} == {"step-7", "step-8"}
    assert max(row["step"] for row in metrics(out)) == 8


def test_a_vocabulary_of_a_run_that_never_saved_is_not_kept(raised, tmp_path, capsys):
    """The first attempt fails after its tokenizer was learned; the second wants another."""
    words = ("pretrain", "--data", raised.stories, "--out", tmp_path / "run", *SHAPE)
    fails(capsys, *words, *steps(3), "--vocabulary.size", 300, "--read.weights", 1, 2)
    pronk(*words, *steps(3), *SMALL)
    assert json.loads((tmp_path / "run" / "model" / "config.json").read_text())["vocab_size"] == 400


def test_another_batch_size_repeats_and_skips_nothing(raised, tmp_path, monkeypatch, capsys):
    """Every row of tokens that training read, in order: 7 steps of 4 rows, then steps of 2 or 6 rows."""
    plain, read = loading.fill_rows, []

    def recorded(shards, rows, length, packed):
        if shards[0].folder.name == "train":
            read.extend(tuple(map(tuple, row)) for row in rows)
        return plain(shards, rows, length, packed)

    monkeypatch.setattr(loading, "fill_rows", recorded)
    pronk(*pretrain(raised, 20, batch=6), "--out", tmp_path / "undisturbed")
    wanted, read[:] = list(read), []
    for batch in (2, 6):
        out = tmp_path / str(batch)
        monkeypatch.setattr(loading, "fill_rows", recorded)
        by_signal_at(monkeypatch, 7)
        fails(capsys, *pretrain(raised, 20, batch=4), "--out", out, code=130)
        assert len(read) == 28
        monkeypatch.setattr(loading, "fill_rows", recorded)
        pronk(*pretrain(raised, 20, batch=batch), "--out", out)
        assert len(read) == 28 + 13 * batch
        assert read == wanted[: len(read)]
        read.clear()


def test_micro_batches_may_change_on_the_way(raised, tmp_path, capsys, monkeypatch):
    """They give the same gradient; after out of memory the same run goes on with smaller ones."""
    by_signal_at(monkeypatch, 4)
    words = (*pretrain(raised, 8), "--model.dropout", 0)
    fails(capsys, *words, "--out", tmp_path / "run", code=130)
    pronk(*words, "--out", tmp_path / "run", "--train.micro-batch", 1)
    pronk(*words, "--out", tmp_path / "undisturbed")
    losses = [[row["loss"] for row in metrics(tmp_path / name) if "loss" in row] for name in ("run", "undisturbed")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_run_that_is_worth_compiling_is_compiled_again_when_it_goes_on(raised, tmp_path, monkeypatch, capsys):
    asked, made = [], []

    def worth_it(wish, kind, work):
        asked.append((wish, kind, work))
        return wish is not False

    def compiled(model):
        made.append(model)
        for block in model.blocks:
            block.compile(backend="aot_eager")

    monkeypatch.setattr(training, "pick_compile", worth_it)
    monkeypatch.setattr(building, "compile_blocks", compiled)
    with monkeypatch.context() as soon:
        by_signal_at(soon, 4)
        fails(capsys, *pretrain(raised, 8), "--out", tmp_path / "run", code=130)
    pronk(*pretrain(raised, 8), "--out", tmp_path / "run")
    pronk(*pretrain(raised, 8), "--out", tmp_path / "undisturbed")
    assert same_weights(tmp_path / "undisturbed", tmp_path / "run")
    model = load(tmp_path / "run" / "model")[0]
    work = flops_per_token(model, model.config, 64) * 8 * 4 * 64
    assert asked == [(None, "cpu", work)] * 3
    assert len(made) == 3
    pronk(*pretrain(raised, 8), "--train.no-compile", "--out", tmp_path / "eager")
    assert asked[3] == (False, "cpu", work)
    assert len(made) == 3


def test_one_folder_holds_one_run_at_a_time(raised, tmp_path, capsys):
    out = tmp_path / "run"
    words = pretrain(raised, 3000)
    process = start(*words, "--out", out)
    try:
        wait_for_step(process, out, 1)
        before = (out / "config.toml").read_text()
        said = fails(capsys, *words, "--optim.lr", 1, "--train.resume", "never", "--out", out)
        assert said == (
            f"pronk pretrain: {out}: another pronk is at work here. Wait for it, or set --out to another folder\n"
        )
        assert (out / "config.toml").read_text() == before
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json", "MANIFEST.json"])
def test_a_damaged_checkpoint_is_passed_over_with_a_message(raised, undisturbed, tmp_path, capsys, monkeypatch, file):
    out = tmp_path / "run"
    by_signal_at(monkeypatch, 17)
    fails(capsys, *pretrain(raised), "--out", out, code=130)
    assert {path.name for path in (out / "checkpoints").iterdir()} == {"step-14", "step-17"}
    damaged = out / "checkpoints" / "step-17" / file
    whole = bytearray(damaged.read_bytes())
    whole[len(whole) // 2] ^= 255
    damaged.write_bytes(whole)
    pronk(*pretrain(raised), "--out", out)
    said = capsys.readouterr().out
    assert "step-17" in said and "falling back to the checkpoint before it" in said
    assert f"pretrain: going on from {out / 'checkpoints' / 'step-14'}" in said
    assert same_weights(undisturbed, out)


def test_no_whole_checkpoint_left_is_told_not_hidden(raised, tmp_path, capsys):
    out = tmp_path / "run"
    pronk(*pretrain(raised, 3), "--out", out)
    (out / "checkpoints" / "step-3" / "state.json").write_text("{}")
    said = fails(capsys, *pretrain(raised, 3), "--out", out)
    assert "no valid checkpoint is left" in said and "Delete it to start anew" in said


def test_a_finished_run_is_not_trained_again(raised, undisturbed, capsys):
    before, lines = (undisturbed / "checkpoints").stat().st_mtime_ns, curve(undisturbed)
    pronk(*pretrain(raised), "--out", undisturbed)
    assert (undisturbed / "checkpoints").stat().st_mtime_ns == before
    assert [row for row in curve(undisturbed) if "loss" in row] == [row for row in lines if "loss" in row]
