"""Writes comparisons in the field's formats, each as shapes.py reads it; choosing what to write is the caller's."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pronk.data.records import Comparison, Message
from pronk.data.shapes import HUMAN
from pronk.errors import UserError

Row = dict[str, Any]


def write_comparisons(path: Path | str, comparisons: Iterable[Comparison], form: str = "trl") -> int:
    """One comparison a line, in one of FORMS; returns how many. Raises UserError for what the form cannot hold."""
    path, count = Path(path), 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for count, comparison in enumerate(comparisons, 1):  # noqa: B007  counted for the caller
            file.write(json.dumps(comparison_row(comparison, form), ensure_ascii=False) + "\n")
    return count


def comparison_row(comparison: Comparison, form: str = "trl") -> Row:
    """The row of one comparison. All forms but openai's keep strength and first under keys of those names."""
    if form not in FORMS:
        raise UserError(f"format {form!r} is unknown (known: {', '.join(FORMS)})")
    row = FORMS[form](comparison)
    if form == "openai":  # its upload checks every key
        return row
    strength = {} if comparison.strength == 1 else {"strength": comparison.strength}
    return row | strength | ({"first": comparison.first} if comparison.first else {})


def _trl(comparison: Comparison) -> Row:
    """Explicit prompt; messages, so that any conversation fits."""
    chosen, rejected = ([_said("assistant", text)] for text in (comparison.chosen, comparison.rejected))
    return {"prompt": _messages(comparison), "chosen": chosen, "rejected": rejected}


def _trl_plain(comparison: Comparison) -> Row:
    """Explicit prompt; plain text, so it must be one message of the user."""
    (*before, last) = comparison.prompt
    if before or last.role != "user":
        raise UserError("a plain row holds one message of the user and an answer: use the format trl")
    return {"prompt": last.content, "chosen": comparison.chosen, "rejected": comparison.rejected}


def _trl_implicit(comparison: Comparison) -> Row:
    """The prompt is what both conversations begin with."""
    asked = _messages(comparison)
    chosen, rejected = ([*asked, _said("assistant", text)] for text in (comparison.chosen, comparison.rejected))
    return {"chosen": chosen, "rejected": rejected}


def _anthropic(comparison: Comparison) -> Row:
    """Transcripts of Human and Assistant, as in hh-rlhf; white space at a message's edges is lost."""
    asked = "".join(_line(message) for message in comparison.prompt)
    chosen, rejected = (_line(Message("assistant", text)) for text in (comparison.chosen, comparison.rejected))
    return {"chosen": asked + chosen, "rejected": asked + rejected}


def _line(message: Message) -> str:
    if message.role == "system" or HUMAN.search(message.content):
        raise UserError(
            "a transcript can hold no system message and no '\\n\\nHuman:' in a message: use another format"
        )
    who = "Human" if message.role == "user" else "Assistant"
    return f"\n\n{who}: {message.content}"


def _openai(comparison: Comparison) -> Row:
    """OpenAI's rows for preference fine-tuning."""
    chosen, rejected = ([_said("assistant", text)] for text in (comparison.chosen, comparison.rejected))
    return {
        "input": {"messages": _messages(comparison), "tools": [], "parallel_tool_calls": True},
        "preferred_output": chosen,
        "non_preferred_output": rejected,
    }


def _ultrafeedback(comparison: Comparison) -> Row:
    """UltraFeedback-binarized: the prompt's text beside whole conversations, and a score for each, here 0 to 4."""
    row = _trl_implicit(comparison)
    return {
        "prompt": comparison.prompt[-1].content if len(comparison.prompt) == 1 else _messages(comparison),
        **row,
        "score_chosen": float(comparison.strength),
        "score_rejected": 0.0,
    }


def _messages(comparison: Comparison) -> list[dict[str, str]]:
    return [_said(message.role, message.content) for message in comparison.prompt]


def _said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


FORMS: dict[str, Callable[[Comparison], Row]] = {
    "trl": _trl,
    "trl-plain": _trl_plain,
    "trl-implicit": _trl_implicit,
    "anthropic": _anthropic,
    "openai": _openai,
    "ultrafeedback": _ultrafeedback,
}
