"""Sweeps runs/shakespeare-gpu.toml on one GPU: validation loss, and seconds of training after the first steps.

Usage: PYTHONPATH=src python bench/gpu_shakespeare.py TEXT [-j JOBS] ["--optim.lr 0.01 --train.steps 800" ...]
Each quoted set of options is one run of `pronk pretrain`, in a process of its own, JOBS at a time (one, where times are
to mean anything). Seconds are counted from the first log line, so compilation is left out.
"""

import json
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FILE = Path(__file__).parent.parent / "runs" / "shakespeare-gpu.toml"


def main(text, *words):
    jobs = int(words[1]) if words[:1] == ("-j",) else 1
    runs = words[2:] if words[:1] == ("-j",) else words
    with ThreadPoolExecutor(jobs) as pool:
        lines = list(pool.map(lambda job: measure(text, *job), enumerate(runs or [""])))
    print(f"{jobs} at a time\n val loss  least   train  seconds (whole)  ms/step    tok/s    mfu  options")
    print("\n".join(lines))


def measure(text, number, options):
    out, started = Path("/tmp/shakespeare") / str(number), time.monotonic()
    command = ["pretrain", str(FILE), "--data", text, "--out", str(out), "--train.resume", "never"]
    run = [sys.executable, "-m", "pronk", *command, *shlex.split(options)]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"failed: {options}\n{done.stderr[-1500:]}"
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    logs, looks = [r for r in rows if "loss" in r], [r["val_loss"] for r in rows if "val_loss" in r]
    first, last = logs[0], logs[-1]
    seconds = last["time"] - first["time"]
    pace = 1e3 * seconds / max(1, last["step"] - first["step"])
    return (
        f"   {looks[-1]:.4f} {min(looks):.4f}  {last['loss']:.4f}  {seconds:6.1f} ({time.monotonic() - started:5.1f})"
        f"  {pace:7.2f}  {last.get('tokens_per_second') or 0:9,.0f}  {last.get('mfu') or 0:.3f}  {options}"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
