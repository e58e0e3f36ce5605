"""One stage a file: a Config and a run. This table names them, so that listing them imports none."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from pronk.config import parse

COMMANDS = {
    "demo": "a story in five minutes: raise a storyteller, align it to cats, read the report",
    "tokenizer": "learn a vocabulary from your text",
    "prepare": "turn text into shards of token ids",
    "pretrain": "train a model from scratch on tokens or text",
    "sft": "teach a model to answer, from conversations",
    "rl": "align a model with a reward: REINFORCE, PPO and kin",
    "generate": "continue prompts with a model",
    "chat": "talk with a model",
    "run": "run a file of stages, one after another",
    "doctor": "say what this machine has, and what is missing",
}


def prepare_call(name: str, words: Sequence[str]) -> tuple[Callable[[Any], None], Any]:
    """A command's `run` and the config that `words` describe.

    Beside Config and run, a command's file may hold PRESETS (rows for `parse`) and BARE (what its words without
    `--` mean, such as ("settings", "model")).
    """
    parts = vars(import_module(f"pronk.commands.{name}"))
    bare = parts.get("BARE", ("settings",))
    config = parse(parts["Config"], words, parts.get("PRESETS", {}), bare=bare, prog=f"pronk {name}")
    return parts["run"], config
