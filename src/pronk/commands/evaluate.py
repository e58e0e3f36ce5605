"""`pronk evaluate FOLDER --task arithmetic`: how often answers are right, by level: pass@k with intervals."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pronk.commands.answering import answer, check_sampling
from pronk.commands.asking import read_asked
from pronk.commands.task import write
from pronk.config import save
from pronk.data.records import Prompt, Sample
from pronk.engine.engine import Engine
from pronk.engine.sequence import Sampling
from pronk.errors import UserError
from pronk.evals.passk import pass_rate
from pronk.evals.report import Rate
from pronk.folders.huggingface import load
from pronk.learn.build import pick_device
from pronk.tasks.table import TASKS

BARE = ("settings", "model")


@dataclass(frozen=True)
class Config:
    """Asks a model a task's problems and grades its answers: the share of right ones (pass@1), and pass@k."""

    model: str
    """model folder"""
    task: Literal["arithmetic", "copying", "gsm8k", "stories"] = "arithmetic"
    """gsm8k: --prompts with question and answer, the latter ending in "#### number" """
    prompts: str = ""
    """file of prompts with their answers, instead of the task's own test side"""
    out: str = ""
    """folder for results.json and answers.jsonl; none = only print"""
    count: int = 500
    """problems, spread over the levels"""
    levels: tuple[str, ...] = ()
    """only these levels; none = all"""
    n: int = 16
    """answers to each problem"""
    k: tuple[int, ...] = ()
    """the k of pass@k; none = 1, 4, 16 as far as n goes"""
    temperature: float = 1.0
    """0 = always the likeliest token (then --n 1)"""
    max_tokens: int = 128
    """longest answer, tokens"""
    seed: int = 0
    slots: int = 256
    """answers made at once"""
    strict: bool = False
    """stop at the first unusable line instead of counting it"""
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"


def run(config: Config) -> None:
    counts = check(config)
    task = TASKS[config.task]
    model, tokenizer = load(config.model, pick_device(config.device))
    asked = gather(config)
    sampling = Sampling(config.max_tokens, config.temperature, seed=config.seed, n=config.n)
    samples = answer(Engine(model, tokenizer.decode, config.slots), tokenizer, asked, sampling)
    right = [task.grade(sample) >= 1 for sample in samples]
    levels = [str(prompt.meta.get("level", config.task)) for prompt in asked]
    results = measure(levels, tally(right, config.n), config.n, counts)
    print(table(results, counts))
    if config.out:
        keep(Path(config.out), config, results, samples, right)


def check(config: Config) -> tuple[int, ...]:
    """The k to measure."""
    check_sampling(config.n, config.temperature, config.max_tokens, greedy=True)
    if config.count < 1:
        raise UserError("--count must be at least 1")
    wrong = [k for k in config.k if not 1 <= k <= config.n]
    if wrong:
        raise UserError(f"--k {wrong[0]}: pass@k needs k from 1 to --n {config.n}")
    return config.k or tuple(k for k in (1, 4, 16, 64) if k <= config.n)


def gather(config: Config) -> list[Prompt]:
    """The task's test side, or the file's prompts: the first `count`, all of them where levels are named."""
    if not config.prompts:
        return TASKS[config.task].prompts("test", config.count, config.seed, config.levels)
    found = read_asked("evaluate", config.prompts, config.strict)
    chosen = [p for p in found if not config.levels or p.meta.get("level") in config.levels]
    if not chosen:
        raise UserError(f"{config.prompts}: no prompt is of a level among {', '.join(config.levels)}")
    for prompt in chosen:  # a key that is missing should show before an hour of sampling
        TASKS[config.task].grade(Sample(prompt, "", [], [], [], "stop"))
    return chosen[: config.count]


def tally(right: Sequence[bool], n: int) -> list[int]:
    """Right answers of each prompt, whose n stand together."""
    return [sum(right[start : start + n]) for start in range(0, len(right), n)]


def measure(levels: Sequence[str], right: Sequence[int], n: int, counts: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Problems and pass@k of each level, and of all together."""
    names = list(dict.fromkeys(levels))
    groups = {name: [r for level, r in zip(levels, right) if level == name] for name in names}
    if len(groups) != 1:
        groups["all"] = list(right)
    return {
        name: {"problems": len(some)} | {f"pass@{k}": asdict(pass_rate(n, some, k)) for k in counts}
        for name, some in groups.items()
    }


def table(results: dict[str, dict[str, Any]], counts: Sequence[int]) -> str:
    """The results in columns; [..] are 95 % intervals."""
    lines = [f"{'level':14}{'problems':>9}" + "".join(f"{f'pass@{k}':>24}" for k in counts)]
    for name, row in results.items():
        cells = (spoken(Rate(**row[f"pass@{k}"])) for k in counts)
        lines.append(f"{name:14}{row['problems']:>9}" + "".join(f"{cell:>24}" for cell in cells))
    return "\n".join(lines)


def spoken(rate: Rate) -> str:
    return f"{rate.value:.3f} [{rate.low:.3f}, {rate.high:.3f}]"


def keep(
    out: Path, config: Config, results: dict[str, dict[str, Any]], samples: Sequence[Sample], right: Sequence[bool]
) -> None:
    save(config, out, "evaluate")
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    rows = (
        {"prompt": s.prompt.messages[-1].content, **s.prompt.meta, "text": s.text, "finish": s.finish, "right": r}
        for s, r in zip(samples, right)
    )
    write(out / "answers.jsonl", rows)
    print(f"evaluate: {len(samples):,} answers are in {out / 'answers.jsonl'}")
