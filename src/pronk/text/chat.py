"""Writes conversations through one chat template and says which tokens are learned; leaves ids to tokenizer.py."""

import json
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import lru_cache
from itertools import pairwise
from typing import Literal, NamedTuple, Protocol

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pronk.errors import UserError
from pronk.text.tokenizer import Tokenizer

SPECIALS = ("<|begin|>", "<|end|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|system|>")

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'user' %}<|user|>{{ message.content }}"
    "{% elif message.role == 'assistant' %}<|assistant|>{{ message.content }}{{ eos_token }}"
    "{% elif message.role == 'system' %}<|system|>{{ message.content }}"
    "{% else %}{{ raise_exception('unknown role ' ~ message.role) }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


class Said(Protocol):
    """A message: data.records.Message, or anything of this shape."""

    @property
    def role(self) -> str: ...
    @property
    def content(self) -> str: ...


Span = tuple[int, int]


def render(tokenizer: Tokenizer, messages: Sequence[Said], add_generation_prompt: bool = False) -> str:
    """The conversation as the template writes it, as transformers' apply_chat_template(tokenize=False) does."""
    if not tokenizer.template:
        raise UserError("this tokenizer has no chat template: put a chat_template.jinja into its folder")
    said = [{"role": message.role, "content": message.content} for message in messages]
    try:
        return _compiled(tokenizer.template).render(
            messages=said, add_generation_prompt=add_generation_prompt, tools=None, documents=None, **tokenizer.named
        )
    except Exception as error:  # a template is untrusted code: it can fail in any way
        roles = ", ".join(message.role for message in messages)
        raise UserError(f"the chat template refuses a conversation of roles [{roles}]: {error}") from None


def encode_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Said],
    add_generation_prompt: bool = False,
    learn: Literal["every", "last"] = "every",
) -> tuple[list[int], list[bool]]:
    """Ids and, for each, whether it is learned: exactly what the assistant said and the token that ends its turn.

    learn: every turn of the assistant, or only the last message (comparisons). Special tokens written in a message
    stay text. What is learned starts on a token of its own, so the ids before it are those of the prompt alone.
    Where the template closes the last answer with no special token, eos is added and learned.
    Raises UserError if the template refuses the conversation or rewrites earlier turns.
    """
    guard = _unused_character(tokenizer, messages)
    specials = _pattern(tuple(tokenizer.specials))
    guarded = [_Turn(message.role, _guarded(message.content, specials, guard)) for message in messages]
    text = render(tokenizer, guarded, add_generation_prompt)
    spans = _learned_spans(tokenizer, guarded, text, learn)
    ids: list[int] = []
    mask: list[bool] = []
    for start, end in _pieces(text, specials):
        for part, learned in _encode_piece(tokenizer, text, start, end, spans, guard):
            ids += part
            mask += [learned] * len(part)
    if spans and spans[-1][1] == len(text) and not (ids and ids[-1] in tokenizer.specials.values()):
        ids.append(tokenizer.eos)
        mask.append(True)
    return ids, mask


def end_of_turn(tokenizer: Tokenizer) -> int:
    """The id that ends the assistant's turn under this template: generation stops there."""
    ids, mask = encode_chat(tokenizer, [_Turn("user", "a"), _Turn("assistant", "b")])
    return [i for i, learned in zip(ids, mask) if learned][-1]


class _Turn(NamedTuple):
    role: str
    content: str


def _learned_spans(tokenizer: Tokenizer, messages: Sequence[Said], text: str, learn: str) -> list[Span]:
    """Where in the text the assistant speaks: what a turn adds to the prompt before it, to its last special token."""
    specials = _pattern(tuple(tokenizer.specials))
    spans = []
    for i, message in enumerate(messages):
        if message.role != "assistant" or (learn == "last" and i + 1 < len(messages)):
            continue
        before = render(tokenizer, messages[:i], add_generation_prompt=True)
        after = render(tokenizer, messages[: i + 1])
        if not (after.startswith(before) and text.startswith(after)):
            raise UserError(
                f"the chat template writes message {i + 1} otherwise once the conversation goes on, so which tokens "
                "are the assistant's cannot be said: use a template that only appends"
            )
        ends = [found.end() for found in specials.finditer(after, len(before))]
        spans.append((len(before), ends[-1] if ends else len(after)))
    return spans


def _pieces(text: str, specials: re.Pattern[str]) -> Iterator[Span]:
    """The text cut into special tokens and the stretches between them."""
    done = 0
    for found in specials.finditer(text):
        if found.start() > done:
            yield done, found.start()
        yield found.span()
        done = found.end()
    if done < len(text):
        yield done, len(text)


def _encode_piece(
    tokenizer: Tokenizer, text: str, start: int, end: int, spans: list[Span], guard: str
) -> Iterator[tuple[list[int], bool]]:
    """Ids of a piece, cut where learning starts or stops; in one go where the cut falls between tokens anyhow."""
    if text[start:end] in tokenizer.specials:
        yield [tokenizer.specials[text[start:end]]], _inside(start, spans)
        return
    cuts = sorted({start, end} | {edge for span in spans for edge in span if start < edge < end})
    done: list[int] = []
    for left, right in pairwise(cuts):
        whole = tokenizer.encode(text[start:right].replace(guard, ""))
        apart = whole[: len(done)] != done
        new = tokenizer.encode(text[left:right].replace(guard, "")) if apart else whole[len(done) :]
        done = done + new
        yield new, _inside(left, spans)


def _inside(place: int, spans: list[Span]) -> bool:
    return any(start <= place < end for start, end in spans)


def _guarded(content: str, specials: re.Pattern[str], guard: str) -> str:
    """The content with every special token in it broken by the guard, which encoding takes out again."""
    while specials.search(content):
        content = specials.sub(lambda found: found[0][0] + guard + found[0][1:], content)
    return content


def _unused_character(tokenizer: Tokenizer, messages: Sequence[Said]) -> str:
    """A Unicode noncharacter that occurs nowhere in the conversation."""
    used = set().union(tokenizer.template, *(message.content for message in messages))
    free = (chr(code) for code in range(0xFDD0, 0x10FFFF) if chr(code) not in used)
    return next(free)


@lru_cache(maxsize=64)
def _pattern(specials: tuple[str, ...]) -> re.Pattern[str]:
    """Any of the special tokens, longer ones first."""
    return re.compile("|".join(re.escape(one) for one in sorted(specials, key=len, reverse=True)))


@lru_cache(maxsize=16)
def _compiled(template: str) -> jinja2.Template:
    """The template in a sandbox, with what transformers gives templates; {% generation %} marks are passed over."""
    sandbox = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    sandbox.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    sandbox.globals["raise_exception"] = _refuse
    sandbox.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    plain = re.sub(r"({%[-+]?\s*)generation(\s*[-+]?%})", r"\1if true\2", template)
    plain = re.sub(r"({%[-+]?\s*)endgeneration(\s*[-+]?%})", r"\1endif\2", plain)
    try:
        return sandbox.from_string(plain)
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"the chat template is broken at line {error.lineno}: {error.message}") from None


def _refuse(reason: str) -> None:
    raise jinja2.TemplateError(reason)
