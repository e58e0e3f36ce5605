"""Reward models go to transformers and back: same scores; a folder of the other kind is named as such."""

import json

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2ForSequenceClassification,
    GPTNeoForSequenceClassification,
    LlamaForSequenceClassification,
)

from pronk.engine.score import score_rows
from pronk.errors import UserError
from pronk.folders.huggingface import load, load_scorer, read_config, save, save_scorer
from pronk.models.build import to_scorer

from .make import edit_config, make, tokenizer

GPT = {"norm": "layer", "positions": "learned", "feedforward": "gelu"}
NEO = GPT | {"attention_bias": "output", "attention_scaled": False, "window": 16, "window_every": 2}
KNOWN = {
    "tied": ({}, LlamaForSequenceClassification),
    "untied": ({"tied": False}, LlamaForSequenceClassification),
    "gqa": ({"kv_heads": 2, "head_dim": 10}, LlamaForSequenceClassification),
    "gpt2": (GPT | {"attention_bias": "all"}, GPT2ForSequenceClassification),
    "gpt-neo": (NEO, GPTNeoForSequenceClassification),
}
OTHERS = [{"feedforward": "swiglu-single"}, {"family": "lstm", "width": 30}]


def scorer(bias=0.5, **keys):
    made = to_scorer(make(**keys))
    with torch.no_grad():
        made.value.weight.normal_(generator=torch.Generator().manual_seed(3))
        made.value.bias.fill_(bias)
    return made


def rows():
    texts = ("a cat sat", "Once upon a time there was a rat.", "mat")
    return [[*tokenizer().encode(text), tokenizer().eos] for text in texts]


def padded(pad, extra):
    longest = max(map(len, rows())) + extra
    return torch.tensor([row + [pad] * (longest - len(row)) for row in rows()])


@pytest.mark.parametrize("name", KNOWN)
def test_scores_equal_transformers_sequence_classifier(tmp_path, name):
    """Right padded with pad_token_id, any amount; the bias, which transformers cannot hold, is in config.json."""
    keys, wanted = KNOWN[name]
    made = scorer(**keys)
    ours = score_rows(made, rows())
    save_scorer(tmp_path / "reward", made, tokenizer())
    theirs, report = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward", output_loading_info=True)
    theirs.eval()
    assert type(theirs) is wanted and theirs.config.num_labels == 1
    assert not any(report.values())
    assert AutoTokenizer.from_pretrained(tmp_path / "reward").pad_token_id == theirs.config.pad_token_id
    for extra in (0, 5):
        logits = theirs(padded(theirs.config.pad_token_id, extra)).logits[:, 0]
        assert (logits + theirs.config.score_bias).tolist() == pytest.approx(ours, abs=1e-5)
    theirs.save_pretrained(tmp_path / "theirs")
    tokenizer().save(tmp_path / "theirs")
    again, _ = load_scorer(tmp_path / "theirs")
    assert score_rows(again, rows()) == pytest.approx(ours, abs=1e-5)


@pytest.mark.parametrize("keys", [*(keys for keys, _ in KNOWN.values()), *OTHERS])
def test_what_was_saved_comes_back(tmp_path, keys):
    made = scorer(**keys)
    save_scorer(tmp_path / "reward", made, tokenizer(), card="From 3 comparisons.")
    again, its_tokenizer = load_scorer(tmp_path / "reward")
    assert score_rows(again, rows()) == score_rows(made, rows())
    assert its_tokenizer.encode("a cat sat") == tokenizer().encode("a cat sat")
    assert all(p.requires_grad and p.is_leaf for p in again.parameters())
    assert "From 3 comparisons." in (tmp_path / "reward" / "README.md").read_text()
    assert read_config(tmp_path / "reward").width == made.value.in_features


def test_a_folder_of_the_other_kind_is_refused(tmp_path):
    save(tmp_path / "language", make(), tokenizer())
    save_scorer(tmp_path / "reward", scorer(), tokenizer())
    with pytest.raises(UserError, match="holds no reward model; make one with `pronk reward`"):
        load_scorer(tmp_path / "language")
    with pytest.raises(UserError, match="holds a reward model, which only scores"):
        load(tmp_path / "reward")


@pytest.mark.parametrize(("value", "said"), [("x", "score_bias"), (True, "score_bias"), (1e999, "score_bias")])
def test_a_broken_bias_is_named(tmp_path, value, said):
    save_scorer(tmp_path / "reward", scorer(), tokenizer())
    edit_config(tmp_path / "reward", score_bias=value)
    with pytest.raises(UserError, match=said):
        load_scorer(tmp_path / "reward")


def test_two_labels_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    save_scorer(tmp_path / "reward", scorer(), tokenizer())
    weights = load_file(tmp_path / "reward" / "model.safetensors")
    weights["score.weight"] = torch.zeros(2, 32)
    save_file(weights, tmp_path / "reward" / "model.safetensors")
    with pytest.raises(UserError, match="has shape"):
        load_scorer(tmp_path / "reward")
    assert json.loads((tmp_path / "reward" / "config.json").read_text())["id2label"] == {"0": "score"}
