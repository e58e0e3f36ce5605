"""Gives what people said as rows of the field's formats, under pseudonyms; take.py reads them back."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, select

from pronk.data import shapes
from pronk.data.files import Skipped
from pronk.data.records import Comparison, Message
from pronk.errors import UserError
from pronk.feedback.schema import answers, items

Row = dict[str, Any]
Part = Literal["train", "evaluation", "all"]
SEEN: dict[bool, Literal["chosen", "rejected"]] = {True: "chosen", False: "rejected"}  # on the left
CARRIED = ("choice", "strength", "reason", "note", "edit", "left", "repeat", "guidelines", "seconds", "at")


@dataclass(frozen=True)
class Judged:
    """One answer of a person, with all that belongs to it."""

    kind: str  # vote, skip, flag
    prompt: tuple[Message, ...]
    texts: tuple[str, str]
    models: tuple[str, str]
    part: str
    flagged: bool
    person: str
    said: Row  # the columns of CARRIED

    @property
    def comparison(self) -> Comparison | None:
        """The better answer first, a tie in the order in which it stood; None where nothing was compared."""
        choice = self.said["choice"]
        if self.kind != "vote" or choice == "bad":
            return None
        better = "second" if choice == "second" else "first"
        chosen, rejected = self.texts[::-1] if better == "second" else self.texts
        left = self.said["left"]  # empty where an import did not say
        return Comparison(self.prompt, chosen, rejected, self.said["strength"], SEEN[left == better] if left else "")


def judged(connection: Connection, part: Part = "all") -> Iterator[Judged]:
    """Every answer that stands, in the order of answering."""
    columns = (items.c.prompt, items.c.first, items.c.second, items.c.first_model, items.c.second_model)
    query = select(answers, *columns, items.c.part, items.c.flags).join(items, items.c.id == answers.c.item)
    if part != "all":
        query = query.where(items.c.part == part)
    for row in connection.execute(query.order_by(answers.c.event)).all():
        prompt = tuple(Message(**message) for message in json.loads(row.prompt))
        texts, models = (row.first, row.second), (row.first_model, row.second_model)
        said = {name: getattr(row, name) for name in CARRIED}
        yield Judged(row.kind, prompt, texts, models, row.part, row.flags > 0, row.person, said)


def rows(found: Iterator[Judged], shape: str, ties: bool, skipped: Skipped) -> Iterator[Row]:
    """The rows of a format. What it cannot carry, as its own reader shows, is left out and counted.

    Formats of comparisons leave out what is no comparison: skips, flagged pairs, two bad answers, repetitions (which
    measure the person), and ties unless asked for.
    """
    for number, one in enumerate(found, 1):
        if shape == "votes":
            yield votes(one)
            continue
        reason = unfit(one, shape, ties)
        row = None if reason else FORMATS[shape](one)
        if row is not None and not survives(one, row, shape):
            reason = f"the format {shape} cannot carry this text"
        if reason or row is None:
            skipped.add(f"answer {number}", reason)
        else:
            yield row


def unfit(one: Judged, shape: str, ties: bool) -> str:
    """Why an answer has no place in a format; empty if it has one."""
    if one.kind != "vote":
        return "skipped" if one.kind == "skip" else "flagged"
    if one.flagged:
        return "flagged"
    if shape == "demonstrations":
        return "" if one.said["edit"] else "not edited"
    if one.said["repeat"]:
        return "repetition"
    if one.comparison is None:
        return "both bad"
    return "" if ties or one.said["strength"] else "tie"


def survives(one: Judged, row: Row, shape: str) -> bool:
    """Whether the reader of the format finds in the row what was meant."""
    meant = one.comparison
    assert meant
    try:
        if shape == "demonstrations":
            return shapes.conversation(row).messages == (*one.prompt, Message("assistant", one.said["edit"]))
        back = shapes.comparison(row)
    except shapes.Unusable:
        return False
    meant = meant if "strength" in row else replace(meant, strength=1, first="")
    if shape == "hh" or (shape in ("trl", "trl-implicit") and len(one.prompt) > 1):
        return back == stripped(meant)
    if shape == "trl-implicit":
        texts = (
            (row["chosen"], back.prompt[0].content, back.chosen),
            (row["rejected"], back.prompt[0].content, back.rejected),
        )
        return all(divided(*text, meant.prompt[0].content) for text in texts) and back.strength == meant.strength
    return back == meant


def stripped(one: Comparison) -> Comparison:
    """Without the white space that transcripts do not keep."""
    turns = tuple(replace(message, content=message.content.strip()) for message in one.prompt)
    return replace(one, prompt=turns, chosen=one.chosen.strip(), rejected=one.rejected.strip())


def divided(text: str, prompt: str, answer: str, asked: str) -> bool:
    """Whether a text falls into prompt and answer and white space between. Answers that begin with the same words give
    these to the prompt, as the format's rule has it; but none of what was asked may go to the answer."""
    between = text[len(prompt) : len(text) - len(answer)]
    return text == prompt + between + answer and not between.strip() and prompt.startswith(asked.rstrip())


