"""Arithmetic of graded difficulty: problems drawn by seed, worked answers, and sides that share no problem."""

import random
from collections.abc import Callable, Iterator, Sequence

from pronk.data.encode import place_of
from pronk.data.records import Conversation, Message, Prompt, Sample
from pronk.errors import UserError
from pronk.tasks.answers import MARK, grade
from pronk.tasks.task import Split

Expression = int | tuple[str, "Expression", "Expression"]  # ("+", 3, ("*", 4, 5))
TEST_SHARE = 0.2  # of all problems
PATIENCE = 200  # draws in a row that bring nothing new: then a level has given what it has


class Arithmetic:
    """Problems such as (12+7)*3, from one digit to two steps.

    Which side a problem is on depends on the problem alone, and 3+4 is the same problem as 4+3.
    """

    name = "arithmetic"

    def prompts(self, split: Split, count: int, seed: int = 0, levels: Sequence[str] = ()) -> list[Prompt]:
        """`count` different problems, as many of each level as of any other while the easy ones last."""
        unknown = sorted(set(levels) - set(LEVELS))
        if unknown:
            raise UserError(f"arithmetic has no level {unknown[0]!r}; there are {', '.join(LEVELS)}")
        streams = [self._level(level, split, seed) for level in levels or LEVELS]
        found: list[Prompt] = []
        while streams and len(found) < count:
            for stream in list(streams):
                prompt = next(stream, None)
                if prompt is None:
                    streams.remove(stream)
                elif len(found) < count:
                    found.append(prompt)
        return found

    def worked(self, prompt: Prompt) -> Conversation:
        """The prompt with a worked answer: one line a step, as on paper, then the mark and the answer."""
        return self._written(prompt, None)

    def slipped(self, prompt: Prompt, rate: float, seed: int = 0) -> Conversation:
        """The same by a careless author: each column is wrong by one at this rate, and what follows goes on from it."""
        return self._written(prompt, Slip(rate, random.Random(f"slip/{prompt.messages[-1].content}/{seed}")))

    def _written(self, prompt: Prompt, slip: "Slip | None") -> Conversation:
        lines, value = steps(read(prompt.messages[-1].content.removesuffix("=?")), slip)
        return Conversation((*prompt.messages, Message("assistant", "\n".join([*lines, f"{MARK} {value}"]))))

    def grade(self, sample: Sample) -> float:
        return grade(sample)

    def _level(self, level: str, split: Split, seed: int) -> Iterator[Prompt]:
        """Different problems of one level and side, until none that is new turns up."""
        draw, seen, dry = random.Random(f"{level}/{split}/{seed}"), set[str](), 0
        while dry < PATIENCE:
            problem = LEVELS[level](draw)
            dry += 1
            if canonical(problem) in seen or side(problem) != split:
                continue
            dry = 0
            seen.add(canonical(problem))
            text, answer = f"{write(problem)}=?", str(steps(problem)[1])
            yield Prompt((Message("user", text),), {"answer": answer, "level": level, "task": self.name})


def side(problem: Expression) -> Split:
    return "test" if place_of(canonical(problem)) < TEST_SHARE else "train"


# ── levels: a random problem each, whose value is never negative


def _sum(low: int, high: int) -> Callable[[random.Random], Expression]:
    """Adds or subtracts two numbers from low to high."""

    def draw(rng: random.Random) -> Expression:
        a, b = rng.randint(low, high), rng.randint(low, high)
        return ("+", a, b) if rng.random() < 0.5 else ("-", max(a, b), min(a, b))

    return draw


def _product(rng: random.Random) -> Expression:
    """A digit times a digit, or times a number of two."""
    return ("*", rng.randint(2, 9) if rng.random() < 0.3 else rng.randint(10, 99), rng.randint(2, 9))


