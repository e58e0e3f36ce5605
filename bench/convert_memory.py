"""Memory at its highest while `pronk convert` reads a model of a published shape, in bfloat16 shards.

Usage: PYTHONPATH=src python bench/convert_memory.py [preset, default llama3-8b] [folder, default /tmp/pronk-sparse]
The files are sparse: headers and holes, so they take no disk and all weights are zero. The model itself is real.
"""

import json
import re
import shutil
import sys
import time
from pathlib import Path

import torch

from pronk.folders import foreign
from pronk.folders.configs import to_json
from pronk.folders.names import names_of
from pronk.models.build import build, count
from pronk.models.config import ModelConfig
from pronk.models.presets import PRESETS

TENSORS = 60  # in a shard


def write_sparse(folder, config):
    """A Hugging Face folder of this shape; returns the number of shards."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(to_json(config, {}, "bfloat16")))
    rename, places = names_of(config), {}
    shapes = [(rename(name).name, list(p.shape)) for name, p in build(config, "meta").named_parameters()]
    for number, start in enumerate(range(0, len(shapes), TENSORS)):
        part, name = shapes[start : start + TENSORS], f"model-{number:05d}.safetensors"
        write_holes(folder / name, part)
        places |= {key: name for key, _ in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return number + 1


def write_holes(path, shapes):
    header, at = {}, 0
    for key, shape in shapes:
        end = at + 2 * torch.Size(shape).numel()
        header[key] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)


def peak():
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def main(preset="llama3-8b", folder="/tmp/pronk-sparse"):
    folder = Path(folder)
    shards = write_sparse(folder, ModelConfig(**PRESETS[preset]))
    before, started = peak(), time.process_time()
    model = foreign.find(str(folder)).load(torch.bfloat16)
    size = sum(p.nbytes for p in model.parameters())
    print(
        f"{preset}: {count(model):,} parameters of {size / 1e9:.2f} GB from {shards} shards; at its highest "
        f"{peak() / 1e9:.2f} GB, {before / 1e9:.2f} of it before: {(peak() - before) / size:.3f} of the model, "
        f"{time.process_time() - started:.1f} CPU seconds"
    )
    shutil.rmtree(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
