"""`pronk doctor`: says what this machine has, what is missing and the cure; changes nothing and asks no network."""

import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

BARE = ()
GIB = 2**30


@dataclass
class Config:
    """Says what this machine has, and what is missing."""

    json: bool = False
    """Print one JSON object instead of a table."""


def run(config: Config) -> None:
    facts = look()
    warnings = list(judge(facts))
    if config.json:
        print(json.dumps({**facts, "warnings": warnings}, indent=2))
    else:
        show(facts, warnings)


def look() -> dict[str, Any]:
    """What this machine has; numbers in GiB."""
    import torch

    kind, names = devices()
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "device": kind,
        "device_names": names,
        "bf16": bf16(kind),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "load": 0.0 if sys.platform == "win32" else round(os.getloadavg()[0], 1),
        "memory": memory(),
        "disk_free": round(shutil.disk_usage(".").free / GIB, 1),
        "compiler": shutil.which("cc") or shutil.which("gcc") or "",
        "nvidia_driver": shutil.which("nvidia-smi") is not None,
        "extras": {name: missing(name) for name in extras()},
    }


def devices() -> tuple[str, list[str]]:
    """The kind that pronk will use, best first, and the names of those there."""
    import torch

    if torch.cuda.is_available():
        gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        return "cuda", [f"{gpu.name} ({gpu.total_memory / GIB:.0f} GiB)" for gpu in gpus]
    if torch.backends.mps.is_available():
        return "mps", ["Apple GPU"]
    return "cpu", [cpu_name()]


def cpu_name() -> str:
    return next((line.split(":")[1].strip() for line in cpu_lines("model name")), platform.processor() or "CPU")


def cpu_lines(key: str) -> list[str]:
    path = Path("/proc/cpuinfo")
    return [line for line in path.read_text().splitlines() if line.startswith(key)] if path.exists() else []


def bf16(kind: str) -> str:
    """Whether bfloat16 is fast here: "yes", "no" or "unknown"."""
    import torch

    if kind == "cuda":
        return "yes" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    flags = cpu_lines("flags")[:1]
    if kind == "mps" or not flags:
        return "unknown"
    return "yes" if {"amx_bf16", "avx512_bf16"} & set(flags[0].split()) else "no"


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def memory() -> float | None:
    """What this process may use, a container's limit counted."""
    if sys.platform == "win32":
        return None
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else "max"
    return round(min(total, total if text == "max" else int(text)) / GIB, 1)


def extras() -> list[str]:
    return metadata.metadata("pronk").get_all("Provides-Extra") or []


def missing(extra: str) -> list[str]:
    """Packages of an extra that are not installed."""
    wanted = [line for line in metadata.requires("pronk") or [] if re.search(rf"extra == ['\"]{extra}['\"]", line)]
    names = [re.split(r"[\s<>=!~;\[]", line)[0] for line in wanted]
    return [name for name in names if not installed(name)]


def installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def judge(facts: dict[str, Any]) -> Iterator[str]:
    """What may go wrong here, in plain words, each with its cure."""
    if version(facts["torch"]) < (2, 10):
        yield f"torch {facts['torch']} is too old: pip install 'torch>=2.10'"
    if facts["nvidia_driver"] and facts["device"] == "cpu":
        yield "an NVIDIA driver is here, but torch does not see a GPU: install torch's CUDA build from pytorch.org"
    if facts["cores"] < 2:
        yield "one core: the demo will take about twice its five minutes"
    if facts["threads"] > facts["cores"]:
        yield f"{facts['threads']} threads on {facts['cores']} cores: set OMP_NUM_THREADS={facts['cores']}"
    if facts["load"] > facts["cores"] * 0.75:
        yield f"other programs keep the cores busy (load {facts['load']}): training will take longer than it says"
    if (facts["memory"] or 99) < 4:
        yield f"{facts['memory']} GiB of memory: enough for the demo; take small models and micro-batches"
    if facts["disk_free"] < 2:
        yield f"{facts['disk_free']} GiB free on this disk: free some, or write elsewhere with --out"
    if not facts["compiler"]:
        yield "no C compiler: torch.compile cannot be used (on Debian: apt install gcc)"


def version(text: str) -> tuple[int, int]:
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


def show(facts: dict[str, Any], warnings: list[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="this machine", title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows(facts):
        table.add_row(name, value)
    console = Console()
    console.print(table)
    for warning in warnings:
        console.print(f"! {warning}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    if not warnings:
        console.print("all well; type: pronk demo", style="green")


def rows(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "python", f"{facts['python']} on {facts['system']}"
    yield "torch", facts["torch"]
    yield "device", f"{facts['device']}: {', '.join(facts['device_names'])}"
    yield "fast bfloat16", facts["bf16"]
    yield "cores", f"{facts['cores']} (torch uses {facts['threads']} threads, load {facts['load']})"
    yield "memory", f"{facts['memory']} GiB" if facts["memory"] else "unknown"
    yield "disk", f"{facts['disk_free']} GiB free here"
    yield "C compiler", facts["compiler"] or "none"
    for extra, gone in facts["extras"].items():
        # rich reads [embed] as markup unless it is escaped
        yield f"extra {extra}", f"missing {', '.join(gone)}: pip install -e '.\\[{extra}]'" if gone else "installed"
