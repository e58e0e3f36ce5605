"""`pronk task arithmetic --out FOLDER`: writes a task's problems as files to pretrain, tune, train and test on."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pronk.data.records import Conversation, Prompt
from pronk.errors import UserError
from pronk.tasks.arithmetic import Arithmetic
from pronk.tasks.table import TASKS

BARE = ("settings", "task")


@dataclass(frozen=True)
class Config:
    """Writes a task's problems: text.jsonl to pretrain on, sft.jsonl with worked answers, prompts.jsonl, test.jsonl.

    No problem of test.jsonl is in the other files.
    """

    task: Literal["arithmetic", "copying", "stories"] = "arithmetic"
    """what is asked; the answers can be checked (--reward task:arithmetic)"""
    out: str = "out/task"
    """folder for the files"""
    worked: int = 10_000
    """problems with worked answers, in sft.jsonl and, as plain text, in text.jsonl"""
    prompts: int = 5_000
    """problems to train on, the key answer beside each"""
    test: int = 500
    """problems of the test side"""
    levels: tuple[str, ...] = ()
    """only these levels of difficulty; none = all"""
    slips: float = 0.0
    """arithmetic: how often a column of an answer in sft.jsonl is wrong by one, as by a careless author"""
    seed: int = 0


def run(config: Config) -> None:
    if min(config.worked, config.prompts, config.test) < 1:
        raise UserError("--worked, --prompts and --test must each be at least 1")
    if not 0 <= config.slips <= 1:
        raise UserError(f"--slips {config.slips:g}: give a rate from 0 to 1")
    task, out = TASKS[config.task], Path(config.out)
    if config.slips and not isinstance(task, Arithmetic):
        raise UserError(f"--slips: only arithmetic has answers that slip, not {config.task}")
    learned = task.prompts("train", config.worked, config.seed, config.levels)
    worked = [task.worked(prompt) for prompt in learned]
    shown = worked
    if config.slips and isinstance(task, Arithmetic):
        shown = [task.slipped(prompt, config.slips, config.seed) for prompt in learned]
    prompts = task.prompts("train", config.prompts, config.seed + 1, config.levels)
    test = task.prompts("test", config.test, config.seed, config.levels)
    out.mkdir(parents=True, exist_ok=True)
    write(out / "text.jsonl", ({"text": "\n".join(m.content for m in one.messages)} for one in worked))
    write(out / "sft.jsonl", map(conversation, shown))
    write(out / "prompts.jsonl", map(row, prompts))
    write(out / "test.jsonl", map(row, test))
    print(f"task: {len(worked):,} worked, {len(prompts):,} prompts and {len(test):,} of the test side are in {out}")


def conversation(one: Conversation) -> dict[str, Any]:
    return {"messages": [asdict(message) for message in one.messages]}


def row(prompt: Prompt) -> dict[str, Any]:
    return {"prompt": prompt.messages[-1].content, **prompt.meta}


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows), encoding="utf-8")