def _two_step(rng: random.Random) -> Expression:
    """A sum or difference in parentheses, times a digit or less another number."""
    a, b, c = rng.randint(2, 49), rng.randint(2, 49), rng.randint(2, 9)
    inner: Expression = ("+", a, b) if rng.random() < 0.5 else ("-", max(a, b), min(a, b))
    form = rng.randrange(3)
    if form == 0:
        return ("*", inner, c)
    return ("*", c, inner) if form == 1 else ("-", rng.randint(120, 199), inner)


LEVELS: dict[str, Callable[[random.Random], Expression]] = {
    "one-digit": _sum(0, 9),
    "two-digit": _sum(10, 99),
    "three-digit": _sum(100, 999),
    "product": _product,
    "two-step": _two_step,
}


# ── expressions: written, read, compared and solved


def write(problem: Expression) -> str:
    """As people write it: what is inside stands in parentheses."""
    if isinstance(problem, int):
        return str(problem)
    sign, *parts = problem
    left, right = (write(part) if isinstance(part, int) else f"({write(part)})" for part in parts)
    return f"{left}{sign}{right}"


def read(text: str) -> Expression:
    """The expression that `write` wrote."""
    if text.isdigit():
        return int(text)
    depth = 0
    for place, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if not depth and character in "+-*":
            left, right = (part.removeprefix("(").removesuffix(")") for part in (text[:place], text[place + 1 :]))
            return (character, read(left), read(right))
    raise UserError(f"{text!r} is no problem of the arithmetic task")


def canonical(problem: Expression) -> str:
    """The same text for problems that differ only in the order of what is added or multiplied."""
    if isinstance(problem, int):
        return str(problem)
    sign, left, right = problem
    parts = [canonical(left), canonical(right)]
    return f"({sign.join(sorted(parts) if sign in '+*' else parts)})"


def steps(problem: Expression, slip: "Slip | None" = None) -> tuple[list[str], int]:
    """The lines of a worked answer, inner parts first, and the value they come to."""
    if isinstance(problem, int):
        return [], problem
    sign, left, right = problem
    (first, a), (second, b) = steps(left, slip), steps(right, slip)
    lines, value = columns(sign, a, b, slip)
    return [*first, *second, *lines], value


def columns(sign: str, a: int, b: int, slip: "Slip | None" = None) -> tuple[list[str], int]:
    """Column by column from the right, carries and loans written out, then the whole; single digits need one line.

    37+48: 7+8=15, 3+4+1=8, 37+48=85. 83-27: 13-7=6, 8-2-1=5, 83-27=56. 38*6: 8*6=48, 3*6+4=22, 38*6=228.
    """
    top, low = (b, a) if sign == "*" and a < 10 <= b else (a, b)
    assert (sign != "*" or low < 10) and (sign != "-" or top >= low), "no level asks for this"
    lines, value, carry = [], 0, 0
    width = len(str(top)) if sign == "*" else max(len(str(a)), len(str(b)))
    for place in range(width):
        x, y = top // 10**place % 10, low if sign == "*" else low // 10**place % 10
        line, result, carry = column(sign, x, y, carry, slip)
        lines.append(line)
        value += result % 10 * 10**place
    if sign != "-":
        value += carry * 10**width
    return lines if width == 1 else [*lines, f"{a}{sign}{b}={value}"], value


def column(sign: str, x: int, y: int, carry: int, slip: "Slip | None") -> tuple[str, int, int]:
    """The line of one column, its result, and what it carries to the next (a loan where sign is minus)."""
    loan = int(sign == "-" and x < y + carry)
    x += 10 * loan
    result = {"+": x + y + carry, "-": x - y - carry, "*": x * y + carry}[sign]
    if slip is not None:
        result = slip(result)
    tail = f"{'-' if sign == '-' else '+'}{carry}" if carry else ""
    return f"{x}{sign}{y}{tail}={result}", result, loan if sign == "-" else result // 10


class Slip:
    """Writes a column's result, now and then wrong by one."""

    def __init__(self, rate: float, draw: random.Random) -> None:
        self.rate, self.draw = rate, draw

    def __call__(self, result: int) -> int:
        if self.draw.random() >= self.rate:
            return result
        return result + 1 if result % 10 < 9 else result - 1
