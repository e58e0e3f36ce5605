"""`pronk run plan.toml`: runs a file's stages in order and skips those that are done; each stage is a command."""

import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pronk.commands import COMMANDS, Command, load
from pronk.config import flatten, leaves, load_toml, save, to_toml, to_words
from pronk.errors import UserError

BARE = ("plan",)
DONE = "done.json"
# Commands whose --out is a file, and its name in the stage's folder.
FILES = {"generate": "answers.jsonl", "annotate": "comparisons.jsonl"}


@dataclass
class Config:
    """Runs the stages of a file, one after another; finished ones are skipped.

    A stage is a table such as [stage.sft] with `command = "sft"` (left out, the stage's own name) and that
    command's keys. Its results go to OUT/sft; "{pretrain}" in a value stands for the folder of stage pretrain.
    """

    plan: str
    """The TOML file of stages."""
    out: str = ""
    """Folder for the stages' folders; empty means out/ and the plan's name."""
    dry_run: bool = False
    """Only list the stages, and whether they are done."""


@dataclass
class Stage:
    name: str
    command: Command
    config: Any
    folder: Path
    digest: str  # of the resolved config and of the stages it refers to

    def done(self) -> bool:
        marker = self.folder / DONE
        return marker.exists() and json.loads(marker.read_text())["digest"] == self.digest


def run(config: Config) -> None:
    out = Path(config.out or Path("out") / Path(config.plan).stem)
    stages = list(read_plan(config.plan, out))  # all of them first: a mistake in the last stage shows at once
    if config.dry_run:
        for stage in stages:
            print(f"{stage.name}: pronk {stage.command.name}, {'done' if stage.done() else 'to do'}: {stage.folder}")
        return
    save(config, out, "run")
    for stage in stages:
        print(f"{stage.name}: {'done already' if stage.done() else 'pronk ' + stage.command.name}: {stage.folder}")
        if not stage.done():
            run_stage(stage, config.plan)


def run_stage(stage: Stage, plan: str) -> None:
    marker = stage.folder / DONE
    marker.unlink(missing_ok=True)
    started = time.monotonic()
    try:
        stage.command.run(stage.config)
    except UserError as error:
        raise UserError(f"{plan}, [stage.{stage.name}]: {error}") from error
    stage.folder.mkdir(parents=True, exist_ok=True)
    seconds = round(time.monotonic() - started, 1)
    marker.write_text(json.dumps({"command": stage.command.name, "digest": stage.digest, "seconds": seconds}) + "\n")


def read_plan(plan: str, out: Path) -> Iterator[Stage]:
    tables = load_toml(Path(plan))
    stray = sorted(set(tables) - {"stage"})
    if stray or not tables.get("stage"):
        wrong = f"{stray[0]}: not part of a plan" if stray else "no stages"
        raise UserError(f"{plan}: {wrong}; a plan holds tables such as [stage.pretrain] and nothing else")
    earlier: dict[str, Stage] = {}
    for name, table in tables["stage"].items():
        try:
            earlier[name] = read_stage(name, table, out / name, earlier, list(tables["stage"]))
        except UserError as error:
            raise UserError(f"{plan}, [stage.{name}]: {error}") from error
        yield earlier[name]


def read_stage(name: str, table: Any, folder: Path, earlier: Mapping[str, Stage], names: list[str]) -> Stage:
    if not isinstance(table, dict):
        raise UserError(f"{table!r} is not a table of keys")
    used = sorted(set(mentioned(table, names)))
    for other in used:
        if other not in earlier:
            raise UserError(f"{{{other}}} stands for a stage that comes before this one; stage {other} does not")
    keys = {key: fill(value, earlier) for key, value in table.items() if key != "command"}
    command = load(known_command(table.get("command", name)))
    known = leaves(command.config_class)
    if "out" in known:
        keys["out"] = str(folder / FILES.get(command.name, ""))
    config = command.parse([word for key, value in flatten(keys, known) for word in as_words(key, value)])
    parts = [command.name, to_toml(config), *(earlier[other].digest for other in used)]
    return Stage(name, command, config, folder, hashlib.sha256("\0".join(parts).encode()).hexdigest())


def known_command(name: str) -> str:
    if name in COMMANDS and name != "run":
        return name
    near = get_close_matches(str(name), [command for command in COMMANDS if command != "run"], n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UserError(f'there is no command {name!r} for a stage{hint} (write command = "pretrain")')


def as_words(key: str, value: Any) -> list[str]:
    """A key as command-line words, the first value joined by = so that it may begin with a dash."""
    values = to_words(value)
    return [f"--{key}={values[0]}", *values[1:]] if values else [f"--{key}"]


def mentioned(value: Any, names: list[str]) -> Iterator[str]:
    """The stages whose folders a value speaks of, as {name}."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from mentioned(item, names)
    if isinstance(value, str):
        yield from (name for name in re.findall(r"\{([\w-]+)\}", value) if name in names)


def fill(value: Any, earlier: Mapping[str, Stage]) -> Any:
    """The value with every {name} of an earlier stage replaced by its folder; other braces are left alone."""
    if isinstance(value, dict):
        return {key: fill(item, earlier) for key, item in value.items()}
    if isinstance(value, list):
        return [fill(item, earlier) for item in value]
    if isinstance(value, str):
        for name, stage in earlier.items():
            value = value.replace(f"{{{name}}}", str(stage.folder))
    return value