# ── the formats


def votes(one: Judged) -> Row:
    """Everything that is known, under a pseudonym."""
    prompt = [asdict(message) for message in one.prompt]
    pair = [{"text": text, "model": model} for text, model in zip(one.texts, one.models)]
    known = {"kind": one.kind, "prompt": prompt, "answers": pair, "part": one.part, "annotator": one.person}
    return known | one.said


def plain(one: Judged) -> Row:
    told = best(one)
    if len(one.prompt) == 1:
        pair = {"prompt": one.prompt[0].content, "chosen": told.chosen, "rejected": told.rejected}
    else:
        begun = transcript(one.prompt) + "\n\nAssistant:"
        pair = {"prompt": begun, "chosen": f" {told.chosen}", "rejected": f" {told.rejected}"}
    return pair | about(one)


def chat(one: Judged) -> Row:
    told = best(one)
    pair = {"chosen": [answer(told.chosen)], "rejected": [answer(told.rejected)]}
    return {"prompt": [asdict(message) for message in one.prompt]} | pair | about(one)


def implicit(one: Judged) -> Row:
    if len(one.prompt) > 1:
        return hh(one) | about(one)
    told, asked = best(one), one.prompt[0].content
    return {"chosen": f"{asked}\n{told.chosen}", "rejected": f"{asked}\n{told.rejected}"} | about(one)


def implicit_chat(one: Judged) -> Row:
    told, asked = best(one), [asdict(message) for message in one.prompt]
    pair = {"chosen": [*asked, answer(told.chosen)], "rejected": [*asked, answer(told.rejected)]}
    return pair | about(one)


def hh(one: Judged) -> Row:
    """Anthropic's transcripts."""
    told = best(one)
    both = ((*one.prompt, Message("assistant", text)) for text in (told.chosen, told.rejected))
    return dict(zip(("chosen", "rejected"), map(transcript, both)))


def openai(one: Judged) -> Row:
    told = best(one)
    asked = {"messages": [asdict(message) for message in one.prompt]}
    return {
        "input": asked,
        "preferred_output": [answer(told.chosen)],
        "non_preferred_output": [answer(told.rejected)],
    }


def demonstration(one: Judged) -> Row:
    """What the better answer should have been, as a conversation to learn from."""
    return {"messages": [asdict(message) for message in one.prompt] + [answer(one.said["edit"])]}


def best(one: Judged) -> Comparison:
    assert one.comparison, "unfit() lets nothing else through"
    return one.comparison


def about(one: Judged) -> Row:
    return {"strength": one.said["strength"], "first": best(one).first, "annotator": one.person}


def answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def transcript(messages: Sequence[Message]) -> str:
    names = {"user": "Human", "assistant": "Assistant"}
    return "".join(f"\n\n{names.get(m.role, m.role)}: {m.content}" for m in messages)


FORMATS: dict[str, Callable[[Judged], Row]] = {
    "votes": votes,
    "trl": plain,
    "trl-chat": chat,
    "trl-implicit": implicit,
    "trl-implicit-chat": implicit_chat,
    "hh": hh,
    "openai": openai,
    "demonstrations": demonstration,
}


# ── files


def write(path: Path | str, found: Sequence[Row]) -> None:
    """JSON lines or Parquet, by the ending; there whole or not at all."""
    path = Path(path)
    if path.suffix not in (".jsonl", ".parquet"):
        raise UserError(f"{path}: unknown ending; exports are .jsonl or .parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(found)), partial)
    else:
        partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found), encoding="utf-8")
    partial.replace(path)
