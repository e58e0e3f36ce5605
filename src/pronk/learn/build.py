"""What every training command shares: its settings, the device, the precision, and the learner made of them."""

import importlib.util
import math
import os
import shutil
import sys
import sysconfig
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch._functorch import config as functorch
from torch.distributed.device_mesh import DeviceMesh

from pronk.errors import UserError
from pronk.learn.learner import Learner
from pronk.learn.optim import OptimConfig
from pronk.learn.track import peak_flops
from pronk.models.build import compile_blocks, count, multiplied
from pronk.models.config import ModelConfig
from pronk.models.float8 import to_float8
from pronk.parallel.shard import shard

# FLOP of a whole run from which compiling pays by a wide margin (LOG.md): it has paid after 0.5 to 2e13 on two cores,
# after 3 to 5e15 on an H200.
PAYS = {"cpu": 1e14, "cuda": 3e16}


@dataclass(frozen=True)
class TrainConfig:
    """How long to train, on what, and what to keep."""

    steps: int = 1000
    batch: int = 16
    """rows of one optimizer step, over all ranks"""
    micro_batch: int = 0
    """rows of one forward on one device; 0 = all; smaller values need less memory and give the same gradient"""
    length: int = 256
    """tokens in a row"""
    seed: int = 0
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """of computation; auto = bf16 where it is faster (measured on a CPU); parameters are float32 always"""
    float8: bool = False
    """with compile, bf16 and a Hopper GPU or newer: the blocks' products in 8 bits; pays from about a billion
    parameters"""
    compile: bool | None = None
    """compile the model's blocks: faster steps after 15-60 seconds; None = where pretrain or sft, in one process, will
    win that back many times"""
    recompute: float = 0.0
    """with compile: the share of a block's activations that backward makes again, the cheapest first; saves memory"""
    deterministic: bool = False
    """on a GPU: the same numbers again, slower"""
    spike: float = 6.0
    """skip steps whose loss or gradient lies this many deviations above the last 64; 0 = off"""
    log_every: int = 10
    eval_every: int = 0
    """steps between evaluations on the validation split; 0 = at the end only"""
    save_every: int = 500
    """steps between checkpoints; 0 = at the end only"""
    keep: int = 2
    """checkpoints to keep"""
    resume: Literal["auto", "never", "force"] = "auto"
    """auto = go on from the newest checkpoint of --out if its settings are the same; force = even if they are not"""


def pick_device(wish: str) -> torch.device:
    """cuda, else mps, else cpu; UserError where the wished-for one is not there.

    On CUDA, attention leaves cuDNN aside: it plans for tens of milliseconds at every new shape (LOG.md).
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wish == "auto":
        return torch.device(next(name for name, found in there.items() if found))
    if not there[wish]:
        raise UserError(f"device {wish}: this machine has none that torch can use; `pronk doctor` says more")
    return torch.device(wish)


def pick_precision(wish: str, device: torch.device) -> Literal["fp32", "bf16"]:
    """bf16 on GPUs that have it; on a CPU where its matrix products are at least 1.5 times as fast as float32's."""
    if wish != "auto":
        return "bf16" if wish == "bf16" else "fp32"
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if device.type == "cpu" and _product(torch.float32) > 1.5 * _product(torch.bfloat16) else "fp32"


def _product(dtype: torch.dtype) -> float:
    """Seconds of the fastest of twenty matrix products of a small model's size: the choice must not waver."""
    x, w = torch.ones(1024, 128, dtype=dtype), torch.ones(128, 512, dtype=dtype)
    times = []
    for _ in range(20):
        started = time.perf_counter()
        x @ w
        times.append(time.perf_counter() - started)
    return min(times)


def pick_compile(wish: bool | None, kind: str, work: float) -> bool:
    """As wished; else where a run's work, FLOP, is worth it on this kind of device and its compiler is there.

    The settings alone decide, no clock: what is compiled differs in the last bits, and a run that goes on must not.
    """
    if wish is not None or sys.platform != "linux" or work < PAYS.get(kind, math.inf):
        return bool(wish)
    compiler, header = os.environ.get("CXX", "g++"), Path(sysconfig.get_path("include"), "Python.h")
    there = {compiler: bool(shutil.which(compiler)), str(header): header.exists()}
    there["triton"] = kind == "cpu" or importlib.util.find_spec("triton") is not None
    if missing := [name for name, found in there.items() if not found]:
        print(f"not compiled, though so long a run would gain by it: {' and '.join(missing)} not found", flush=True)
    return not missing


