"""What the journeys share: toy sizes, files as users bring them, and `pronk` as they type it."""

import json
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

from safetensors.torch import load_file

from pronk.cli import main
from pronk.world.tell import OPEN_PROMPTS, requests, stories

ON_CPU = ("--train.device", "cpu", "--train.precision", "fp32")  # the same numbers on every machine
MODEL = ("--model.width", "32", "--model.layers", "2", "--model.heads", "2", "--model.multiple-of", "16")
SHAPE = (*MODEL, "--model.context", "192")
SMALL = ("--vocabulary.size", "400")


@cache
def told(count=120):
    return [story.text for story in stories(count, 0)]


@cache
def asked(count=100):
    return [
        {"messages": [{"role": "user", "content": r.prompt}, {"role": "assistant", "content": r.story.text}]}
        for r in requests(count, 1)
    ]


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def write_stories(folder):
    return jsonl(folder / "stories.jsonl", [{"text": text} for text in told()])


def write_requests(folder):
    return jsonl(folder / "requests.jsonl", asked())


def write_prompts(folder):
    return jsonl(folder / "prompts.jsonl", [{"prompt": prompt} for prompt in OPEN_PROMPTS[:6]])


def steps(count, batch=4, length=64, warmup=2):
    words = ("--train.steps", count, "--train.batch", batch, "--train.length", length, "--optim.warmup", warmup)
    return (*ON_CPU, *map(str, words))


def rounds(count, prompts=3, tokens=12):
    words = ("--train.steps", count, "--rollout.prompts", prompts, "--rollout.max-tokens", tokens)
    return (*ON_CPU, *map(str, words), "--optim.warmup", "1", "--critic-optim.warmup", "1")


def pronk(*words):
    """Run a command that must go well."""
    code = main([str(word) for word in words])
    assert code == 0, f"pronk {' '.join(map(str, words))}: exit code {code}"


def fails(capsys, *words, code=2):
    """Run a command that must end with this code, without a traceback; returns what it said to stderr."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == code
    said = capsys.readouterr().err
    assert "Traceback" not in said and "bug in pronk" not in said
    return said


def start(*words, **options):
    """The same in a process of its own, which may be killed."""
    line = [sys.executable, "-m", "pronk", *map(str, words)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


def metrics(folder):
    path = Path(folder) / "metrics.jsonl"
    found = []
    for line in path.read_text(encoding="utf-8").split("\n") if path.exists() else ():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:  # a process may be writing it right now, or have died while it did
            continue
    return found


def wait_for_step(process, folder, step, seconds=60):
    """Until the run in `folder` has logged this step, or the process is over."""
    end = time.monotonic() + seconds
    while process.poll() is None and max((row["step"] for row in metrics(folder)), default=0) < step:
        assert time.monotonic() < end, "the run makes no progress"
        time.sleep(0.01)


def weights(folder):
    return load_file(Path(folder) / "model" / "model.safetensors")


def same_weights(one, other):
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys()
    return all(bool((one[name] == other[name]).all()) for name in one)


def curve(folder):
    """What a run logged, without what depends on the clock."""
    clocks = ("time", "tokens_per_second", "mfu")
    return [{name: value for name, value in row.items() if name not in clocks} for row in metrics(folder)]
