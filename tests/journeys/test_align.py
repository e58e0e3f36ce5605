"""From a pretrained model to one that was tuned, rewarded and talked with; and what a run leaves behind."""

import io
import json
import sys

import pytest

from pronk.config import load_toml

from .make import SHAPE, SMALL, curve, metrics, pronk, rounds, same_weights, steps, write_prompts

FUNNY = """
def funny(sample):
    return sample.text.count("a") - 0.1 * len(sample.ids)

def batched(samples):
    return [float(len(sample.ids)) for sample in samples]

def by_token(sample):
    return [0.1] * len(sample.ids)
"""


def my_rewards(folder):
    (folder / "my_rewards.py").write_text(FUNNY)
    return f"{folder / 'my_rewards.py'}:"


@pytest.mark.parametrize("algorithm", ["reinforce", "ppo"])
def test_a_reward_of_ones_own_then_talk(raised, tmp_path, capsys, monkeypatch, algorithm):
    begin = ("--model", raised.model, "--prompts", raised.prompts, "--algorithm", algorithm)
    reward = ("--reward", my_rewards(tmp_path) + "funny")
    pronk("rl", *begin, *reward, "--out", tmp_path / "rl", *rounds(5))
    assert f"rl: the model is in {tmp_path / 'rl' / 'model'}" in capsys.readouterr().out
    assert not same_weights(raised.sft, tmp_path / "rl")
    rows = metrics(tmp_path / "rl")
    assert rows[-1]["step"] >= 5
    assert {"reward/mean", "kl/sequence", "length"} <= rows[-1].keys()

    pronk("generate", tmp_path / "rl" / "model", "--prompt", "Tell a story.", "--max-tokens", 8, "--seed", 1)
    assert capsys.readouterr().out.strip()
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello.\nTell me more.\n"))
    pronk("chat", tmp_path / "rl" / "model", "--max-tokens", 5, "--seed", 1)
    assert capsys.readouterr().out.count("\n") >= 2


def test_rewards_add_up_by_weight(raised, tmp_path):
    mine = my_rewards(tmp_path)
    words = ("--reward", f"0.5*{mine}batched", f"2*{mine}by_token", "0.1*subject", "well-formed")
    begin = ("--model", raised.model, "--prompts", raised.prompts)
    pronk("rl", *begin, *words, "--out", tmp_path / "rl", *rounds(1))
    (row,) = [row for row in metrics(tmp_path / "rl") if "reward/mean" in row]
    assert row["reward/mean"] == pytest.approx(0.7 * row["length"], rel=1e-5)  # half a point and 2 x 0.1 a token
    names = {name for name in row if name.startswith("reward/")}  # the user's by the file's name, not its whole path
    mine = {"reward/my_rewards.py:batched", "reward/my_rewards.py:by_token"}
    sums = {f"reward/{name}" for name in ("mean", "std", "var", "total")}
    assert names == mine | {"reward/subject", "reward/well-formed"} | sums


@pytest.mark.parametrize("critic", ["new", "shared"])
def test_ppo_with_other_critics(raised, tmp_path, critic):
    shape = ("--critic-model.width", 48, "--critic-model.layers", 1) if critic == "new" else ()
    words = ("--algorithm", "ppo", "--critic", critic, *shape, "--kl.adaptive", "--freeze", "embed")
    begin = ("--model", raised.model, "--prompts", raised.prompts, "--reward", my_rewards(tmp_path) + "funny")
    pronk("rl", *begin, *words, "--out", tmp_path / "rl", *rounds(4))
    assert (tmp_path / "rl" / "model" / "model.safetensors").exists()


