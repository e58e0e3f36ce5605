"""`pronk chat FOLDER`: a conversation in the terminal, or one answer for each line that is piped in."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from pronk.commands.generate import Opened, Options, encode, open_model, to_sampling
from pronk.data.records import Message, Prompt
from pronk.errors import UserError

BARE = ("settings", "model")
HELP = "/quit  /reset (forget what was said)  /seed N  /temperature X    Ctrl-C stops an answer, Ctrl-D leaves"

NUMBERS: dict[str, type[int] | type[float]] = {"seed": int, "temperature": float}


@dataclass
class Config(Options):
    """Talk with a model. In the conversation: /help."""

    system: str = ""
    """What the model is told before the conversation."""
    history: bool = True
    """The model sees what was said before; --no-history asks each question afresh."""


class Quit(Exception):
    """The user has had enough."""


class Session:
    """One conversation."""

    def __init__(self, config: Config, opened: Opened) -> None:
        self.config, self.opened = config, opened
        self.said: list[Message] = []

    def hear(self, line: str) -> None:
        """Obey a command, or answer."""
        if line.startswith("/"):
            self.obey(*line[1:].split(maxsplit=1))
        elif line:
            self.answer(line)

    def obey(self, name: str = "", value: str = "") -> None:
        if name == "quit":
            raise Quit
        if name == "reset":
            self.said = []
            note("forgotten")
        elif name in NUMBERS:
            self.change(name, value)
        else:
            print(HELP, file=sys.stderr)

    def change(self, name: str, value: str) -> None:
        """Set an option from now on, if sampling takes it."""
        try:
            change: dict[str, Any] = {name: NUMBERS[name](value)}
            wanted = replace(self.config, **change)
            to_sampling(wanted, self.opened)
        except UserError as error:
            note(str(error))
        except ValueError:
            note(f"/{name} needs a number, not {value!r}")
        else:
            self.config = wanted

    def answer(self, line: str) -> None:
        """Stream an answer and remember it; Ctrl-C ends it where it is."""
        self.said = [*(self.said if self.config.history else []), Message("user", line)]
        try:
            ids = self.fitting()
        except UserError as error:
            self.said.pop()
            note(str(error))
            return
        text = ""
        try:
            for piece in self.opened.engine.stream(ids, to_sampling(self.config, self.opened)):
                print(piece.text, end="", flush=True)
                text += piece.text
        except KeyboardInterrupt:
            note("stopped")
        print()
        self.said.append(Message("assistant", text))
        if self.config.seed is not None:  # each answer its own, the conversation repeatable
            self.config = replace(self.config, seed=self.config.seed + 1)

    def fitting(self) -> list[int]:
        """Ids of the conversation; the oldest turns are dropped until half an answer's room is left."""
        context = self.opened.engine.context
        room = min(self.config.max_tokens, context // 2)
        dropped = 0
        while True:
            ids = encode(self.opened, Prompt(tuple(self.said)), self.config.system)
            if len(ids) + room <= context or len(self.said) == 1:
                break
            del self.said[:2]
            dropped += 1
        if dropped:
            note(f"the conversation outgrew the context of {context} tokens: forgot the oldest {dropped} turns")
        if len(ids) >= context:
            raise UserError(f"that is {len(ids)} tokens, more than the context of {context}: ask it shorter")
        return ids


def run(config: Config) -> None:
    opened = open_model(config, chat=True, slots=1)
    if not opened.chat:
        raise UserError(
            f"{config.model}: its tokenizer has no chat template; `pronk generate --no-chat` continues text"
        )
    session = Session(config, opened)
    try:
        for line in typed() if sys.stdin.isatty() else sys.stdin:
            session.hear(line.strip())
    except Quit:
        pass


def typed() -> Iterator[str]:
    """Lines from the keyboard, with editing and recall where the platform has readline."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401
    print(HELP)
    while True:
        try:
            yield input("\nyou  ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            note("Ctrl-D or /quit leaves")


def note(text: str) -> None:
    """Beside the conversation: to stderr, so that piped answers stay clean."""
    print(f"({text})", file=sys.stderr, flush=True)
