"""A tiny model and tokenizer, and folders of them to damage."""

import json
from functools import cache

import torch
from safetensors.torch import load_file, save_file

from pronk.folders.huggingface import save
from pronk.models.build import build
from pronk.models.config import ModelConfig
from pronk.text.bpe import train


@cache
def tokenizer():
    return train(["Once upon a time there was a cat. It sat on a mat and saw a rat."] * 3, "bytelevel", 300)


def make(**keys):
    shape = {"vocab": tokenizer().size, "width": 32, "layers": 2, "heads": 4, "context": 64, "multiple_of": 8}
    model = build(ModelConfig(**(shape | keys)))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator) + ("norm" in name))
    return model


def saved(folder, **keys):
    model = make(**keys)
    save(folder, model, tokenizer())
    return model


def edit_config(folder, **keys):
    """Set keys of config.json; None takes one out."""
    file = folder / "config.json"
    values = json.loads(file.read_text()) | keys
    file.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def edit_weights(folder, change):
    """Load the one weights file, let change edit the dictionary, write it back."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors = change(tensors) or tensors
    file.unlink()
    save_file(tensors, file)


def some_tokens():
    return torch.randint(tokenizer().size, (2, 40), generator=torch.Generator().manual_seed(1))
