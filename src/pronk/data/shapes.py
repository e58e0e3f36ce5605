"""Turns one row of each known shape into a record, or says why it cannot; opening files is files.py's."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

from pronk.data.records import Comparison, Conversation, Document, Message, Prompt

Messages = tuple[Message, ...]
Role = Literal["system", "user", "assistant"]
ROLES: dict[str, Role] = {role: role for role in get_args(Role)}
ROLES |= {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
SIDES: tuple[Literal["", "chosen", "rejected"], ...] = ("", "chosen", "rejected")
HUMAN = re.compile(r"\n\n(Human|Assistant):")  # Anthropic's transcripts


class Unusable(Exception):
    """Why a row cannot be used."""


def document(row: Any, key: str = "text") -> Document:
    """A string, or a row with the key."""
    return Document(_text(row if isinstance(row, str) else _get(row, key), key))


def conversation(row: Any) -> Conversation:
    """messages; conversations (ShareGPT); instruction, input, output (Alpaca); prompt, completion; question, answer."""
    shape = _first(row, CONVERSATIONS)
    found = CONVERSATIONS[shape](row)
    if not any(message.role == "assistant" for message in found):
        raise Unusable("the assistant says nothing, so there is nothing to learn")
    return Conversation(found)


def comparison(row: Any) -> Comparison:
    """chosen, rejected, mostly prompt (TRL, plain or messages; Anthropic transcripts); OpenAI's DPO rows."""
    if isinstance(row, Mapping) and "preferred_output" in row:
        prompt = _messages(_get(_get(row, "input"), "messages"))
        chosen, rejected = _answer(_get(row, "preferred_output")), _answer(_get(row, "non_preferred_output"))
    else:
        prompt, chosen, rejected = _pair(row)
    if not prompt:
        raise Unusable("the comparison has no prompt")
    if chosen == rejected:
        raise Unusable("both answers are the same")
    answers = _text(chosen, "chosen"), _text(rejected, "rejected")
    return Comparison(prompt, *answers, _strength(row), _seen_first(row))


def prompt(row: Any) -> Prompt:
    """prompt, messages, question or instruction (and input). A last answer among messages moves to meta["answer"]."""
    if isinstance(row, str):
        return Prompt(_user(row))
    shape = _first(row, PROMPTS)
    found = PROMPTS[shape](row)
    spent = {"instruction", "input"} if shape == "instruction" else {shape}
    meta = {key: value for key, value in row.items() if key not in spent}
    while found and found[-1].role == "assistant":
        meta["answer"] = found[-1].content
        found = found[:-1]
    if not found:
        raise Unusable("the prompt asks nothing")
    return Prompt(found, meta)


def _pair(row: Any) -> tuple[Messages, str, str]:
    chosen, rejected = _get(row, "chosen"), _get(row, "rejected")
    if "prompt" in row:
        prompt = _asked(row["prompt"])
        if isinstance(row["prompt"], str) and HUMAN.match(row["prompt"]):  # the answers of a transcript start with " "
            chosen, rejected = (x.strip() if isinstance(x, str) else x for x in (chosen, rejected))
        return prompt, _answer(chosen, prompt), _answer(rejected, prompt)
    if isinstance(chosen, str) and isinstance(rejected, str):
        if HUMAN.match(chosen):
            chosen, rejected = _transcript(chosen), _transcript(rejected)
        else:
            return _common_text(chosen, rejected)
    else:
        chosen, rejected = _messages(chosen), _messages(rejected)
    if chosen[:-1] != rejected[:-1]:
        raise Unusable("chosen and rejected answer different prompts")
    return chosen[:-1], _answer(chosen[-1:]), _answer(rejected[-1:])


def _common_text(chosen: str, rejected: str) -> tuple[Messages, str, str]:
    """Plain implicit pairs: what both begin with is the prompt, up to the last white space in it (TRL's rule)."""
    shorter = min(len(chosen), len(rejected))
    common = chosen[: next((i for i in range(shorter) if chosen[i] != rejected[i]), shorter)]
    cut = max(common.rfind(" "), common.rfind("\n"))
    if cut <= 0:
        raise Unusable("chosen and rejected share no beginning that could be the prompt")
    return _user(common[:cut]), chosen[cut:].lstrip(), rejected[cut:].lstrip()


def _transcript(text: str) -> Messages:
    r"""Anthropic's "\n\nHuman: …\n\nAssistant: …", white space around what is said removed."""
    _, *parts = HUMAN.split(text)
    said = zip(parts[::2], parts[1::2])
    return tuple(Message("user" if who == "Human" else "assistant", words.strip()) for who, words in said)


def _asked(value: Any) -> Messages:
    if isinstance(value, str) and HUMAN.match(value):
        said = _transcript(value)
        return said[:-1] if said[-1].role == "assistant" and not said[-1].content else said
    return _user(value) if isinstance(value, str) else _messages(value)


