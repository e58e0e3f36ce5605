"""Makes the pairs that people compare: asks models for answers and reward models for scores, before anyone waits."""

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import combinations, cycle, islice
from typing import NamedTuple

from sqlalchemy import Connection, select

from pronk.data.records import Message, Prompt
from pronk.feedback.app import Status
from pronk.feedback.desk import Answer, add_item, unscored
from pronk.feedback.schema import items
from pronk.feedback.store import Store, append

Turns = Sequence[dict[str, str]]
Score = Callable[[Sequence[Turns]], list[float]]  # whole conversations to their scores


class Source(NamedTuple):
    """Someone who answers. answer: a list of prompts and a seed to one answer each."""

    name: str
    answer: Callable[[Sequence[Prompt], int], list[str]]


class Wanted(NamedTuple):
    """A pair to be made. first and second: places in the list of sources; round: how often the prompt was asked."""

    prompt: Prompt
    first: int
    second: int
    round: int


def wanted(prompts: Sequence[Prompt], sources: int, count: int, seed: int) -> list[Wanted]:
    """count pairs over the prompts in turn (0 = one each): a model against itself if alone, else two drawn ones."""
    rng = random.Random(f"pairs {seed}")
    choices = list(combinations(range(sources), 2)) or [(0, 0)]
    turns = islice(cycle(prompts), count or len(prompts))
    return [Wanted(prompt, *rng.choice(choices), n // len(prompts)) for n, prompt in enumerate(turns)]


def missing(connection: Connection, plan: Sequence[Wanted], sources: Sequence[Source]) -> Iterator[Wanted]:
    """What of a plan is not in the database yet, so that a collection can be stopped and gone on with."""
    columns = select(items.c.prompt, items.c.first_model, items.c.second_model).where(items.c.asked)
    there = Counter(tuple(row) for row in connection.execute(columns).all())
    for one in plan:
        key = (to_json(one.prompt.messages), sources[one.first].name, sources[one.second].name)
        if there[key] > 0:
            there[key] -= 1
        else:
            yield one


def to_json(prompt: Sequence[Message]) -> str:
    return json.dumps([asdict(message) for message in prompt], ensure_ascii=False)


def make(
    store: Store, plan: Sequence[Wanted], sources: Sequence[Source], evaluation: float, batch: int, seed: int = 0
) -> Iterator[int]:
    """Makes the pairs in batches and stores each; yields how many came of it. Twice the same answer is no pair."""
    with store.reading() as connection:
        left = list(missing(connection, plan, sources))
    for start in range(0, len(left), batch):
        chunk = left[start : start + batch]
        said = [["", ""] for _ in chunk]
        for place in range(len(sources)):
            for side in (0, 1):
                turns = [n for n, one in enumerate(chunk) if one[1 + side] == place]
                if turns:
                    number = 2 * (1_000_000 * seed + start) + side
                    answers = sources[place].answer([chunk[n].prompt for n in turns], number)
                    for n, text in zip(turns, answers):
                        said[n][side] = text
        yield keep(store, chunk, said, sources, evaluation)


def keep(
    store: Store, chunk: Sequence[Wanted], said: Sequence[Sequence[str]], sources: Sequence[Source], evaluation: float
) -> int:
    """Store a batch's pairs in one transaction; their number."""
    kept = 0
    with store.writing() as connection:
        for one, (first, second) in zip(chunk, said):
            if first.strip() != second.strip():
                pair = Answer(first, sources[one.first].name), Answer(second, sources[one.second].name)
                add_item(connection, one.prompt.messages, pair, evaluation)
                kept += 1
    return kept


def judge(store: Store, scores: Sequence[Score], batch: int) -> None:
    """Ask the reward models about every pair that has no scores yet, and store the margins of each."""
    if not scores:
        return
    with store.reading() as connection:
        rows = list(unscored(connection))
    for start in range(0, len(rows), batch):
        chunk = rows[start : start + batch]
        talks = [
            [*json.loads(row.prompt), {"role": "assistant", "content": text}]
            for row in chunk
            for text in (row.first, row.second)
        ]
        members = [score(talks) for score in scores]
        with store.writing() as connection:
            for n, row in enumerate(chunk):
                margins = [values[2 * n] - values[2 * n + 1] for values in members]
                append(connection, "scored", {"item": row.id, "margins": margins})


def work(
    store: Store,
    plan: Sequence[Wanted],
    sources: Sequence[Source],
    scores: Sequence[Score],
    evaluation: float,
    batch: int,
    seed: int,
    status: Status,
) -> None:
    """All of it, as a thread beside the page: its end and its failures stand in the status."""
    try:
        judge(store, scores, batch)
        for _ in make(store, plan, sources, evaluation, batch, seed):
            judge(store, scores, batch)
    except Exception as error:  # people go on with the pairs that are there; whoever runs the page is told
        status.trouble, status.failure = str(error) or type(error).__name__, error
    finally:
        status.making = False
