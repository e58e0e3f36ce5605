"""llama.cpp reads our GGUF files to the same ids, logits and greedy texts; skipped without llama-cpp-python."""

import json
from contextlib import closing

import numpy as np
import pytest
import torch
from models.oracles import VARIANTS

from pronk.folders import gguf, vocabularies
from pronk.models.logps import logits
from pronk.text.bpe import CONFIG, train
from pronk.text.tokenizer import Tokenizer

from .make import make, some_tokens, tokenizer
from .test_gguf import FAMILIES
from .test_vocabularies import HARD, STORIES, sentencepiece_file

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (it is built from source)")
pytest.importorskip("gguf")
MODELS = FAMILIES | {
    "phi": VARIANTS["phi"] | {"context": 64},
    "phi tied": VARIANTS["phi"] | {"context": 64, "tied": True, "kv_heads": 2},
}
TABLED = ("gpt2", "phi", "phi tied")  # llama.cpp takes GELU from a table of 16-bit numbers


def opened(path):
    """Keys and values in 32 bits, as ours are."""
    return closing(
        llama_cpp.Llama(str(path), n_ctx=64, n_threads=1, type_k=0, type_v=0, logits_all=True, verbose=False)
    )


def theirs(llama, ids):
    llama.reset()
    llama.eval(ids)
    return torch.tensor(np.array(llama.scores[: len(ids)]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["F32", "F16"])
@pytest.mark.parametrize("name", MODELS)
def test_the_same_logits_and_greedy_text(tmp_path, name, dtype):
    model = make(**MODELS[name]).to(dtype)
    gguf.save(tmp_path / "m.gguf", model, tokenizer())
    model, ids = model.float(), some_tokens()[0, :24].tolist()
    close = 0.2 if dtype == torch.float16 else 1e-2 if name in TABLED else 1e-4  # of logits up to 8
    with opened(tmp_path / "m.gguf") as llama:
        assert (theirs(llama, ids) - logits(model, torch.tensor([ids]))[0]).abs().max() < close
        mine = list(ids)
        for _ in range(12):
            mine.append(logits(model, torch.tensor([mine]))[0, -1].argmax().item())
        for _ in range(12):
            ids.append(theirs(llama, ids)[-1].argmax().item())
        assert ids == mine


def same_ids(path, ours, before):
    """before: ids that llama.cpp wants to see before it drops the space that SentencePiece begins with."""
    with opened(path) as llama:
        for text in [*STORIES[:50], *HARD, "12345 12 it's I'LL he'Ll\n\n\n  x  \t y\n 1"]:
            ids = ours.encode(text)
            assert llama.tokenize(text.encode(), add_bos=False, special=False) == ids, text
            assert llama.detokenize([*before, *ids]).decode() == ours.decode(ids), text


@pytest.mark.parametrize("regex", gguf.SPLITS, ids=gguf.SPLITS.values())
def test_the_same_byte_level_ids(tmp_path, regex):
    made = train([*STORIES, *HARD, "1234 12 it's I'LL\n\n\n  x  \t y"], "bytelevel", 600)
    definition, last = made.definition, {"type": "ByteLevel", "add_prefix_space": False, "use_regex": not regex}
    words = [{"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}] if regex else []
    definition["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*words, last | {"trim_offsets": True}]}
    ours = Tokenizer(json.dumps(definition), CONFIG, made.template)
    gguf.save(tmp_path / "m.gguf", make(vocab=ours.size), ours)
    same_ids(tmp_path / "m.gguf", ours, [])


@pytest.mark.parametrize("prefix", [True, False])
def test_the_same_sentencepiece_ids(tmp_path, prefix):
    sentencepiece_file(tmp_path, add_dummy_prefix=prefix)
    ours = vocabularies.open_any(tmp_path)
    gguf.save(tmp_path / "m.gguf", make(vocab=ours.size), ours)
    same_ids(tmp_path / "m.gguf", ours, [ours.bos] if prefix else [])