def keep_compiled() -> str:
    """The folder where torch keeps what it compiles, so that the next run of these shapes starts sooner.

    To be called before torch imports its compiler, which its optimizers do too and which picks one under /tmp.
    """
    return os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.expanduser("~/.cache/pronk/compiled"))


def make_learner(
    model: nn.Module,
    groups: OptimConfig | Mapping[str, OptimConfig],
    train: TrainConfig,
    mesh: DeviceMesh | None = None,
) -> Learner:
    """A learner for a model that is on its device already; shards it over the mesh and compiles its blocks if asked."""
    device, folder = next(model.parameters()).device, keep_compiled()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    if train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
    torch.use_deterministic_algorithms(train.deterministic)
    if train.recompute and not train.compile:
        raise UserError(f"--train.recompute {train.recompute} needs --train.compile")
    if train.float8:
        _check_float8(train, device)
        to_float8(model)
    if train.compile:
        functorch.activation_memory_budget = 1 - train.recompute
        if mesh is None or mesh.get_rank() == 0:
            print(f"compiling: the first steps take longer; what is compiled is kept in {folder}", flush=True)
        compile_blocks(model)
    if mesh is not None:
        shard(model, mesh)
    return Learner(
        model,
        groups,
        train.steps,
        train.micro_batch,
        pick_precision(train.precision, device),
        mesh.get_group() if mesh is not None else None,
        train.spike,
        graphs=device.type == "cuda" and mesh is None,
    )


def _check_float8(train: TrainConfig, device: torch.device) -> None:
    able = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)
    if not (train.compile and able and pick_precision(train.precision, device) == "bf16"):
        raise UserError("--train.float8 needs --train.compile, bf16 and a GPU of the Hopper or Ada generation or newer")


def flops_per_token(model: nn.Module, config: ModelConfig, length: int) -> float:
    """Floating-point operations of forward and backward for one token: 6N + 12 D S, S = keys seen, over all layers.

    N = parameters multiplied per token. Causal attention sees half of T, with a window W of it W - W^2 / 2T on average.
    Zero for recurrent models, whose count is another.
    """
    if config.family != "decoder":
        return 0.0
    seen = [min(window or length, length) for window in config.windows]
    keys = sum(width - width**2 / (2 * length) for width in seen)
    return 6.0 * multiplied(model) + 12.0 * keys * config.heads * config.head_size


def peak(device: torch.device, precision: str, ranks: int = 1) -> float | None:
    """Peak of all devices together, FLOP/s; None where it is unknown."""
    if device.type != "cuda":
        return None
    one = peak_flops(torch.cuda.get_device_name(device), "bfloat16" if precision == "bf16" else "float32")
    return one * ranks if one is not None else None


def plan(model: nn.Module, train: TrainConfig, precision: str, copies: int = 0, beside: int = 0) -> dict[str, str]:
    """What a run will take, in words, before it starts. copies: frozen models beside the trained one.

    beside: parameters of a critic that is trained too; its activations are taken to be in proportion.
    """
    parameters, rows = count(model), train.micro_batch or train.batch
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    weights = parameters * (4 + 4 * copies) + trained * 12 + beside * 16  # float32 weights; gradients, two moments
    config: ModelConfig = model.config  # type: ignore[assignment]
    width = 2 if precision == "bf16" else 4
    layer = 14 * config.width + 3 * config.inner  # activations kept for backward: values a token and layer
    activations = round(rows * train.length * config.layers * layer * width * (1 + beside / parameters))
    tokens, disk = train.steps * train.batch * train.length, parameters * 4 + trained * 8  # of one checkpoint
    return {
        "parameters": f"{parameters:,}" + (f", {trained:,} of them trained" if trained < parameters else ""),
        "tokens": f"{tokens:,} ({train.steps:,} steps of {train.batch} x {train.length})",
        "memory": f"about {(weights + activations) / 2**20:,.0f} MiB: {weights / 2**20:,.0f} weights and optimizer"
        + (f" (those of the critic's {beside:,} parameters among them)" if beside else "")
        + ", "
        f"{activations / 2**20:,.0f} activations at {rows} rows a forward",
        "disk": f"about {(disk * train.keep + parameters * 4) / 2**20:,.0f} MiB for {train.keep} checkpoints and the "
        "model",
    }
