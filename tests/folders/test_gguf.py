"""GGUF files: transformers reads ours back to the same logits and ids; the tables are llama.cpp's."""

import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from models.oracles import VARIANTS
from transformers import AutoModelForCausalLM, AutoTokenizer

from pronk.errors import UserError
from pronk.folders import gguf as ours
from pronk.folders import vocabularies
from pronk.models.logps import logits
from pronk.text.bpe import train

from .make import make, some_tokens, tokenizer
from .test_vocabularies import HARD, STORIES, sentencepiece_file

gguf = pytest.importorskip("gguf")
FAMILIES = {
    "llama": {"kv_heads": 2},
    "untied": {"tied": False, "head_dim": 16},
    "llama3.1": {"rope_theta": 5e5, "rope_factor": 8.0, "rope_original": 8192},
    "mistral": {"window": 40, "kv_heads": 1},
    "qwen3": VARIANTS["qwen3"] | {"kv_heads": 2, "head_dim": 128},  # transformers does not read the key length
    "gpt2": VARIANTS["gpt2"] | {"context": 1024},  # nor this context
}


def opened(path):
    reader = gguf.GGUFReader(path)
    return {key: field.contents() for key, field in reader.fields.items()}, {t.name: t for t in reader.tensors}


@pytest.mark.parametrize("name", FAMILIES)
def test_transformers_reads_the_same_model(tmp_path, name):
    model, x = make(**FAMILIES[name]), some_tokens()
    ours.save(tmp_path / "m.gguf", model, tokenizer())
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32)
    if name == "llama3.1":  # transformers leaves the table of stretches aside; llama.cpp divides by it
        _, tensors = opened(tmp_path / "m.gguf")
        stretch = torch.from_numpy(tensors["rope_freqs.weight"].data.copy())
        assert stretch[0] == 1
        assert stretch[-1] == 8
        return
    assert (theirs(x).logits - logits(model, x)).abs().max() < 1e-4


def test_half_precision_keeps_vectors_whole(tmp_path):
    model = make().half()
    ours.save(tmp_path / "m.gguf", model, tokenizer())
    facts, tensors = opened(tmp_path / "m.gguf")
    assert facts["general.file_type"] == 1
    assert tensors["blk.0.attn_norm.weight"].data.dtype == np.float32
    assert tensors["blk.0.attn_v.weight"].data.dtype == np.float16
    up = torch.from_numpy(tensors["blk.1.ffn_up.weight"].data.copy())
    assert torch.equal(up, model.blocks[1].feedforward.up.weight)


def test_what_is_said_of_the_model(tmp_path):
    model = make(kv_heads=2, tied=False)
    ours.save(tmp_path / "m.gguf", model, tokenizer())
    facts, tensors = opened(tmp_path / "m.gguf")
    assert facts["general.architecture"] == "llama"
    assert facts["llama.attention.head_count_kv"] == 2
    assert facts["llama.context_length"] == 64
    assert facts["tokenizer.chat_template"] == tokenizer().template
    assert facts["tokenizer.ggml.pre"] == "llama-bpe"
    assert facts["tokenizer.ggml.eos_token_id"] == tokenizer().eos
    assert facts["tokenizer.ggml.tokens"][tokenizer().eos] == "<|end|>"
    assert facts["tokenizer.ggml.token_type"][tokenizer().eos] == 3
    assert len(tensors) == len(list(model.parameters()))


def test_byte_level_ids_are_the_same(tmp_path):
    ours.save(tmp_path / "m.gguf", make(), tokenizer())
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    facts, _ = opened(tmp_path / "m.gguf")
    assert facts["tokenizer.ggml.tokens"] == [theirs.convert_ids_to_tokens(i) for i in range(tokenizer().size)]
    for text in STORIES[:20]:
        assert theirs(text, add_special_tokens=False).input_ids == tokenizer().encode(text)


def test_sentencepiece_ids_are_the_same(tmp_path):
    """Pieces merge by score, as in SentencePiece and llama.cpp."""
    sentencepiece_file(tmp_path)
    made = vocabularies.open_any(tmp_path)
    ours.save(tmp_path / "m.gguf", make(vocab=made.size), made)
    facts, _ = opened(tmp_path / "m.gguf")
    assert facts["tokenizer.ggml.model"] == "llama"
    tokens, scores = facts["tokenizer.ggml.tokens"], facts["tokenizer.ggml.scores"]
    for text in [*STORIES[:20], *HARD[:6]]:
        assert by_score(text, tokens, scores) == made.encode(text)
    assert facts["tokenizer.ggml.token_type"][:4] == [2, 3, 3, 6]


def by_score(text, tokens, scores):
    """llama.cpp's way: while any two neighbours make a token, join those whose token has the highest score."""
    ids = {token: i for i, token in enumerate(tokens)}
    parts = list("▁" + text.replace(" ", "▁"))
    while True:
        pairs = [(scores[ids[a + b]], -i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in ids]
        if not pairs:
            break
        place = -max(pairs)[1]
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    whole = [[ids[part]] if part in ids else [ids[f"<0x{b:02X}>"] for b in part.encode()] for part in parts]
    return [i for ids_of_part in whole for i in ids_of_part]


@pytest.mark.parametrize(
    ("keys", "kind", "says"),
    [
        ({"family": "lstm"}, "bytelevel", "m.gguf: GGUF has no name for this architecture; it takes llama, mistral"),
        (VARIANTS["neo"], "bytelevel", "GGUF has no name for this architecture"),
        ({}, "unigram", "GGUF has no name for a Unigram tokenizer"),
        ({}, "bytefallback", "GGUF has no name for how this tokenizer splits text"),
    ],
)
def test_what_gguf_cannot_say_is_refused(tmp_path, keys, kind, says):
    made = train(STORIES, kind, 400)
    with pytest.raises(UserError, match=re.escape(says)):
        ours.save(tmp_path / "m.gguf", make(vocab=400, **keys), made)
    assert list(tmp_path.iterdir()) == []
