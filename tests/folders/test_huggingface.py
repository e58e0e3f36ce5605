"""Folders go to transformers and back: same logits, same tokens; mistakes are named."""

import json
import subprocess
import sys

import pytest
import torch
from models.oracles import VARIANTS
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import pronk
from pronk.errors import UserError
from pronk.folders import tensors
from pronk.folders.architectures import equal
from pronk.folders.huggingface import load, load_model, read_config, save
from pronk.folders.names import names_of
from pronk.models.config import ModelConfig
from pronk.models.logps import logits

from .make import make, saved, some_tokens, tokenizer

LLAMAS = {
    "tied": {},
    "untied": {"tied": False},
    "gqa": {"kv_heads": 2, "head_dim": 10},
    "mqa": {"kv_heads": 1, "norm_eps": 1e-6},
    "llama3.1": {"rope_theta": 5e5, "rope_factor": 8.0, "rope_original": 16, "context": 128},
    "larger vocabulary": {"vocab": 320},
}
KIN = {name: keys | {"context": 96, "layers": 3} for name, keys in VARIANTS.items()}
OTHERS = {
    "transformer 2017": {"norm": "layer", "block": "post", "feedforward": "relu", "positions": "sinusoidal"},
    "gpt2 with windows": VARIANTS["gpt2"] | {"window": 9},
    "swiglu-single": {"feedforward": "swiglu-single"},
    "lstm": {"family": "lstm", "width": 30},
    "rnn": {"family": "rnn"},
    "gru with attention": {"family": "gru", "recurrent_attention": True},
    "untied lstm": {"family": "lstm", "tied": False},
    "heads do not divide the width": {"width": 30, "head_dim": 8},
}


def gap(a, b):
    return (a - b).abs().max().item()


@pytest.mark.parametrize("name", LLAMAS | KIN)
def test_ours_load_in_transformers_and_theirs_in_ours(tmp_path, name):
    model, x = saved(tmp_path / "ours", **(LLAMAS | KIN)[name]), some_tokens()
    theirs, report = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert type(theirs).__name__ == equal(model.config).name
    assert not any(report.values())
    assert gap(theirs(x).logits, logits(model, x)) < (1e-5 if name in LLAMAS else 1e-4)
    theirs.save_pretrained(tmp_path / "theirs")
    again = load_model(tmp_path / "theirs")
    assert torch.equal(logits(again, x), logits(model, x))
    for one, other in zip(again.parameters(), model.parameters()):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", LLAMAS | KIN | OTHERS)
def test_what_was_saved_comes_back(tmp_path, name):
    model, x = saved(tmp_path / "m", **(LLAMAS | KIN | OTHERS)[name]), some_tokens()
    again, its_tokenizer = pronk.load(tmp_path / "m")
    assert torch.equal(logits(again, x), logits(model, x))
    assert [n for n, _ in again.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert all(p.requires_grad and p.is_leaf for p in again.parameters())
    assert (again.head.weight is again.embed.weight) == model.config.tied
    assert its_tokenizer.encode("a cat sat") == tokenizer().encode("a cat sat")
    saved_again = tmp_path / "again"
    save(saved_again, again, its_tokenizer)
    for file in (tmp_path / "m").iterdir():
        one, other = file.read_bytes(), (saved_again / file.name).read_bytes()
        if file.suffix == ".json":
            one, other = json.loads(one), json.loads(other)
        assert one == other or file.name == "README.md", file.name


def test_a_llama_of_transformers_own_making(tmp_path):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3
    )
    theirs = LlamaForCausalLM(config)
    theirs.save_pretrained(tmp_path)
    x = torch.arange(90).view(1, 90)
    assert gap(logits(load_model(tmp_path), x), theirs(x).logits) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_float_types_become_float32(tmp_path, dtype):
    model = make().to(dtype)
    save(tmp_path / "m", model, tokenizer())
    assert json.loads((tmp_path / "m/config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    again = load_model(tmp_path / "m")
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    for ours, stored in zip(again.parameters(), model.parameters()):
        assert torch.equal(ours, stored.float())
    assert again.rotary.cosine.dtype == torch.float32
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32)
    assert gap(logits(again, some_tokens()), theirs(some_tokens()).logits) < 1e-5


def test_rotary_tables_are_filled_after_loading(tmp_path):
    model = saved(tmp_path / "m")
    assert torch.equal(load_model(tmp_path / "m").rotary.cosine, model.rotary.cosine)


def test_loading_leaves_the_random_numbers_alone(tmp_path):
    saved(tmp_path / "m")
    state = torch.get_rng_state()
    load_model(tmp_path / "m")
    assert torch.equal(torch.get_rng_state(), state)


def test_loaded_weights_do_not_hang_on_the_file(tmp_path):
    model = saved(tmp_path / "m")
    again = load_model(tmp_path / "m")
    (tmp_path / "m/model.safetensors").write_bytes(b"")
    assert torch.equal(again.embed.weight, model.embed.weight)


def test_tokenizer_loads_in_transformers(tmp_path):
    saved(tmp_path / "m")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "m")
    assert theirs("a cat sat", add_special_tokens=False).input_ids == tokenizer().encode("a cat sat")
    assert (theirs.bos_token_id, theirs.eos_token_id) == (tokenizer().bos, tokenizer().eos)
    assert theirs.pad_token_id == tokenizer().pad
    assert theirs.chat_template == tokenizer().template


