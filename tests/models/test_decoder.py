"""The decoder equals transformers' Llama: logits to 1e-5 and gradients to 1e-4, whatever the variant."""

import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pronk.folders.names import renamer
from pronk.models.logps import cross_entropy, logits

from .make import V, gap, make, tokens

as_llama = renamer("LlamaForCausalLM")
LLAMA31 = {"rope_theta": 5e5, "rope_factor": 8.0, "rope_original": 16}
VARIANTS = {
    "mha": {},
    "gqa": {"kv_heads": 2},
    "mqa": {"kv_heads": 1},
    "head_dim": {"head_dim": 10, "kv_heads": 2},
    "untied": {"tied": False},
    "theta": {"rope_theta": 5e5, "tied": False},
    "llama3.1": LLAMA31 | {"kv_heads": 2},
    "multiple_of": {"multiple_of": 48, "ffn_dim_multiplier": 1.3},
    "eps": {"norm_eps": 1e-2},
}


def twin(model):
    """transformers' Llama with the same weights; its config is written by hand here."""
    c = model.config
    rope = {"rope_type": "default", "rope_theta": c.rope_theta}
    if c.rope_factor != 1:
        rope |= {"rope_type": "llama3", "factor": c.rope_factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
        rope |= {"original_max_position_embeddings": c.rope_original}
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=V,
            hidden_size=c.width,
            intermediate_size=c.inner,
            num_hidden_layers=c.layers,
            num_attention_heads=c.heads,
            num_key_value_heads=c.kv_heads or c.heads,
            head_dim=c.head_dim or c.width // c.heads,
            max_position_embeddings=c.context,
            rms_norm_eps=c.norm_eps,
            rope_parameters=rope,
            tie_word_embeddings=c.tied,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    weights = {as_llama(name).name: p for name, p in model.named_parameters()}
    missing, unexpected = theirs.load_state_dict(weights, strict=False)
    assert missing == (["lm_head.weight"] if c.tied else [])
    assert not unexpected
    return theirs


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_and_gradients_equal_transformers(name):
    model, x = make(**VARIANTS[name]), tokens(2, 100)
    theirs = twin(model)
    assert gap(logits(model, x), theirs(x).logits) < 1e-5

    targets = x.roll(-1, 1)
    (cross_entropy(model(x), targets)[0] / x.numel()).backward()
    torch.nn.functional.cross_entropy(theirs(x).logits.flatten(0, 1), targets.flatten()).backward()
    found = dict(theirs.named_parameters())
    for ours, parameter in model.named_parameters():
        assert gap(parameter.grad, found[as_llama(ours).name].grad) < 1e-4, ours


def test_padded_rows_equal_transformers():
    model, x = make(kv_heads=2), tokens(2, 30)
    mask = torch.ones_like(x)
    mask[0, 20:] = 0  # on the right
    theirs = twin(model)(x, attention_mask=mask).logits
    assert gap(logits(model, x)[0, :20], theirs[0, :20]) < 1e-5
    left = mask.flip(1)
    theirs = twin(model)(x, attention_mask=left, position_ids=(left.cumsum(1) - 1).clamp(min=0)).logits
    assert gap(logits(model, x[:1, 10:]), theirs[:1, 10:]) < 1e-5


@pytest.mark.parametrize("keys", [{}, {"kv_heads": 1}, {"feedforward": "swiglu-single"}, LLAMA31])
def test_packed_documents_do_not_see_each_other(keys):
    model = make(**keys)
    lengths = [7, 1, 30, 12]
    x = tokens(1, sum(lengths))
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    documents = torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)])[None]
    output = model(x, positions, documents)
    packed = output.head(output.hidden).split(lengths, 1)
    for part, alone in zip(packed, x.split(lengths, 1)):
        assert gap(part, logits(model, alone)) < 1e-5


def test_packed_gradients_equal_documents_alone():
    model, lengths = make(kv_heads=2), [5, 11]
    twin_model = copy.deepcopy(model)
    x = tokens(1, 16)
    targets = x.roll(-1, 1)
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    documents = torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)])[None]
    cross_entropy(model(x, positions, documents), targets)[0].backward()
    for part, wanted in zip(x.split(lengths, 1), targets.split(lengths, 1)):
        cross_entropy(twin_model(part), wanted)[0].backward()
    for ours, alone in zip(model.parameters(), twin_model.parameters()):
        assert gap(ours.grad, alone.grad) < 1e-4


def test_future_tokens_change_nothing_before():
    model, x = make(), tokens(1, 20)
    y = x.clone()
    y[:, 12:] = (y[:, 12:] + 1) % V
    assert gap(logits(model, x)[:, :12], logits(model, y)[:, :12]) == 0
    assert gap(logits(model, x)[:, 12:], logits(model, y)[:, 12:]) > 0.1


def test_single_matrix_gate_by_hand():
    layer = make(feedforward="swiglu-single").blocks[0].feedforward
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    both = x @ layer.gate_up.weight.T + layer.gate_up.bias
    inner = both.shape[1] // 2
    gate, up = both[:, :inner], both[:, inner:]
    assert gap(layer(x), (gate / (1 + (-gate).exp()) * up) @ layer.down.weight.T + layer.down.bias) < 1e-5
