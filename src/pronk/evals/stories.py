"""Measures of a storyteller: whose stories it tells, whether they hold together, how varied they are."""

from collections.abc import Sequence
from dataclasses import dataclass

from pronk.engine.engine import Engine
from pronk.engine.sequence import Sampling
from pronk.world import check
from pronk.world.tell import OPEN_PROMPTS, UNSEEN_OPEN_PROMPTS, Wish, evaluation_requests


@dataclass(frozen=True)
class Question:
    """A prompt, its ids, and what it asks for."""

    prompt: str
    ids: list[int]
    wish: Wish


def open_prompts(count: int) -> list[str]:
    """`count` prompts that leave everything free, half of them worded as none in training."""
    half = [OPEN_PROMPTS[i % len(OPEN_PROMPTS)] for i in range(count // 2)]
    return half + [UNSEEN_OPEN_PROMPTS[i % len(UNSEEN_OPEN_PROMPTS)] for i in range(count - len(half))]


def asking_prompts(count: int, seed: int, without: str = "") -> list[tuple[str, Wish]]:
    """`count` prompts whose combination of wishes was never trained on; none asks for the kind `without`."""
    asks = evaluation_requests(2 * count + 50, seed)
    return [(a.prompt, a.wish) for a in asks if a.wish.kind and a.wish.kind != without][:count]


def answers(engine: Engine, questions: Sequence[Question], stop: int, temperature: float, seed: int) -> list[str]:
    """One answer to each question; an answer that was cut at the context counts as it stands."""
    longest = engine.context - max(len(q.ids) for q in questions)
    sampling = Sampling(longest, temperature, stop=(stop,), seed=seed)
    return [found.text or "" for found in engine.generate([q.ids for q in questions], sampling)]


def subject_rate(texts: Sequence[str], questions: Sequence[Question]) -> float:
    """Share of stories about the kind that was asked for."""
    return share([check.is_about(text, q.wish.kind or "") for text, q in zip(texts, questions)])


def about_rate(texts: Sequence[str], kind: str) -> float:
    return share([check.is_about(text, kind) for text in texts])


def wellformed_rate(texts: Sequence[str]) -> float:
    return share([check.well_formed(text) for text in texts])


def share(found: Sequence[bool]) -> float:
    return sum(found) / max(1, len(found))


def distinct(texts: Sequence[str], n: int = 3) -> float:
    """Share of distinct word n-grams among all of them (Li et al. 2016, arXiv 1510.03055)."""
    grams = [tuple(words[i : i + n]) for text in texts if (words := text.split()) for i in range(len(words) - n + 1)]
    return len(set(grams)) / max(1, len(grams))


def kl_per_sequence(
    policy: Engine, reference: Engine, questions: Sequence[Question], stop: int, seed: int
) -> tuple[float, float]:
    """Mean and standard error of log p - log q over whole answers sampled from the policy at temperature 1, nats."""
    longest = policy.context - max(len(q.ids) for q in questions)
    found = policy.generate([q.ids for q in questions], Sampling(longest, 1.0, stop=(stop,), seed=seed))
    whole = [f.prompt + f.ids for f in found]
    ours, theirs = policy.score(whole), reference.score(whole)
    gaps = [sum(a[len(f.prompt) - 1 :]) - sum(b[len(f.prompt) - 1 :]) for f, a, b in zip(found, ours, theirs)]
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / max(1, len(gaps) - 1)
    return mean, (variance / len(gaps)) ** 0.5
