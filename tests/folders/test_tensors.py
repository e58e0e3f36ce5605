"""Weights files: shards, and one clear message for each way in which they can be wrong."""

import json
import re

import pytest
import torch
from transformers import AutoModelForCausalLM

from pronk.errors import UserError
from pronk.folders import tensors
from pronk.folders.huggingface import load_model
from pronk.folders.names import renamer
from pronk.models.logps import logits

from .make import edit_config, edit_weights, saved, some_tokens

FIRST = "model.layers.0.self_attn.q_proj.weight"


def refuses(folder, says):
    with pytest.raises(UserError, match=re.escape(says)):
        load_model(folder)


@pytest.fixture
def folder(tmp_path):
    saved(tmp_path / "m")
    return tmp_path / "m"


@pytest.fixture
def sharded(tmp_path, monkeypatch):
    monkeypatch.setattr(tensors, "SHARD", 40_000)
    saved(tmp_path / "m", tied=False)
    return tmp_path / "m"


def test_shards_are_written_and_read(tmp_path, monkeypatch):
    monkeypatch.setattr(tensors, "SHARD", 40_000)
    model, x = saved(tmp_path / "m", tied=False), some_tokens()
    files = sorted((tmp_path / "m").glob("*.safetensors"))
    assert len(files) > 2
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    assert all(file.stat().st_size < 45_000 for file in files)
    index = json.loads((tmp_path / "m/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(p.nbytes for p in model.parameters())
    assert torch.equal(logits(load_model(tmp_path / "m"), x), logits(model, x))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert (theirs(x).logits - logits(model, x)).abs().max() < 1e-5
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="50KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 1
    assert torch.equal(logits(load_model(tmp_path / "theirs"), x), logits(model, x))


def test_shards_keep_order_and_size():
    sized = {str(i): torch.zeros(n) for i, n in enumerate([10, 10, 30, 5, 5])}
    assert [list(shard) for shard in tensors.split(sized, 80)] == [["0", "1"], ["2"], ["3", "4"]]


def test_missing_shard(sharded):
    lost = sorted(sharded.glob("*.safetensors"))[1]
    lost.unlink()
    refuses(sharded, f"{lost}: the index names this shard, but it is missing")


def test_shard_in_anothers_place(sharded):
    first, second, *_ = sorted(sharded.glob("*.safetensors"))
    second.write_bytes(first.read_bytes())
    refuses(sharded, f"is in {first.name} too; copy the folder again")


def test_swapped_shards_are_found_by_what_they_hold(sharded):
    before = load_model(sharded)
    first, second, *_ = sorted(sharded.glob("*.safetensors"))
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)
    for now, then in zip(load_model(sharded).parameters(), before.parameters()):
        assert torch.equal(now, then)


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/passwd", "pytorch_model.bin", 7])
def test_index_may_not_point_elsewhere(sharded, name):
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {FIRST: name}}))
    refuses(sharded, f"{str(name)!r} is no name of a shard in this folder")


def test_empty_index(sharded):
    (sharded / "model.safetensors.index.json").write_text("{}")
    refuses(sharded, "weight_map is missing")


def test_missing_tensor(folder):
    edit_weights(folder, lambda tensors: {n: t for n, t in tensors.items() if n != FIRST})
    refuses(folder, f"{folder}: tensor {FIRST} is missing; config.json describes a model that has it")


def test_unexpected_tensor(folder):
    edit_weights(folder, lambda tensors: tensors | {"model.layers.0.self_attn.q_proj.bias": torch.zeros(32)})
    refuses(folder, f"{folder}: tensor model.layers.0.self_attn.q_proj.bias is unexpected")


def test_misshaped_tensor(folder):
    edit_weights(folder, lambda tensors: tensors | {FIRST: torch.zeros(32, 16)})
    refuses(
        folder, f"{folder}/model.safetensors: tensor {FIRST} has shape [32, 16], but config.json describes [32, 32]"
    )


def test_tensor_that_is_no_float(folder):
    edit_weights(folder, lambda tensors: tensors | {FIRST: torch.zeros(32, 32, dtype=torch.int8)})
    refuses(folder, f"tensor {FIRST} has type I8, expected one of F64, F32, F16, BF16")


def test_old_rotary_tables_do_no_harm(folder):
    before = load_model(folder)
    edit_weights(folder, lambda tensors: tensors | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    assert torch.equal(logits(load_model(folder), some_tokens()), logits(before, some_tokens()))


def test_tied_matrix_held_twice(folder):
    edit_weights(folder, lambda tensors: tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()})
    again = load_model(folder)
    assert again.head.weight is again.embed.weight
    edit_weights(folder, lambda tensors: tensors | {"lm_head.weight": tensors["lm_head.weight"] + 1})
    refuses(folder, "lm_head.weight differs from the embedding; set tie_word_embeddings to false in config.json")
    edit_config(folder, tie_word_embeddings=False)
    assert not torch.equal(load_model(folder).head.weight, again.head.weight)


def test_truncated_file_at_any_length(folder):
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for length in (0, 4, 8, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        refuses(folder, f"{file}: not a whole safetensors file")
    refuses(folder, "(it ends within tensor model.norm.weight); copy or save it again")


def test_garbage_and_absurd_headers(folder):
    file = folder / "model.safetensors"
    for content in (
        b"\xff" * 64,
        (2**40).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"{]",
        b"<html>" * 9,
    ):
        file.write_bytes(content)
        refuses(folder, f"{file}: not a whole safetensors file")


def test_no_weights_and_pickled_weights(folder):
    (folder / "model.safetensors").unlink()
    refuses(folder, "expected model.safetensors or model.safetensors.index.json, found no weights")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    refuses(folder, "only pickled weights (.bin), which can run code: `pronk convert` them")


def test_names_of_llama():
    as_llama = renamer("LlamaForCausalLM")
    assert as_llama("embed.weight").name == "model.embed_tokens.weight"
    assert as_llama("norm.weight").name == "model.norm.weight"
    assert as_llama("head.weight").name == "lm_head.weight"
    assert as_llama("blocks.12.attention.o.weight").name == "model.layers.12.self_attn.o_proj.weight"
    assert as_llama("blocks.0.feedforward_norm.weight").name == "model.layers.0.post_attention_layernorm.weight"