def _answer(value: Any, prompt: Messages = ()) -> str:
    """What the assistant says: a text, or messages of which the last is its (the prompt before it may be repeated)."""
    if isinstance(value, str):
        return value
    said = value if isinstance(value, tuple) else _messages(value)
    said = said[len(prompt) :] if prompt and said[: len(prompt)] == prompt else said
    if len(said) != 1 or said[0].role != "assistant":
        raise Unusable("an answer must be one message of the assistant")
    return said[0].content


def _strength(row: Mapping[str, Any]) -> int:
    """0 for a tie, by `strength` or by equal scores (UltraFeedback); 1 where nothing is said."""
    if "strength" in row:
        strength = row["strength"]
        if type(strength) is not int or not 0 <= strength <= 4:
            raise Unusable("strength must be a whole number from 0 (a tie) to 4")
        return strength
    better, worse = row.get("score_chosen"), row.get("score_rejected")
    if isinstance(better, int | float) and isinstance(worse, int | float) and better < worse:
        raise Unusable("score_chosen is below score_rejected")
    return 0 if better is not None and better == worse else 1


def _seen_first(row: Mapping[str, Any]) -> Literal["", "chosen", "rejected"]:
    for side in SIDES:
        if row.get("first", "") == side:
            return side
    raise Unusable("first must be chosen or rejected: the answer that the judge saw first")


def _messages(value: Any) -> Messages:
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        raise Unusable(f"the messages must be a list with something in it, not {type(value).__name__}")
    return tuple(_message(one) for one in value)


def _message(value: Any) -> Message:
    if not isinstance(value, Mapping):
        raise Unusable("a message must be an object with role and content")
    role = _get(value, "from" if "from" in value else "role")
    if not isinstance(role, str) or role not in ROLES:
        raise Unusable(f"unknown role {str(role)[:20]!r} (known: {', '.join(ROLES)})")
    content = _get(value, "value" if "value" in value else "content")
    if isinstance(content, list):  # OpenAI's parts
        content = "".join(_text(_get(part, "text"), "text") for part in content)
    return Message(ROLES[role], _text(content, f"content of the {ROLES[role]}"))


def _user(text: Any) -> Messages:
    return (Message("user", _text(text, "prompt")),)


def _turns(asked: str, answered: str) -> Callable[[Mapping[str, Any]], Messages]:
    def convert(row: Mapping[str, Any]) -> Messages:
        answer = _text(_answer(_get(row, answered)), answered)
        return (*_asked(_get(row, asked)), Message("assistant", answer))

    return convert


def _instruction(row: Mapping[str, Any]) -> Messages:
    more = row.get("input") or ""
    return _user(_text(_get(row, "instruction"), "instruction") + (f"\n\n{_text(more, 'input')}" if more else ""))


def _alpaca(row: Mapping[str, Any]) -> Messages:
    return (*_instruction(row), Message("assistant", _text(_get(row, "output"), "output")))


CONVERSATIONS: dict[str, Callable[[Mapping[str, Any]], Messages]] = {
    "messages": lambda row: _messages(row["messages"]),
    "conversations": lambda row: _messages(row["conversations"]),
    "instruction": _alpaca,
    "prompt": _turns("prompt", "completion"),
    "question": _turns("question", "answer"),
}
PROMPTS: dict[str, Callable[[Mapping[str, Any]], Messages]] = {
    "prompt": lambda row: _asked(row["prompt"]),
    "messages": lambda row: _messages(row["messages"]),
    "question": lambda row: _asked(row["question"]),
    "instruction": _instruction,
}


def _first(row: Any, shapes: Mapping[str, Any]) -> str:
    """The first of these keys that the row has."""
    if isinstance(row, str):
        raise Unusable("plain text where a row with keys is needed: use .jsonl or .parquet")
    for key in shapes:
        if isinstance(row, Mapping) and key in row:
            return key
    raise Unusable(f"none of the keys {', '.join(shapes)} ({_keys(row)})")


def _get(row: Any, key: str) -> Any:
    if not isinstance(row, Mapping):
        raise Unusable(f"expected an object with the key {key!r}, found {type(row).__name__}")
    if key not in row:
        raise Unusable(f"no key {key!r} ({_keys(row)})")
    return row[key]


def _keys(row: Any) -> str:
    if not isinstance(row, Mapping):
        return f"the row is no object but {type(row).__name__}"
    return f"keys here: {', '.join(map(str, row)) or 'none'}"


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str):
        raise Unusable(f"{key} is no text but {type(value).__name__}")
    if not value.strip():
        raise Unusable(f"{key} is empty")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise Unusable(f"{key} holds half a character (a lone surrogate)")
    return value
