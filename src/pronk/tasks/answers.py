"""Finds the final answer in a text and compares it with the key; what was asked is a task's own."""

import re
from fractions import Fraction

from pronk.data.records import Sample
from pronk.errors import UserError

MARK = "####"  # stands before the final answer, as in GSM8K (Cobbe et al. 2021, arXiv 2110.14168)
NUMBER = re.compile(r"[-+−–]?\s?[$€£]?\d[\d,]*(?:\.\d+)?|[-+−–]?[$€£]?\.\d+")


def final(text: str) -> Fraction | None:
    """The number after the last mark, exactly; None where there is no mark, or not exactly one number behind it.

    Units, a currency sign, commas between thousands and a closing full stop do no harm: "#### $1,200.00 a week." is
    1200. Two numbers are no answer, so hedging does not pay.
    """
    _, mark, rest = text.rpartition(MARK)
    found = NUMBER.findall(rest) if mark else []
    return number(found[0]) if len(found) == 1 else None


def number(text: str) -> Fraction | None:
    """A number as people write it ("-1,234.50", "$3"), exactly; None for anything else."""
    text = text.strip()
    if not NUMBER.fullmatch(text):
        return None
    sign = -1 if text[0] in "-−–" else 1
    return sign * Fraction(re.sub(r"[^\d.]", "", text))


def key(meta: dict[str, object]) -> Fraction:
    """The right answer of a prompt: meta["answer"], a number, a text that is one, or a worked answer with a mark."""
    said = str(meta.get("answer", ""))
    found = final(said) if MARK in said else number(said)
    if found is None:
        raise UserError(
            f'a prompt\'s "answer" must be a number, or end in "{MARK} number"; this one is {said[-40:]!r}'
            if "answer" in meta
            else f'a prompt has no "answer" to grade by: its row needs a number, or a text that ends in "{MARK} number"'
        )
    return found


def grade(sample: Sample) -> float:
    """1 where the sample's final answer is the prompt's; else 0."""
    return float(final(sample.text) == key(sample.prompt.meta))
