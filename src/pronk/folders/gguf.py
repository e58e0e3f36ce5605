"""Writes GGUF files, F32 or F16, for llama.cpp and its kin; reads none."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pronk.errors import UserError
from pronk.folders.architectures import equal
from pronk.folders.names import names_of
from pronk.folders.tensors import stored
from pronk.models.build import Model
from pronk.text.bpe import WORDS
from pronk.text.tokenizer import Tokenizer

KINDS = {"llama": "llama", "mistral": "llama", "qwen3": "qwen3", "gpt2": "gpt2", "phi": "phi2"}
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = {WORDS: "llama-bpe", QWEN_WORDS: "qwen2", "": "gpt-2"}  # by the tokenizer's own regex; none = GPT-2's


def save(path: Path, model: Model, tokenizer: Tokenizer) -> None:
    """Write one file: shape, tokenizer, chat template and weights (norms and biases always F32)."""
    known = equal(model.config)
    if known is None or known.model_type not in KINDS:
        raise UserError(f"{path}: GGUF has no name for this architecture; it takes {', '.join(KINDS)}")
    try:
        import gguf
    except ImportError:
        raise UserError(f"{path}: writing GGUF needs: pip install 'pronk[convert]'") from None
    kind = KINDS[known.model_type]
    fresh = path.with_name(f".{path.name}.pronk-new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = gguf.GGUFWriter(fresh, kind)
        _describe(writer, model, kind, path)
        _speak(writer, tokenizer, model.config.vocab, path)
        names = gguf.get_tensor_name_map(next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == kind), _layers(model))
        tensors = stored(model, names_of(model.config))
        if kind == "phi2" and model.config.tied:  # llama.cpp has no tied head there
            tensors["lm_head.weight"] = model.embed.weight.detach()
        for name, tensor in tensors.items():
            new = names.get_name(name, (".weight", ".bias"))
            assert new is not None, name
            writer.add_tensor(new, _laid(name, tensor, model, kind).numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        fresh.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        fresh.unlink(missing_ok=True)


def _layers(model: Model) -> int:
    return model.config.layers


def _describe(writer: Any, model: Model, kind: str, path: Path) -> None:
    c = model.config
    writer.add_name(path.stem)
    writer.add_context_length(c.context)
    writer.add_embedding_length(c.width)
    writer.add_block_count(c.layers)
    writer.add_feed_forward_length(c.inner)
    writer.add_head_count(c.heads)
    writer.add_head_count_kv(c.key_heads)
    writer.add_vocab_size(c.vocab)
    writer.add_file_type(1 if model.embed.weight.dtype == torch.float16 else 0)
    (writer.add_layer_norm_rms_eps if c.norm == "rms" else writer.add_layer_norm_eps)(c.norm_eps)
    if c.positions == "rotary":
        writer.add_rope_dimension_count(c.rotary_size)
        writer.add_rope_freq_base(c.rope_theta)
        writer.add_key_length(c.head_size)
        writer.add_value_length(c.head_size)
    if c.window:
        writer.add_sliding_window(c.window)
    if c.rope_factor != 1.0:
        from pronk.models.positions import stretches

        writer.add_tensor("rope_freqs.weight", stretches(c).numpy())


def _laid(name: str, tensor: Tensor, model: Model, kind: str) -> Tensor:
    """As llama.cpp wants it: [out, in], heads of its "llama" with pairs side by side, vectors in F32."""
    c = model.config
    if kind == "gpt2" and ".h." in name and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
        tensor = tensor.T
    if kind == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
        tensor = tensor.view(-1, 2, c.head_size // 2, c.width).transpose(1, 2).reshape(tensor.shape)
    narrow = tensor.dtype == torch.float16 and tensor.dim() == 2
    return tensor.contiguous() if narrow else tensor.float().contiguous()


def _speak(writer: Any, tokenizer: Tokenizer, vocab: int, path: Path) -> None:
    """The tokenizer's tables. Byte-level BPE is GGUF's "gpt2", SentencePiece's BPE its "llama"."""
    definition = tokenizer.definition
    model = definition["model"]
    if model["type"] != "BPE":
        raise UserError(f"{path}: GGUF has no name for a {model['type']} tokenizer; byte-level BPE can be written")
    tokens = {i: text for text, i in model["vocab"].items()}
    specials = {one["id"]: one["content"] for one in definition["added_tokens"] if one["special"]}
    tokens |= {one["id"]: one["content"] for one in definition["added_tokens"]}
    texts = [tokens.get(i, f"[PAD{i}]") for i in range(vocab)]
    byte_level = _split_of(definition, path)
    kinds = [_kind(i, text, i in tokens, i in specials, byte_level is None) for i, text in enumerate(texts)]
    writer.add_tokenizer_model("gpt2" if byte_level is not None else "llama")
    writer.add_tokenizer_pre(byte_level if byte_level is not None else "default")
    writer.add_token_list(texts)
    writer.add_token_types(kinds)
    merges = [one if isinstance(one, str) else " ".join(one) for one in model["merges"]]
    if byte_level is not None:
        writer.add_token_merges(merges)
    else:
        made = {left + right: -float(place) for place, (left, right) in reversed([*enumerate(_pairs(merges))])}
        writer.add_token_scores([made.get(text, -1e6 if kinds[i] == 1 else 0.0) for i, text in enumerate(texts)])
        writer.add_add_space_prefix("Prepend" in json.dumps(definition["normalizer"]))
    writer.add_bos_token_id(tokenizer.bos)
    writer.add_eos_token_id(tokenizer.eos)
    writer.add_pad_token_id(tokenizer.pad)
    writer.add_add_bos_token(False)
    if tokenizer.template:
        writer.add_chat_template(tokenizer.template)


def _pairs(merges: list[str]) -> list[list[str]]:
    return [one.split(" ") for one in merges]


def _kind(i: int, text: str, known: bool, special: bool, bytes_spelled: bool) -> int:
    """GGUF's token types: 1 normal, 2 unknown, 3 control, 5 unused, 6 byte."""
    if not known:
        return 5
    if special:
        return 2 if text == "<unk>" else 3
    return 6 if bytes_spelled and len(text) == 6 and text.startswith("<0x") else 1


def _split_of(definition: dict[str, Any], path: Path) -> str | None:
    """llama.cpp's name for how byte-level BPE splits a text first; None = SentencePiece's way with "▁"."""
    if definition["pre_tokenizer"] is None and "\u2581" in json.dumps(definition["normalizer"], ensure_ascii=False):
        return None
    steps = definition["pre_tokenizer"] or {}
    steps = steps.get("pretokenizers", [steps])
    if not any(step.get("type") == "ByteLevel" for step in steps):
        raise UserError(f"{path}: GGUF has no name for how this tokenizer splits text; byte-level BPE can be written")
    regex = next((step["pattern"].get("Regex", "?") for step in steps if step["type"] == "Split"), "")
    if regex not in SPLITS:
        raise UserError(f"{path}: llama.cpp has no name for this tokenizer's split {regex!r}")
    return SPLITS[regex]
