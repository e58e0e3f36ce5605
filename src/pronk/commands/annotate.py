"""`pronk annotate --model FOLDER [FOLDER2] --prompts FILE`: simulated people compare answers, whose worth is known."""

import json
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pronk.commands.answering import answer, check_sampling
from pronk.commands.asking import read_asked
from pronk.data.records import Prompt
from pronk.engine.engine import Engine
from pronk.engine.sequence import Sampling
from pronk.errors import UserError
from pronk.evals.report import Rate, wilson
from pronk.folders.huggingface import load
from pronk.learn.build import pick_device
from pronk.world.annotators import Annotator, Verdict, utility


@dataclass(frozen=True)
class Config:
    """Lets simulated people compare answers about the story world: comparisons to learn from, and a true winner."""

    model: tuple[str, ...]
    """one model folder, which answers twice, or two to compare"""
    prompts: str
    """file of prompts (.jsonl with prompt or messages, .txt with one a line)"""
    out: str = "out/comparisons.jsonl"
    """file to write, a comparison a line; pairs of which both are bad are left out"""
    votes: int = 1000
    """pairs to judge"""
    annotators: int = 8
    """people, who take turns"""
    noise: float = 0.5
    """spread of each judgement's error, in units of utility"""
    disagreement: float = 0.2
    """spread of the people's own likings around the shared one"""
    careless: float = 0.02
    """share of blind clicks"""
    dazzled: float = 0.0
    """worth that people see wherever --dazzled-by stands, though it has none: a planted exploit"""
    dazzled_by: str = "!"
    """a word that costs true worth, such as the animal liked least, makes a better reward a worse story"""
    temperature: float = 1.0
    max_tokens: int = 256
    """longest answer, tokens"""
    seed: int = 0
    strict: bool = False
    """stop at the first unusable line instead of counting it"""
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    slots: int = 128
    """answers made at once"""


class Vote(NamedTuple):
    """A pair of answers in the order in which it was judged: `a` is of the first model. worth: what they truly are."""

    prompt: str
    a: str
    b: str
    verdict: Verdict
    worth: tuple[float, float]


def run(config: Config) -> None:
    if not 1 <= len(config.model) <= 2:
        raise UserError(f"--model takes one folder or two, not {len(config.model)}")
    if min(config.votes, config.annotators) < 1:
        raise UserError("--votes and --annotators must be at least 1")
    check_sampling(1, config.temperature, config.max_tokens)
    found = read_asked("annotate", config.prompts, config.strict)
    asked = list(islice(cycle(found), config.votes))
    pairs = zip(*answers(config, asked))
    votes = judge(config, [(p.messages[-1].content, a, b) for p, (a, b) in zip(asked, pairs)])
    rows = [row for vote in votes if (row := comparison(vote)) is not None]
    out = Path(config.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print("\n".join([*summary(config, votes), f"annotate: {len(rows):,} comparisons in {out}"]), flush=True)


def answers(config: Config, asked: list[Prompt]) -> list[list[str]]:
    """Two answers to each prompt: [2][prompts], from two models or twice from one."""
    said = []
    for place, folder in enumerate((*config.model, *config.model)[:2]):
        model, tokenizer = load(folder, pick_device(config.device))
        engine = Engine(model, tokenizer.decode, config.slots)
        sampling = Sampling(config.max_tokens, config.temperature, seed=2 * config.seed + place)
        said.append([sample.text for sample in answer(engine, tokenizer, asked, sampling)])
    return said


def judge(config: Config, pairs: list[tuple[str, str, str]]) -> list[Vote]:
    """Each pair by the next person. Which answer is shown first does not matter to them."""
    dazzled = config.dazzled, config.dazzled_by
    people = [
        Annotator(config.seed * 1000 + i, config.noise, config.disagreement, config.careless, *dazzled)
        for i in range(config.annotators)
    ]
    return [
        Vote(prompt, a, b, person.judge(prompt, a, b), (utility(prompt, a), utility(prompt, b)))
        for (prompt, a, b), person in zip(pairs, cycle(people))
    ]


def comparison(vote: Vote) -> dict[str, Any] | None:
    """The vote as a line of the file; None where there is nothing to learn from it."""
    if vote.verdict.choice == "bad" or vote.a == vote.b:
        return None
    seen = (vote.b, vote.a) if vote.verdict.choice == "b" else (vote.a, vote.b)
    pair = {"prompt": vote.prompt, "chosen": seen[0], "rejected": seen[1], "strength": vote.verdict.strength}
    return pair | {"first": "rejected" if vote.verdict.choice == "b" else "chosen"}


def summary(config: Config, votes: list[Vote]) -> list[str]:
    """What the people said, what is true, and how well the two agree."""
    truths = [vote.worth for vote in votes]
    choices = [vote.verdict.choice for vote in votes]
    clear = [(v.verdict.choice == "a") == (a > b) for v, (a, b) in zip(votes, truths) if v.verdict.choice in "ab"]
    lines = [
        f"annotate: {len(votes):,} votes: {choices.count('a'):,} for the first, {choices.count('b'):,} for the second, "
        f"{choices.count('tie'):,} ties, {choices.count('bad'):,} of two bad ones",
        f"annotate: {sum(clear) / max(1, len(clear)):.1%} of clear votes are for the truly better one",
    ]
    if len(config.model) == 2:
        seen = win_rate([{"a": 1.0, "b": 0.0}.get(choice, 0.5) for choice in choices])
        true = win_rate([1.0 if a > b else 0.5 if a == b else 0.0 for a, b in truths])
        means = [sum(values) / len(values) for values in zip(*truths)]
        lines.append(f"annotate: {config.model[0]} wins {spoken(seen)} of votes, ties and bad ones counted half")
        lines.append(
            f"annotate: {config.model[0]} wins {spoken(true)} by true utility; mean utility {means[0]:.3f} "
            f"against {means[1]:.3f}"
        )
    return lines


def win_rate(points: list[float]) -> Rate:
    """Mean of points of 0, 1/2 and 1, with its 95 % interval."""
    return wilson(sum(points) / len(points), len(points))


def spoken(rate: Rate) -> str:
    return f"{rate.value:.1%} ({rate.low:.1%} to {rate.high:.1%})"
