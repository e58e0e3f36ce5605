"""Models from elsewhere: tiny files of each format give the model they were made of; what is wrong is named."""

import json
import re
import struct

import numpy as np
import pytest
import torch
from models.oracles import VARIANTS, twin
from transformers import AutoModelForCausalLM

from pronk.errors import UserError
from pronk.folders import foreign, meta
from pronk.models.logps import logits

from .make import make, saved, some_tokens, tokenizer

SHAPE = {"vocab": 320, "width": 32, "layers": 2, "heads": 4, "ffn_dim": 0, "multiple_of": 16, "kv_heads": 2}
PARAMS = {"dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "multiple_of": 16, "norm_eps": 1e-5}


def refuses(source, says):
    with pytest.raises(UserError, match=re.escape(says)):
        foreign.find(str(source)).load(torch.float32)


def same(source, model):
    again = foreign.find(str(source)).load(torch.float32)
    for (name, one), other in zip(again.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other), name
    assert torch.equal(logits(again, some_tokens()), logits(model, some_tokens()))
    return again


def neighbours(weight, head_dim):
    """Meta's order of a head's dimensions: the pairs that turn together stand side by side."""
    order = [half * (head_dim // 2) + pair for pair in range(head_dim // 2) for half in range(2)]
    heads = weight.view(-1, head_dim, weight.shape[1])
    return heads[:, order].reshape(weight.shape)


def as_meta(model):
    """The model's tensors under Meta's names and in Meta's order."""
    found = {}
    for name, parameter in model.named_parameters():
        new = meta.rename(name).name
        turned = new.endswith(("wq.weight", "wk.weight"))
        found[new] = neighbours(parameter.detach(), model.config.head_size) if turned else parameter.detach()
    return found


def write_meta(folder, model, shards=1, embedding_cut=1, **params):
    folder.mkdir()
    (folder / "params.json").write_text(json.dumps(PARAMS | {"vocab_size": -1} | params))
    columns = ("wo.weight", "w2.weight")
    for number in range(shards):
        part = {}
        for name, tensor in as_meta(model).items():
            dim = 1 if name.endswith(columns) else embedding_cut if name.startswith("tok_") else 0
            part[name] = tensor if tensor.dim() == 1 else tensor.chunk(shards, dim)[number].clone()
        torch.save(part | {"rope.freqs": torch.ones(4)}, folder / f"consolidated.{number:02d}.pth")


@pytest.mark.parametrize(("shards", "cut"), [(1, 0), (2, 0), (2, 1), (4, 1)])
@pytest.mark.parametrize("tied", [True, False])
def test_metas_folder_with_its_shards_merged(tmp_path, shards, cut, tied):
    model = make(**SHAPE | {"tied": tied})
    write_meta(tmp_path / "m", model, shards, cut)
    config = same(tmp_path / "m", model).config
    assert (config.vocab, config.tied, config.context, config.rope_theta) == (320, tied, 4096, 10_000)


def test_metas_llama31_has_its_frequencies_stretched(tmp_path):
    rope = {"rope_theta": 5e5, "rope_factor": 8.0, "rope_original": 8192}
    model = make(**SHAPE | rope | {"context": 131_072})
    write_meta(tmp_path / "m", model, rope_theta=5e5, use_scaled_rope=True)
    again = same(tmp_path / "m", model)
    assert torch.equal(again.rotary.cosine, model.rotary.cosine)


def test_metas_rotation_is_ours(tmp_path):
    """Meta multiplies complex numbers of neighbours: the same scores as ours of halves."""
    torch.manual_seed(0)
    weight, x, head_dim = torch.randn(16, 32), torch.randn(9, 32), 8
    angles = torch.outer(torch.arange(9.0), 1 / 10_000 ** (torch.arange(0, 8, 2) / 8))
    model = make(**SHAPE)
    ours = (x @ weight.T).view(1, 9, 2, head_dim)
    ours = model.blocks[0].attention.rotate(ours, *model.rotary(None, 9)).transpose(1, 2)
    theirs = (x @ neighbours(weight, head_dim).T).view(9, 2, head_dim // 2, 2)
    turned = torch.view_as_complex(theirs) * torch.polar(torch.ones_like(angles), angles)[:, None]
    theirs = torch.view_as_real(turned).flatten(2).transpose(0, 1)
    assert (ours[0] @ ours[0].mT - theirs @ theirs.mT).abs().max() < 1e-4


def test_metas_folder_that_is_wrong(tmp_path):
    model = make(**SHAPE)
    write_meta(tmp_path / "shape", model, 2, n_layers=2, n_kv_heads=4)
    refuses(tmp_path / "shape", "tensor layers.0.attention.wk.weight has shape [8, 32] in 2 shards, but params.json")
    write_meta(tmp_path / "more", model, n_layers=1)
    refuses(tmp_path / "more", "tensor layers.1.attention.wk.weight and 8 more are unexpected; params.json describes")
    write_meta(tmp_path / "lost", model, 2)
    part = torch.load(tmp_path / "lost/consolidated.01.pth", weights_only=True)
    del part["norm.weight"]
    torch.save(part, tmp_path / "lost/consolidated.01.pth")
    refuses(tmp_path / "lost", "consolidated.01.pth: tensor norm.weight is not in every shard")
    write_meta(tmp_path / "huge", model, n_layers=10**9)
    refuses(tmp_path / "huge", "params.json: the model's layers is 1000000000, expected at most 10000")
    (tmp_path / "lost/params.json").write_text("{}")
    torch.save({"norm.weight": torch.ones(3)}, tmp_path / "lost/consolidated.00.pth")
    (tmp_path / "lost/consolidated.01.pth").unlink()
    refuses(tmp_path / "lost", "tensor tok_embeddings.weight is missing; is this a Llama?")


# ── llama2.c


def write_llama2c(path, model, version=0):
    c, t = model.config, as_meta(model)
    numbers = [c.width, c.inner, c.layers, c.heads, c.key_heads, c.vocab if c.tied else -c.vocab, c.context]
    layers = range(c.layers)

    def of(kind):
        return [t[f"layers.{n}.{kind}.weight"] for n in layers]

    attention = [of(f"attention.w{k}") for k in "qkvo"]
    inner = [of(f"feed_forward.w{k}") for k in "123"]
    head = [] if c.tied else [[t["output.weight"]]]
    embedding, norm = [t["tok_embeddings.weight"]], [t["norm.weight"]]
    norms = [of("attention_norm"), of("ffn_norm")]
    tables = [[torch.zeros(c.context, c.head_size // 2)]] * 2
    order = [embedding, norms[0], *attention, norms[1], *inner, norm, *tables, *head]
    start = struct.pack("<7i", *numbers)
    if version:
        numbers[5] = c.vocab
        order = [*norms, norm, embedding, *attention, *inner, *head]
        start = struct.pack("<Ii7iB", 0x616B3432, version, *numbers, c.tied).ljust(256, b"\0")
    path.write_bytes(start + b"".join(one.numpy().astype("<f4").tobytes() for group in order for one in group))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("version", [0, 1])
def test_llama2c(tmp_path, tied, version):
    model = make(**SHAPE | {"tied": tied})
    write_llama2c(tmp_path / "model.bin", model, version)
    same(tmp_path / "model.bin", model)


def test_llama2c_cut_short_names_the_tensor(tmp_path):
    file = tmp_path / "model.bin"
    write_llama2c(file, make(**SHAPE))
    whole = file.read_bytes()
    for length, says in [
        (0, "ends within its header"),
        (20, "ends within its header"),
        (100, "ends within tensor tok_embeddings.weight: 100 bytes, expected at least"),
        (len(whole) - 5, "ends within tensor rope.sine"),
        (320 * 32 * 4 + 300, "ends within tensor attention.wq.weight"),
    ]:
        file.write_bytes(whole[:length])
        refuses(file, says)
    file.write_bytes(whole + b"\0\0\0\0")
    refuses(file, "4 bytes follow the last tensor, rope.sine")
    file.write_bytes(b"<html>" * 99)
    refuses(file, "is it a llama2.c file?")
    file.write_bytes(struct.pack("<Ii", 0x616B3432, 2) + bytes(256))
    refuses(file, "llama2.c's version 2 is not supported")
    file.write_bytes(np.array([32, 88, 2, 5, 2, 320, 64], "<i4").tobytes() + bytes(99))
    refuses(file, "model.width 32 is not a multiple of model.heads 5; is it a llama2.c file?")


# ── Hugging Face's, pickled


def pickled(folder, name="gpt2", prefix=True):
    model = make(**VARIANTS[name] | {"context": 96})
    saved(folder, **VARIANTS[name] | {"context": 96})
    (folder / "model.safetensors").unlink()
    weights = {k if prefix else k.removeprefix("transformer."): v for k, v in twin(model).state_dict().items()}
    torch.save(weights | {"transformer.h.0.attn.bias": torch.ones(1, 1, 8, 8)}, folder / "pytorch_model.bin")
    return model


@pytest.mark.parametrize("name", ["gpt2", "neo", "gpt", "phi", "mistral"])
def test_pickled_weights_are_read_without_running_them(tmp_path, name):
    same(tmp_path / "m", pickled(tmp_path / "m", name))


def test_names_without_their_first_word(tmp_path):
    """gpt2's own file on the hub says h.0.attn.., not transformer.h.0.attn.."""
    same(tmp_path / "m", pickled(tmp_path / "m", prefix=False))


def test_pickled_shards_with_an_index(tmp_path):
    folder = tmp_path / "m"
    model = pickled(folder)
    whole = torch.load(folder / "pytorch_model.bin", weights_only=True)
    (folder / "pytorch_model.bin").unlink()
    names, places = sorted(whole), {}
    for number, part in enumerate((names[:9], names[9:])):
        torch.save({name: whole[name].clone() for name in part}, folder / f"pytorch_model-{number}.bin")
        places |= dict.fromkeys(part, f"pytorch_model-{number}.bin")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    same(folder, model)
    (folder / "pytorch_model-1.bin").unlink()
    refuses(folder, "the index names 'pytorch_model-1.bin', but it is missing")


def test_an_old_pickle_that_is_no_zip(tmp_path):
    folder = tmp_path / "m"
    model = pickled(folder)
    whole = torch.load(folder / "pytorch_model.bin", weights_only=True)
    torch.save(whole, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    same(folder, model)


class Evil:
    def __reduce__(self):
        return eval, ("1/0",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    folder = tmp_path / "m"
    pickled(folder)
    torch.save({"weight": Evil()}, folder / "pytorch_model.bin")
    refuses(folder, "not a whole file of weights (Weights only load failed")
    torch.save({"weight": "text"}, folder / "pytorch_model.bin")
    refuses(folder, "weight is no tensor")
    torch.save([1], folder / "pytorch_model.bin")
    refuses(folder, "expected names and tensors, found list")


def test_a_pickle_cut_short(tmp_path):
    folder = tmp_path / "m"
    pickled(folder)
    whole = (folder / "pytorch_model.bin").read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        (folder / "pytorch_model.bin").write_bytes(whole[:length])
        refuses(folder, "pytorch_model.bin: not a whole file of weights")


def test_nothing_there(tmp_path):
    refuses(tmp_path / "none", "none: no such file or folder")
    refuses(tmp_path, f"{tmp_path}: expected config.json with weights, params.json with consolidated.*.pth, or")


def test_a_hub_id_is_fetched(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    model, asked = saved(tmp_path / "cached"), {}

    def fetched(source, allow_patterns):
        asked["a"] = allow_patterns
        return tmp_path / "cached"

    monkeypatch.setattr(hub, "list_repo_files", lambda source: ["model.safetensors", "pytorch_model.bin"])
    monkeypatch.setattr(hub, "snapshot_download", fetched)
    same("someone/model", model)
    assert "model*.safetensors" in asked["a"]
    assert not any(pattern.endswith(".bin") for pattern in asked["a"])
    monkeypatch.setattr(hub, "list_repo_files", lambda source: 1 / 0)
    refuses("someone/model", "someone/model: no such folder, and the hub did not give it (division by zero)")


def test_a_tokenizer_without_an_end_takes_the_configs(tmp_path):
    saved(tmp_path / "m")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (tmp_path / "m" / name).write_text("{}")
    found = foreign.find(str(tmp_path / "m"))
    assert foreign.tokenizer_for(found, "").eos == tokenizer().eos


def test_the_models_own_template_is_kept_over_the_tokenizers(tmp_path):
    saved(tmp_path / "m")
    tokenizer().save(tmp_path / "other")
    (tmp_path / "m/chat_template.jinja").write_text("mine {{ messages }}")
    (tmp_path / "m/tokenizer.json").unlink()
    found = foreign.find(str(tmp_path / "m"))
    assert foreign.tokenizer_for(found, str(tmp_path / "other")).template == "mine {{ messages }}"
    with pytest.raises(UserError, match="no tokenizer there; name a folder"):
        foreign.tokenizer_for(found, "")


def test_bfloat16_stays_so(tmp_path):
    AutoModelForCausalLM.from_pretrained(saved_at(tmp_path / "m")).bfloat16().save_pretrained(tmp_path / "n")
    found = foreign.find(str(tmp_path / "n"))
    assert found.dtype == torch.bfloat16
    assert {p.dtype for p in found.load(found.dtype).parameters()} == {torch.bfloat16}


def saved_at(folder):
    saved(folder)
    return folder