def test_an_lstm_is_raised_tuned_and_rewarded_too(raised, tmp_path, capsys):
    """Everything that reads one text a row: it cannot pack, and says so before it reads the data."""
    pretrain = ("pretrain", "--data", raised.stories, *SMALL, *SHAPE, *steps(6), "--model.family", "lstm")
    from .make import fails

    said = fails(capsys, *pretrain, "--out", tmp_path / "packed")
    assert said == "pronk pretrain: this model reads one text a row: set --read.order windows\n"
    windows = ("--read.order", "windows")
    pronk(*pretrain, *windows, "--out", tmp_path / "pretrain")
    pronk("generate", tmp_path / "pretrain" / "model", "--no-chat", "--prompt", "Once", "--max-tokens", 5)
    begin = ("--model", tmp_path / "pretrain" / "model")
    assert "--read.order windows" in fails(capsys, "sft", *begin, "--data", raised.requests, *steps(2))
    pronk("sft", *begin, "--data", raised.requests, *windows, *steps(4, length=192), "--out", tmp_path / "sft")
    begin = ("--model", tmp_path / "sft" / "model", "--prompts", raised.prompts)
    pronk("rl", *begin, "--reward", my_rewards(tmp_path) + "funny", *rounds(2), "--out", tmp_path / "rl")
    capsys.readouterr()
    pronk("generate", tmp_path / "rl" / "model", "--prompt", "Tell a story.", "Write.", "--max-tokens", 4)
    assert "── Write." in capsys.readouterr().out


def test_what_a_run_leaves_behind(raised):
    for name in ("pretrain", "sft"):
        folder = raised.here / name
        there = {path.name for path in folder.iterdir()}
        assert {"config.toml", "metrics.jsonl", "samples.jsonl", "tensorboard", "checkpoints", "model"} <= there
        head = (folder / "config.toml").read_text().splitlines()[:3]
        assert head[0].startswith(f"# pronk {name} (again: ")
        assert "torch " in head[1] and "python " in head[1]
        assert head[2].startswith("# git commit ")
        assert load_toml(folder / "config.toml")["train"]["seed"] == 0
        samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
        assert samples and all(isinstance(row["text"], str) and row["step"] > 0 for row in samples)
        assert [path.name for path in (folder / "checkpoints").iterdir()]
        model = {path.name for path in (folder / "model").iterdir()}
        files = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
        assert files | {"generation_config.json", "README.md"} <= model
        for path in folder.rglob("*"):
            assert path.suffix not in (".pt", ".pth", ".pkl", ".bin") or path.parent.parent.parent.name == "data"


def test_tensorboard_reads_what_was_logged(raised):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(raised.pretrain / "tensorboard"))
    events.Reload()
    logged = [(row["step"], pytest.approx(row["loss"], rel=1e-5)) for row in metrics(raised.pretrain) if "loss" in row]
    assert [(event.step, event.value) for event in events.Scalars("loss")] == logged
    assert {"val_loss", "lr", "grad_norm"} <= set(events.Tags()["scalars"])


def test_a_config_file_runs_again_to_the_same_weights(raised, tmp_path):
    for name in ("pretrain", "sft"):
        pronk(name, raised.here / name / "config.toml", "--out", tmp_path / name)
        assert same_weights(raised.here / name, tmp_path / name)
        assert curve(raised.here / name) == curve(tmp_path / name)


