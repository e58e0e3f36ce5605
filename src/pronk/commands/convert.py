"""`pronk convert SOURCE OUT`: weights of other formats into a model folder, or a model into GGUF."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from pronk.errors import UserError
from pronk.folders import foreign, gguf
from pronk.folders.huggingface import save
from pronk.folders.tensors import read_json
from pronk.models.build import count

BARE = ("source", "out")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
LEFT = ("_from_model_config", "transformers_version")


@dataclass(frozen=True)
class Config:
    """Converts a model: into a folder that pronk and transformers load, or into one GGUF file."""

    source: str
    """a Hugging Face folder or hub id, a folder of Meta's (params.json, consolidated.*.pth), or a llama2.c .bin"""
    out: str
    """the new folder; a name that ends in .gguf makes a GGUF file instead"""
    tokenizer: str = ""
    """folder, file or hub id of the tokenizer, where the model comes without one"""
    dtype: Literal["keep", "fp32", "fp16", "bf16"] = "keep"
    """type of the weights; GGUF takes fp32 and fp16"""


def run(config: Config) -> None:
    out, found = Path(config.out), foreign.find(config.source)
    if out.resolve() == Path(config.source).resolve():
        raise UserError(f"--out {out} is the source itself: name another folder")
    tokenizer = foreign.tokenizer_for(found, config.tokenizer)
    to_gguf = out.suffix == ".gguf"
    dtype = DTYPES[config.dtype] if config.dtype != "keep" else found.dtype
    if to_gguf and dtype == torch.bfloat16:
        if config.dtype == "bf16":
            raise UserError("--dtype bf16: GGUF files are written in fp32 or fp16")
        dtype = torch.float32  # holds every bfloat16 exactly
    dtype = torch.float32 if dtype == torch.float64 else dtype
    model = found.load(dtype)
    if to_gguf:
        gguf.save(out, model, tokenizer)
    else:
        save(out, model, tokenizer, _generation(found.folder), _card(config.source, found))
    print(f"{out}: {count(model):,} parameters from a {found.kind}, in {str(dtype).removeprefix('torch.')}")


def _generation(folder: Path) -> dict[str, Any]:
    """What the source says of sampling, its ends of text among it."""
    file = folder / "generation_config.json"
    return {key: value for key, value in read_json(file).items() if key not in LEFT} if file.is_file() else {}


def _card(source: str, found: foreign.Found) -> str:
    """Where the model comes from, and its licence where the source's own card names one."""
    readme = found.folder / "README.md"
    lines = readme.read_text(encoding="utf-8", errors="replace").splitlines() if readme.is_file() else []
    licence = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("license:")), "")
    said = f"Its licence there is {licence}." if licence else "Its licence is the original's."
    return f"Not trained by pronk, but converted from `{source}`, a {found.kind}. {said} The training data: see there."
