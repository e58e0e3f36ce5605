"""Seconds from `pronk pretrain --train.compile` to its first step: nothing compiled yet, then again.

usage: python bench/start_up.py TEXT [--train.device cpu and other options of pretrain]; the model is Llama 134M.
"""

import os
import subprocess
import sys
import tempfile
import time

OPTIONS = (
    *("--model.preset", "llama-134m", "--vocabulary.size", "1024", "--train.compile", "--train.steps", "3"),
    *("--train.batch", "8", "--train.length", "1024", "--train.log-every", "1", "--train.resume", "never"),
)


def first_step(text, out, options):
    """Seconds to the line of the first step; the whole run is waited for."""
    command = [sys.executable, "-m", "pronk", "pretrain", "--data", text, "--out", out, *OPTIONS, *options]
    started, seconds, said = time.perf_counter(), None, []
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in run.stdout:
        said.append(line)
        if "compiling" in line:
            print(line.strip(), flush=True)
        if "step 1/" in line and seconds is None:
            seconds = time.perf_counter() - started
    if run.wait():
        sys.exit("".join(said)[-2000:])
    return seconds


def main(text, *options):
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{folder}/compiled"
        for name in ("empty", "warm"):
            print(f"{name}: first step after {first_step(text, f'{folder}/out', options):.1f} s", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
