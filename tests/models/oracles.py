"""transformers' models with our weights: each family's reference, its config written by hand here."""

import torch
import transformers as hf

from pronk.folders.names import names_of
from pronk.folders.tensors import stored

NO_IDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
GPT = {"norm": "layer", "feedforward": "gelu", "positions": "learned", "attention_bias": "all"}
NEO = GPT | {"attention_bias": "output", "attention_scaled": False, "window": 5, "window_every": 2}
PHI = {"norm": "layer", "feedforward": "gelu", "attention_bias": "all", "block": "parallel", "head_bias": True}
PHI |= {"tied": False, "rotary_share": 0.5}
MISTRAL = {"window": 7, "kv_heads": 2, "tied": False}
QWEN3 = {"qk_norm": True, "head_dim": 10, "kv_heads": 2}
VARIANTS = {
    "gpt": GPT | {"block": "post"},
    "gpt untied": GPT | {"block": "post", "tied": False},
    "gpt eps": GPT | {"block": "post", "norm_eps": 1e-2},
    "gpt2": GPT,
    "gpt2 untied": GPT | {"tied": False},
    "gpt2 inner": GPT | {"ffn_dim": 72, "norm_eps": 1e-2},
    "neo": NEO,
    "neo all local": NEO | {"window": 1, "window_every": 1},
    "neo all global": NEO | {"window": 0, "tied": False},
    "neo every third": NEO | {"window": 30, "window_every": 3, "ffn_dim": 40},
    "mistral": MISTRAL,
    "mistral head_dim": MISTRAL | {"head_dim": 10, "kv_heads": 1, "window": 1},
    "mistral long window": MISTRAL | {"window": 99, "tied": True, "rope_theta": 1e6},
    "phi": PHI,
    "phi grouped": PHI | {"kv_heads": 2, "rope_theta": 500.0},
    "phi whole": PHI | {"rotary_share": 1.0, "tied": True, "ffn_dim": 52},
    "phi quarter": PHI | {"rotary_share": 0.25, "norm_eps": 1e-2},
    "qwen3": QWEN3,
    "qwen3 untied": QWEN3 | {"tied": False, "head_dim": 0, "norm_eps": 1e-2},
    "qwen3 theta": QWEN3 | {"rope_theta": 1e6, "kv_heads": 4, "head_dim": 6},
}


def _shared(c):
    return {"vocab_size": c.vocab, "tie_word_embeddings": c.tied, **NO_IDS}


def _gpt2(c):
    sizes = {"n_embd": c.width, "n_layer": c.layers, "n_head": c.heads, "n_positions": c.context, "n_inner": c.inner}
    drops = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    return sizes | drops | {"layer_norm_epsilon": c.norm_eps}


def _neo(c):
    kinds = [["local" if window else "global"] for window in c.windows]
    return {
        "hidden_size": c.width,
        "num_layers": c.layers,
        "num_heads": c.heads,
        "intermediate_size": c.inner,
        "max_position_embeddings": c.context,
        "window_size": c.window,
        "attention_types": [[kind, 1] for kind in kinds],
        "layer_norm_epsilon": c.norm_eps,
    }


def _rotary(c):
    return {
        "hidden_size": c.width,
        "intermediate_size": c.inner,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads or c.heads,
        "max_position_embeddings": c.context,
        "rms_norm_eps": c.norm_eps,
        "head_dim": c.head_dim or c.width // c.heads,
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rope_theta},
    }


def _phi(c):
    keys = _rotary(c) | {"layer_norm_eps": c.norm_eps}
    keys["rope_parameters"]["partial_rotary_factor"] = c.rotary_share
    return keys


def twin(model):
    """The transformers model that equals ours; its weights are the very same numbers."""
    c = model.config
    kind, settings, keys = {
        ("layer", "post"): (hf.OpenAIGPTLMHeadModel, hf.OpenAIGPTConfig, _gpt2),
        ("layer", "pre"): (hf.GPT2LMHeadModel, hf.GPT2Config, _gpt2),
        ("layer", "parallel"): (hf.PhiForCausalLM, hf.PhiConfig, _phi),
    }.get((c.norm, c.block), (hf.MistralForCausalLM, hf.MistralConfig, _rotary))
    extra = {"sliding_window": c.window} if kind is hf.MistralForCausalLM else {}
    if not c.attention_scaled:
        kind, settings, keys = hf.GPTNeoForCausalLM, hf.GPTNeoConfig, _neo
    if c.qk_norm:
        kind, settings, keys, extra = hf.Qwen3ForCausalLM, hf.Qwen3Config, _rotary, {}
    theirs = kind(settings(**_shared(c), **keys(c), **extra, attn_implementation="eager")).eval()
    weights = stored(model, names_of(c))
    missing, unexpected = theirs.load_state_dict(weights, strict=False)
    assert missing == (["lm_head.weight"] if c.tied else [])
    assert not unexpected
    return theirs


def gradients(model, theirs):
    """Ours and theirs, by the names of their files."""
    found = dict(theirs.named_parameters())
    names = names_of(model.config)
    for name, parameter in model.named_parameters():
        place = names(name)
        yield name, parameter.grad, place.take(found[place.name].grad)


class Transformer2017(torch.nn.Module):
    """torch's encoder layers with a causal mask are a decoder without an encoder to look at."""

    def __init__(self, model):
        super().__init__()
        c = model.config
        self.scale, self.weights = c.width**0.5, torch.nn.ParameterDict()
        self.embed = torch.nn.Embedding.from_pretrained(model.embed.weight.detach().clone(), freeze=False)
        self.head = self.embed.weight if c.tied else torch.nn.Parameter(model.head.weight.detach().clone())
        self.layers = torch.nn.ModuleList(
            torch.nn.TransformerEncoderLayer(c.width, c.heads, c.inner, 0.0, "relu", c.norm_eps, batch_first=True)
            for _ in range(c.layers)
        )
        with torch.no_grad():
            for theirs, ours in zip(self.layers, model.blocks):
                a, f = ours.attention, ours.feedforward
                theirs.self_attn.in_proj_weight.copy_(torch.cat((a.q.weight, a.k.weight, a.v.weight)))
                theirs.self_attn.in_proj_bias.copy_(torch.cat((a.q.bias, a.k.bias, a.v.bias)))
                theirs.self_attn.out_proj.load_state_dict(a.o.state_dict())
                theirs.linear1.load_state_dict(f.up.state_dict())
                theirs.linear2.load_state_dict(f.down.state_dict())
                theirs.norm1.load_state_dict(ours.attention_norm.state_dict())
                theirs.norm2.load_state_dict(ours.feedforward_norm.state_dict())

    def waves(self, T, D):
        table = torch.zeros(T, D)
        for place in range(T):
            for pair in range(0, D, 2):
                angle = torch.tensor(place / 10_000 ** (pair / D))
                table[place, pair], table[place, pair + 1] = angle.sin(), angle.cos()
        return table

    def forward(self, x, pads=None):
        T = x.shape[1]
        h = self.embed(x) * self.scale + self.waves(T, self.embed.weight.shape[1])
        mask = torch.nn.Transformer.generate_square_subsequent_mask(T)
        for layer in self.layers:
            h = layer(h, src_mask=mask, src_key_padding_mask=pads, is_causal=False)
        return h @ self.head.T