def test_generation_config_and_card(tmp_path):
    save(tmp_path / "m", make(), tokenizer(), {"temperature": 0.7, "do_sample": True}, "Pretrained on *one sentence*.")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert theirs.generation_config.eos_token_id == tokenizer().eos
    assert theirs.generation_config.temperature == 0.7
    assert theirs.config.pad_token_id == tokenizer().pad
    card = (tmp_path / "m/README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "Pretrained on *one sentence*." in card
    assert "loads in pronk only" not in card
    saved(tmp_path / "lstm", family="lstm")
    assert "LSTM (loads in pronk only)" in (tmp_path / "lstm/README.md").read_text()
    assert "Not recorded." in (tmp_path / "lstm/README.md").read_text()


def test_shape_is_read_without_the_weights(tmp_path):
    model = saved(tmp_path / "m", kv_heads=2, dropout=0.1)
    (tmp_path / "m/model.safetensors").unlink()
    again = read_config(tmp_path / "m")
    assert again == ModelConfig(
        vocab=model.config.vocab, width=32, layers=2, heads=4, kv_heads=2, head_dim=8, ffn_dim=88, context=64
    )


def test_no_folder(tmp_path):
    for read in (read_config, load_model, load):
        with pytest.raises(UserError, match=f"{tmp_path}/none: no such folder"):
            read(tmp_path / "none")


def test_tokenizer_larger_than_the_vocabulary(tmp_path):
    size = tokenizer().size
    model = make(vocab=size - 1)
    says = f"the tokenizer has {size} tokens but the model's vocabulary only {size - 1}; use the tokenizer that"
    with pytest.raises(UserError, match=says):
        save(tmp_path / "m", model, tokenizer())
    assert not (tmp_path / "m").exists()
    saved(tmp_path / "m")
    smaller = tmp_path / "smaller"
    LlamaForCausalLM(
        LlamaConfig(vocab_size=size - 1, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    ).save_pretrained(smaller)
    tokenizer().save(smaller)
    with pytest.raises(UserError, match=says):
        load(smaller)


def test_folder_without_tokenizer(tmp_path):
    saved(tmp_path / "m")
    (tmp_path / "m/tokenizer.json").unlink()
    load_model(tmp_path / "m")
    with pytest.raises(UserError, match=r"m: no tokenizer\.json"):
        load(tmp_path / "m")


MEASURE = """
import re, sys
import torch
from pronk.folders import foreign
from pronk.folders.huggingface import load_model, read_config
from pronk.models.build import build
# not ru_maxrss: Linux hands it down from the parent
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
build(read_config(sys.argv[1]), "meta")
before = peak()
model = load_model(sys.argv[1]) if sys.argv[2] == "folder" else foreign.find(sys.argv[1]).load(torch.bfloat16)
print((peak() - before) / sum(p.nbytes for p in model.parameters()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_loading_needs_little_more_than_the_model(tmp_path):
    """bfloat16 files of 100 MB make a model of 200 MB; keeping what was read in memory would make it 1.5 models."""
    model = make(width=512, layers=16, heads=8, vocab=2048, multiple_of=32).to(torch.bfloat16)
    save(tmp_path / "m", model, tokenizer())
    del model
    assert peak(tmp_path / "m", "folder") < 1.2


def peak(folder, way):
    """Memory at its highest in a process of its own, in sizes of the model."""
    run = [sys.executable, "-c", MEASURE, str(folder), way]
    return float(subprocess.run(run, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_converting_torchs_files_needs_little_more_than_the_model(tmp_path):
    model = make(width=512, layers=8, heads=8, vocab=2048, multiple_of=32).to(torch.bfloat16)
    save(tmp_path / "m", model, tokenizer())
    (tmp_path / "m/model.safetensors").unlink()
    torch.save(tensors.stored(model, names_of(model.config)), tmp_path / "m/pytorch_model.bin")
    del model
    assert peak(tmp_path / "m", "foreign") < 1.3
