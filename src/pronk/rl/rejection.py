"""Rejection sampling: which of a prompt's sampled answers to keep, and which to compare; pure choices by score."""

from collections.abc import Sequence
from typing import NamedTuple

from pronk.data.records import Comparison, Conversation, Message, Sample


class Scored(NamedTuple):
    sample: Sample
    score: float


def usable(scored: Sequence[Scored]) -> list[Scored]:
    """Different answers that ended by themselves, best first; equal scores keep their order.

    An answer that was cut at its length limit would teach the end token at a place where the model did not end.
    """
    seen: dict[str, Scored] = {}
    for one in scored:
        if one.sample.finish == "stop" and one.sample.text.strip():
            seen.setdefault(one.sample.text, one)
    return sorted(seen.values(), key=lambda one: -one.score)


def best(scored: Sequence[Scored], threshold: float | None = None) -> list[Scored]:
    """Best-of-n (Stiennon et al. 2020, arXiv 2009.01325): the one answer of the highest score, if it reaches the
    threshold."""
    return passing(scored, threshold)[:1]


def passing(scored: Sequence[Scored], threshold: float | None = None) -> list[Scored]:
    """Every different answer that reaches the threshold (rejection-sampling fine-tuning: Yuan et al. 2023, arXiv
    2308.01825)."""
    return [one for one in usable(scored) if threshold is None or one.score >= threshold]


def conversation(sample: Sample) -> Conversation:
    """What tuning learns: the prompt with the answer."""
    return Conversation((*sample.prompt.messages, Message("assistant", sample.text)))


def comparisons(scored: Sequence[Scored], most: int = 1) -> list[Comparison]:
    """Pairs of answers whose scores differ, the widest difference first: the best beside the worst, and so on."""
    ranked = usable(scored)
    pairs = [(top, low) for i, top in enumerate(ranked) for low in reversed(ranked[i + 1 :]) if top.score > low.score]
    pairs.sort(key=lambda pair: pair[1].score - pair[0].score)
    return [Comparison(top.sample.prompt.messages, top.sample.text, low.sample.text) for top, low in pairs[:most]]
