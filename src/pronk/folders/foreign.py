"""Opens models from elsewhere with their tokenizers: hub ids, Hugging Face folders, Meta's, llama2.c's files."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pronk.errors import UserError
from pronk.folders import configs, llama2c, meta, pickled, tensors, vocabularies
from pronk.folders.names import Rename, names_of
from pronk.folders.weights import KINDS, Stored, fill
from pronk.models.build import Model, build
from pronk.models.config import ModelConfig
from pronk.text.tokenizer import Tokenizer, template_of

FETCHED = ("*.json", "model*.safetensors", "*.jinja", "*.txt", "*.model", "README.md")
EXPECTED = "expected config.json with weights, params.json with consolidated.*.pth, or a .bin file of llama2.c"


@dataclass(frozen=True)
class Found:
    """A model that is not read yet. kind: its format, in words; folder: where its tokenizer may lie."""

    kind: str
    folder: Path
    config: ModelConfig
    tensors: Mapping[str, Stored]
    rename: Rename
    described: str

    @property
    def dtype(self) -> torch.dtype:
        """The type of most of its weights, as the largest tensor has it."""
        largest = max(self.tensors.values(), key=lambda one: torch.Size(one.shape).numel())
        return next((dtype for dtype, kind in KINDS.items() if kind == largest.kind), torch.float32)

    def load(self, dtype: torch.dtype) -> Model:
        """The model, its parameters in this type; little more memory than that is needed."""
        model = build(self.config, "meta").to(dtype)
        fill(model, self.tensors, self.rename, self.folder, "cpu", self.described)
        return model


def find(source: str) -> Found:
    """What a path or a hub id names; UserError says what is wrong or missing."""
    path = Path(source)
    if path.is_file() and path.suffix != ".bin":
        raise UserError(f"{path}: not read by itself: name its folder; {EXPECTED}")
    if path.is_file():
        config, found, rename = llama2c.opened(path)
        return Found("llama2.c file", path.parent, config, found, rename, "the file's header")
    path = local(source)
    if meta.is_meta(path):
        config, found, rename = meta.opened(path)
        return Found("folder of Meta's", path, config, found, rename, "params.json")
    if not (path / "config.json").is_file():
        raise UserError(f"{path}: {EXPECTED}")
    values = tensors.read_json(path / "config.json")
    if configs.is_scorer(values):
        raise UserError(f"{path}: holds a reward model; convert takes language models")
    config = configs.from_json(values, path / "config.json")
    safe = (path / tensors.SINGLE).exists() or (path / tensors.INDEX).exists()
    torchs = (path / pickled.SINGLE).exists() or (path / pickled.INDEX).exists()
    found = pickled.locate(path) if torchs and not safe else tensors.locate(path)
    kind = "Hugging Face folder" if safe or not torchs else "Hugging Face folder with pytorch_model.bin"
    return Found(kind, path, config, found, names_of(config), "config.json")


def local(source: str) -> Path:
    """A folder as it stands, or a hub id fetched into the hub's cache."""
    if Path(source).exists():
        return Path(source)
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise UserError(f"{source}: no such file or folder")
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(f"{source}: no such folder; to fetch it from the hub: pip install 'pronk[hub]'") from None
    try:
        names = huggingface_hub.list_repo_files(source)
        safe = any(name.endswith(".safetensors") for name in names)
        wanted = [*FETCHED, *([] if safe else ["pytorch_model*.bin"])]
        return Path(huggingface_hub.snapshot_download(source, allow_patterns=wanted))
    except Exception as error:  # no network, no such id, no permission: the hub's errors are many
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UserError(f"{source}: no such folder, and the hub did not give it ({reason})") from None


def tokenizer_for(found: Found, other: str) -> Tokenizer:
    """The model's tokenizer, or the one that `other` (a folder, a file or a hub id) names, under the model's template.

    A tokenizer that names no end of text gets the one of the model's config.json.
    """
    place = local(other) if other else found.folder
    if place.name == "tokenizer.json":
        place = place.parent
    if (place / "tokenizer.json").is_file():
        tokenizer = Tokenizer.load(place, _ends(place, found.folder))
    else:
        made = vocabularies.open_file(place) if place.is_file() else vocabularies.open_any(place)
        if made is None:
            raise UserError(f"{place}: no tokenizer there; name a folder, file or hub id that has it with --tokenizer")
        tokenizer = made
    tokenizer.template = template_of(found.folder) or tokenizer.template or template_of(place)
    return tokenizer


def _ends(place: Path, folder: Path) -> dict[str, str]:
    """Texts of config.json's bos_token_id and eos_token_id."""
    file = folder / "config.json"
    ids = tensors.read_json(file) if file.is_file() else {}
    try:
        definition = json.loads((place / "tokenizer.json").read_text(encoding="utf-8"))
    except ValueError:
        return {}  # Tokenizer.load says what is wrong with it
    texts = {token["id"]: token["content"] for token in definition.get("added_tokens", [])}
    found = {f"{name}_token": _first(ids.get(f"{name}_token_id")) for name in ("bos", "eos")}
    return {name: texts[one] for name, one in found.items() if one in texts}


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value
