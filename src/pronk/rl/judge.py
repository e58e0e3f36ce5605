"""A reward from a judge: any OpenAI-compatible server reads prompt and answer and says a number from 1 to 10."""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from pronk.data.records import Sample
from pronk.engine.client import Answer, Messages
from pronk.errors import UserError
from pronk.rl.rewards import Reward

RUBRIC = (
    "You grade answers. Judge how well the answer does what the prompt asks: is it right, complete, clear and free of "
    "anything that was not asked for? Say one whole number from 1 (useless) to 10 (could not be better), and nothing "
    "else."
)
NUMBER = re.compile(r"(?<![\d.])(10|[1-9])(?![\d.]*\d)")
THREADS = 8  # requests at once


class Chats(Protocol):
    """What is asked of engine.client.Client."""

    def chat(self, messages: Messages, *, temperature: float, max_tokens: int) -> list[Answer]: ...


def judge(client: Chats, rubric: str = RUBRIC, threads: int = THREADS) -> Reward:
    """Each sample's number, by a judge at temperature 0; asked a second time where the first reply holds none."""

    def score(sample: Sample) -> float:
        asked = question(rubric, sample)
        said = client.chat(asked, temperature=0.0, max_tokens=16)[0].text
        if (found := number(said)) is None:
            again = [*asked, {"role": "assistant", "content": said}, {"role": "user", "content": "Only the number."}]
            last = client.chat(again, temperature=0.0, max_tokens=8)[0].text
            found = number(last)
            if found is None:
                raise UserError(
                    f"the judge was asked for a number from 1 to 10 and said {said[:80]!r}, then {last[:80]!r}: "
                    "take a model that follows instructions"
                )
        return found

    def reward(samples: list[Sample]) -> list[float]:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(score, samples))

    return reward


def question(rubric: str, sample: Sample) -> list[dict[str, str]]:
    """The rubric, then prompt and answer between marks: an answer's own words are not the rubric's."""
    asked = "\n\n".join(f"{message.role}: {message.content}" for message in sample.prompt.messages)
    told = f"<prompt>\n{asked}\n</prompt>\n<answer>\n{sample.text}\n</answer>\nThe number:"
    return [{"role": "system", "content": rubric}, {"role": "user", "content": told}]


def number(said: str) -> float | None:
    """The first whole number from 1 to 10 in a reply; 8/10 is 8, and 85 is none."""
    found: Sequence[str] = NUMBER.findall(said)
    return float(found[0]) if found else None
