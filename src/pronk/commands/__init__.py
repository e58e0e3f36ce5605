"""One stage a file: a Config and a run. This table names them, so that listing them imports none."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from pronk.config import Presets, parse

COMMANDS = {
    "demo": "a story in five minutes: raise a storyteller, align it to cats, read the report",
    "tokenizer": "learn a vocabulary from your text",
    "prepare": "turn text into shards of token ids",
    "pretrain": "train a model from scratch on tokens or text",
    "sft": "teach a model to answer, from conversations",
    "reward": "learn from comparisons to score answers: a reward model",
    "dpo": "align a model with comparisons directly: DPO, IPO",
    "rl": "align a model with a reward: REINFORCE, PPO and kin",
    "reject": "keep the best of n answers, and tune on them",
    "task": "write problems whose answers can be checked: to tune, train and test on",
    "evaluate": "grade a model's answers: how often they are right",
    "feedback": "let people compare two answers in a browser; give, take and count what they said",
    "annotate": "let simulated people compare answers, to study what is learned from them",
    "convert": "turn weights of other formats into a model folder, or a model into GGUF",
    "generate": "continue prompts with a model",
    "chat": "talk with a model",
    "serve": "answer over HTTP, as OpenAI does",
    "run": "run a file of stages, one after another",
    "doctor": "say what this machine has, and what is missing",
}


@dataclass
class Command:
    """A file of this folder. Beside Config and run it may hold PRESETS and BARE, which `parse` explains."""

    name: str
    config_class: type[Any]
    run: Callable[[Any], None]
    presets: Presets
    bare: Sequence[str]

    def parse(self, words: Sequence[str]) -> Any:
        return parse(self.config_class, words, self.presets, bare=self.bare, prog=f"pronk {self.name}")


def load(name: str) -> Command:
    """Imports the command's file."""
    parts: Mapping[str, Any] = vars(import_module(f"pronk.commands.{name}"))
    return Command(name, parts["Config"], parts["run"], parts.get("PRESETS", {}), parts.get("BARE", ("settings",)))
