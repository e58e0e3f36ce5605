"""`pronk convert` from each format to a folder that generates, and to GGUF; mistakes end in one line."""

import json

import pytest
import torch
from folders.make import make, saved, some_tokens, tokenizer
from folders.test_foreign import SHAPE, write_llama2c, write_meta
from folders.test_vocabularies import sentencepiece_file, write_bin
from transformers import AutoModelForCausalLM, AutoTokenizer

import pronk
from pronk.cli import main
from pronk.models.logps import logits


def convert(*words):
    assert main(["convert", *map(str, words)]) == 0


def test_metas_llama_with_its_sentencepiece_model(tmp_path, capsys):
    theirs = sentencepiece_file(tmp_path)
    model = make(**SHAPE | {"vocab": theirs.get_piece_size()})
    write_meta(tmp_path / "meta", model, 2)
    (tmp_path / "tokenizer.model").rename(tmp_path / "meta/tokenizer.model")
    convert(tmp_path / "meta", tmp_path / "new")
    assert "parameters from a folder of Meta's, in float32" in capsys.readouterr().out
    again, its = pronk.load(tmp_path / "new")
    x = some_tokens()
    assert torch.equal(logits(again, x), logits(model, x))
    assert its.encode("Once upon a time") == theirs.encode("Once upon a time")
    hf = AutoModelForCausalLM.from_pretrained(tmp_path / "new")
    assert (hf(x).logits - logits(model, x)).abs().max() < 1e-4
    said = AutoTokenizer.from_pretrained(tmp_path / "new")("Once upon a time", add_special_tokens=False).input_ids
    assert said == its.encode("Once upon a time")


def test_llama2c_with_a_tokenizer_elsewhere(tmp_path):
    theirs = sentencepiece_file(tmp_path)
    model = make(**SHAPE | {"vocab": theirs.get_piece_size()})
    write_llama2c(tmp_path / "stories.bin", model)
    write_bin(tmp_path / "tok512.bin", theirs)
    convert(tmp_path / "stories.bin", tmp_path / "new", "--tokenizer", tmp_path / "tok512.bin", "--dtype", "bf16")
    again, its = pronk.load(tmp_path / "new")
    assert all(torch.equal(a, b.bfloat16().float()) for a, b in zip(again.parameters(), model.parameters()))
    assert its.eos == 2
    assert main(["generate", str(tmp_path / "new"), "--prompt", "Once", "--max-tokens", "4"]) == 0


def test_a_folders_card_generation_and_template_are_kept(tmp_path):
    saved(tmp_path / "m")
    (tmp_path / "m/README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (tmp_path / "m/generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2], "top_p": 0.9}))
    (tmp_path / "m/chat_template.jinja").write_text("mine")
    convert(tmp_path / "m", tmp_path / "new", "--dtype", "fp16")
    kept = json.loads((tmp_path / "new/generation_config.json").read_text())
    assert (kept["eos_token_id"], kept["top_p"]) == ([1, 2], 0.9)
    assert "Its licence there is apache-2.0." in (tmp_path / "new/README.md").read_text()
    assert (tmp_path / "new/chat_template.jinja").read_text() == "mine"
    assert json.loads((tmp_path / "new/config.json").read_text())["dtype"] == "float16"


def test_to_gguf(tmp_path):
    pytest.importorskip("gguf")
    saved(tmp_path / "m")
    convert(tmp_path / "m", tmp_path / "m.gguf", "--dtype", "fp16")
    assert (tmp_path / "m.gguf").read_bytes()[:4] == b"GGUF"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["m", "m.gguf"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["none", "new"], "none: no such file or folder"),
        (["m", "m.gguf", "--dtype", "bf16"], "--dtype bf16: GGUF files are written in fp32 or fp16"),
        (["m", "new", "--tokenizer", "empty"], "no tokenizer there; name a folder, file or hub id that has it"),
        (["empty", "new"], "expected config.json with weights, params.json with consolidated.*.pth"),
        (["m", "m/config.json"], "is a file; a model is saved as a folder"),
        (["m", "./m"], "is the source itself: name another folder"),
        (["m/model.safetensors", "new"], "m/model.safetensors: not read by itself: name its folder"),
    ],
)
def test_mistakes(tmp_path, monkeypatch, capsys, words, says):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "m")
    (tmp_path / "empty").mkdir()
    assert main(["convert", *words]) == 2
    assert says in capsys.readouterr().err.replace("\n", " ")
    assert tokenizer()
