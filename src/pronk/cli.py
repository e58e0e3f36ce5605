"""The `pronk` command line: picks a command, and says failures calmly; what a command does is its own file's."""

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from pronk.commands import COMMANDS, load
from pronk.config import flag, leaves
from pronk.errors import UserError

REFUSED = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS}


def main(words: Sequence[str] | None = None) -> int:
    """Runs `pronk WORDS` (the process's own by default) and returns the exit code."""
    words = list(sys.argv[1:] if words is None else words)
    if not words or words[0] in ("-h", "--help", "help"):
        return list_commands()
    if words[0] in ("-V", "--version"):
        return print_version()
    if words[0] not in COMMANDS:
        return unknown(words[0])
    wait_briefly()
    return call(words[0], words[1:])


def wait_briefly() -> None:
    """How OpenMP's threads wait for the next operator, unless the user says how. Read once, when torch is imported.

    GNU's spin for milliseconds by default, and beside a busy neighbour two of them take twice to seven times as long as
    two that sleep; but sleeping at once takes a small model's training step 10 to 35 percent longer where one is alone.
    A thousand turns, 25 microseconds, give most of both (LOG.md). Other OpenMP libraries heed only the first name.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def call(name: str, words: Sequence[str]) -> int:
    config: Any = None
    try:
        command = load(name)
        config = command.parse(words)
        command.run(config)
    except KeyboardInterrupt:
        say(f"pronk {name}: stopped")
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if os.environ.get("PRONK_DEBUG") == "1":
            raise
        return failed(name, error, config)
    return 0


def failed(name: str, error: Exception, config: Any) -> int:
    """One calm line for what the user can mend; the whole traceback for what only we can."""
    line = plain(error, config)
    if line:
        say(f"pronk {name}: {line}", style="red")
        return 2
    traceback.print_exception(error)
    say(f"pronk {name}: this is a bug in pronk; please report it with the lines above", style="red")
    return 1


def plain(error: Exception, config: Any) -> str:
    """The error in the user's words; empty if it is not theirs to mend."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in REFUSED:
        where = f"{error.filename}: " if error.filename else ""
        cure = "free some, or set --out to another disk" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        return f"{where}{(error.strerror or '').lower()}{cure and '; ' + cure}"
    return out_of_memory(config) if is_out_of_memory(error) else ""


def is_out_of_memory(error: Exception) -> bool:
    torch = sys.modules.get("torch")  # asked only if a command has already imported it
    on_device = torch is not None and isinstance(error, torch.OutOfMemoryError)
    on_cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or on_device or on_cpu


def out_of_memory(config: Any) -> str:
    """Names the option that would help, with half its present value."""
    for name in leaves(type(config)) if config is not None else ():
        if name.split(".")[-1] == "micro_batch":
            value: Any = config
            for part in name.split("."):
                value = getattr(value, part)
            if isinstance(value, int) and value > 1:
                return f"out of memory; halve the micro-batch: {flag(name)} {value // 2} (it was {value})"
    return "out of memory; try a smaller model, batch or length"


def unknown(word: str) -> int:
    near = get_close_matches(word, COMMANDS, n=2)
    hint = f"did you mean {' or '.join(near)}?" if near else "`pronk` alone lists them"
    say(f"pronk: there is no command {word!r}; {hint}", style="red")
    return 2


def list_commands() -> int:
    width = max(map(len, COMMANDS))
    print("pronk raises a small language model on your own machine and aligns it with human feedback.\n")
    print("usage: pronk COMMAND [file.toml] [--option value ...]\n")
    for name, line in COMMANDS.items():
        print(f"  {name:{width}}  {line}")
    print("\n`pronk COMMAND --help` lists a command's options. New here? Type: pronk demo")
    return 0


def print_version() -> int:
    from pronk.config import versions

    print(", ".join(f"{name} {version}" for name, version in versions().items()))
    return 0


def say(line: str, style: str = "") -> None:
    """One line on stderr, coloured on a terminal."""
    from rich.console import Console

    Console(stderr=True).print(line, style=style, markup=False, highlight=False, soft_wrap=True)