def test_the_model_folder_opens_in_transformers(raised, capsys):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import pronk as library

    theirs = AutoModelForCausalLM.from_pretrained(raised.model).float().eval()
    tokenizer = AutoTokenizer.from_pretrained(raised.model)
    messages = [{"role": "user", "content": "Tell a story."}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
    ids = ids if isinstance(ids, torch.Tensor) else ids["input_ids"]
    ours, _ = library.load(raised.model)
    with torch.no_grad():
        assert torch.allclose(theirs(ids).logits, library.logits(ours, ids), atol=1e-5)
    answer = theirs.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    pronk("generate", raised.model, "--prompt", "Tell a story.", "--max-tokens", 12, "--temperature", 0)
    assert capsys.readouterr().out.rstrip("\n") == tokenizer.decode(answer, skip_special_tokens=True).rstrip("\n")


PLAN = """
[stage.pretrain]
data = "stories.jsonl"
vocabulary.size = 400
model = {width = 32, layers = 2, heads = 2, context = 192, multiple_of = 16}
optim.warmup = 2
train = {steps = 6, batch = 4, length = 64, device = "cpu", precision = "fp32"}

[stage.sft]
model = "{pretrain}/model"
data = "requests.jsonl"
train = {steps = 4, batch = 4, length = 192, device = "cpu", precision = "fp32"}

[stage.cats]
command = "rl"
model = "{sft}/model"
prompts = "prompts.jsonl"
reward = ["my_rewards.py:funny"]
rollout = {prompts = 3, max_tokens = 12}
train = {steps = 2, device = "cpu", precision = "fp32"}

[stage.answers]
command = "generate"
model = "{cats}/model"
prompts = "prompts.jsonl"
max_tokens = 6
"""


def test_a_plan_runs_its_stages_once(raised, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(raised.here)
    my_rewards(raised.here)
    write_prompts(raised.here)
    plan, out = tmp_path / "plan.toml", tmp_path / "out"
    plan.write_text(PLAN)
    pronk("run", plan, "--out", out, "--dry-run")
    said = capsys.readouterr().out
    assert "cats: pronk rl, to do: " in said
    assert not out.exists()
    pronk("run", plan, "--out", out)
    said = capsys.readouterr().out
    assert all(f"{stage}: pronk " in said for stage in ("pretrain", "sft", "cats", "answers"))
    before = (out / "cats" / "model" / "model.safetensors").stat().st_mtime_ns
    pronk("run", plan, "--out", out)
    said = capsys.readouterr().out
    assert said.count("done already") == 4
    assert (out / "cats" / "model" / "model.safetensors").stat().st_mtime_ns == before


def test_a_stage_whose_source_was_made_anew_is_not_taken_for_done(raised, tmp_path, capsys, monkeypatch):
    """Its finished checkpoint belongs to another model: going on from it would silently keep the old one."""
    import shutil

    from .make import fails

    monkeypatch.chdir(raised.here)
    plan, out = tmp_path / "plan.toml", tmp_path / "out"
    two = PLAN[: PLAN.index("[stage.cats]")]
    plan.write_text(two)
    pronk("run", plan, "--out", out)
    plan.write_text(two.replace("steps = 6", "steps = 7"))
    said = fails(capsys, "run", plan, "--out", out)
    assert "[stage.pretrain]" in said and "train.steps: 6 -> 7" in said
    shutil.rmtree(out / "pretrain")
    said = fails(capsys, "run", plan, "--out", out)
    assert "[stage.sft]" in said and "weights of --model" in said
    shutil.rmtree(out / "sft")
    pronk("run", plan, "--out", out)


@pytest.mark.parametrize("algorithm", ["rloo", "grpo", "dr-grpo", "dapo"])
def test_group_methods_through_the_command(raised, tmp_path, algorithm):
    """With a watched gold reward, its plot, and a round's samples with reward and advantages."""
    mine = my_rewards(tmp_path)
    begin = ("--model", raised.model, "--prompts", raised.prompts, "--algorithm", algorithm, "--rollout.n", 4)
    words = ("--reward", mine + "funny", "--gold", mine + "batched", "--rollout.minibatch", 6)
    pronk("rl", *begin, *words, "--out", tmp_path / "rl", *rounds(3))
    rows = metrics(tmp_path / "rl")
    assert rows[-1]["step"] == 4  # rounds of two steps are finished, and were counted so from the start
    assert {"gold/mean", "groups/flat", "policy/ratio_min", "kl/k3", "reward/total"} <= rows[-1].keys()
    assert (tmp_path / "rl" / "plots" / "gold.png").stat().st_size > 5000
    sample = json.loads((tmp_path / "rl" / "samples.jsonl").read_text().splitlines()[0])
    assert sample.keys() == {"step", "prompt", "answer", "reward", "advantages", "values"}
    assert len(sample["advantages"].split()) == len(sample["values"].split()) >= 1


def test_prompts_without_a_template_are_continued(raised, tmp_path):
    """--no-chat: the bare text, as a model that was only pretrained knows it."""
    words = ("--model", raised.pretrain / "model", "--prompts", raised.prompts, "--no-chat")
    pronk("rl", *words, "--reward", my_rewards(tmp_path) + "funny", "--out", tmp_path / "rl", *rounds(1))
    assert metrics(tmp_path / "rl")[-1]["step"] == 1
