"""Fills a command's dataclass from a TOML file and command-line words, and writes it back; knows no command."""

import contextlib
import io
import json
import re
import subprocess
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, make_dataclass
from difflib import get_close_matches
from importlib import metadata
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from pronk.errors import UserError

C = TypeVar("C")
Presets = Mapping[str, Mapping[str, Mapping[str, Any]]]
FLAG = re.compile(r"--[A-Za-z][\w.-]*(=.*)?", re.DOTALL)
EXPECTED: dict[Any, str] = {int: "whole number", float: "number", bool: "true or false", str: "text", Path: "path"}


@dataclass
class Option:
    """One choice on its way into a config: `model.layers` and its values as words."""

    name: str
    values: list[str]
    source: str = ""  # a file or preset; empty = the user's own words

    @property
    def label(self) -> str:
        return f"{self.source}: {self.name}" if self.source else flag(self.name)


def parse(
    config_class: type[C],
    words: Sequence[str],
    presets: Presets = {},  # noqa: B006  read only
    *,
    bare: Sequence[str] = ("settings",),
    prog: str = "pronk",
) -> C:
    """The config that `words` describe: defaults, then presets, then the TOML file, then the user's own options.

    bare names what leading words without `--` mean, in order: "settings" is an optional file.toml, any other
    name is that field (`pronk chat out/demo/model`). presets: {"model.preset": {"llama3-8b": {"width": 4096}}};
    a row is used only if its preset is named, and every key written out overrides it.
    Raises UserError on a mistake; `--help` prints the options and exits.
    """
    if {"-h", "--help"} & set(words):
        show_help(config_class, prog, bare)
    known = leaves(config_class)
    written = latest(read_words(words, known, bare))
    rows = [o for name, table in presets.items() if name in written for o in preset(written[name], table, known)]
    chosen = latest([*rows, *written.values()])
    missing = [flag(name) for name in required(config_class) if name not in chosen]
    if missing:
        raise UserError(f"needs {' and '.join(missing)} ({prog} --help lists all options)")
    return build(config_class, chosen, known, prog)


def latest(options: Iterable[Option]) -> dict[str, Option]:
    return {option.name: option for option in options}


# ── what a config class holds


def leaves(config_class: type, prefix: str = "") -> dict[str, Any]:
    """Dotted names of all options and their types; nested dataclasses are walked."""
    hints = get_type_hints(config_class)
    found: dict[str, Any] = {}
    for field in fields(config_class):
        kind = hints[field.name]
        if is_dataclass(kind) and isinstance(kind, type):
            found |= leaves(kind, f"{prefix}{field.name}.")
        elif field.init:
            found[prefix + field.name] = kind
    return found


def required(config_class: type) -> list[str]:
    """Names of the top level's plain options without a default."""
    nested = {name.split(".")[0] for name in leaves(config_class) if "." in name}
    bare = [f for f in fields(config_class) if f.init and f.default is MISSING and f.default_factory is MISSING]
    return [f.name for f in bare if f.name not in nested]


# ── from words and files to options


def read_words(words: Sequence[str], known: Mapping[str, Any], bare: Sequence[str]) -> Iterator[Option]:
    """The options in the order in which they count: later ones win."""
    start = next((i for i, word in enumerate(words) if FLAG.fullmatch(word)), len(words))
    places, given = list(bare), dict[str, list[str]]()
    for word in words[:start]:
        if places and places[0] == "settings":
            places.pop(0)
            if word.endswith(".toml"):
                yield from read_toml(Path(word), known)
                continue
        if not places:
            raise UserError(f"{word!r}: not expected here; options begin with --, a settings file ends in .toml")
        yield Option(places.pop(0), [word])
    while start < len(words):
        end = next((i for i in range(start + 1, len(words)) if FLAG.fullmatch(words[i])), len(words))
        option = read_flag(words[start], list(words[start + 1 : end]), known)
        if Ellipsis in get_args(known[option.name]):  # `--model a --model b` is `--model a b`
            option.values = given[option.name] = [*given.get(option.name, ()), *option.values]
        yield option
        start = end


def read_flag(word: str, values: list[str], known: Mapping[str, Any]) -> Option:
    """`--a.b value`, `--a.b=value`, `--a.no-b`."""
    name, equals, value = word[2:].partition("=")
    name = name.replace("-", "_")
    if equals:
        values = [value, *values]
    table, dot, last = name.rpartition(".")
    positive = table + dot + last.removeprefix("no_")
    if name not in known and known.get(positive) in (bool, bool | None) and not values:
        return Option(positive, ["False"])
    option = Option(name, values or (["True"] if known.get(name) in (bool, bool | None) else []))
    check_known(option, known)
    return option


def read_toml(path: Path, known: Mapping[str, Any]) -> Iterator[Option]:
    for name, value in flatten(load_toml(path), known):
        option = Option(name, to_words(value), str(path))
        check_known(option, known)
        yield option


def load_toml(path: Path) -> dict[str, Any]:
    """A TOML file's tables; UserError if it is missing or broken."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        there = sorted(str(p) for p in path.parent.glob("*.toml"))
        raise UserError(f"{path}: no such file{did_you_mean(str(path), there)}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not valid TOML: {error}") from None


def flatten(table: Mapping[str, Any], known: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested tables as dotted names: {"model": {"layers": 4}} gives ("model.layers", 4)."""
    for key, value in table.items():
        name = prefix + key.replace("-", "_")
        if isinstance(value, Mapping) and name not in known:
            yield from flatten(value, known, name + ".")
        else:
            yield name, value


def to_words(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [word for pair in value.items() for part in pair for word in to_words(part)]
    if isinstance(value, (list, tuple)):
        return [word for item in value for word in to_words(item)]
    return [str(value)]


def preset(option: Option, table: Mapping[str, Mapping[str, Any]], known: Mapping[str, Any]) -> Iterator[Option]:
    """The row that a preset option names, as options beside it."""
    row = " ".join(option.values)
    if row in ("", "None"):
        return
    if row not in table:
        raise UserError(f"{option.label}: there is no {row!r}{did_you_mean(row, table)} (rows: {', '.join(table)})")
    prefix = option.name.rpartition(".")[0]
    for name, value in flatten(table[row], known, f"{prefix}." if prefix else ""):
        yield Option(name, to_words(value), f"preset {row}")


# ── from options to a config, through tyro


def build(config_class: type[C], chosen: Mapping[str, Option], known: Mapping[str, Any], prog: str) -> C:
    import tyro

    words = [word for option in chosen.values() for word in spell(option, known[option.name])]
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return tyro.cli(config_class, args=words, prog=prog, console_outputs=False)
    except SystemExit as stop:
        if isinstance(stop.__context__, UserError):  # a config's own check, in its __post_init__
            raise stop.__context__ from None
        explain(chosen.values(), known, stop)


def spell(option: Option, kind: Any) -> list[str]:
    """An option as tyro reads it; the first value joined by = so that it may begin with a dash."""
    table, dot, last = option.name.rpartition(".")
    if kind is bool:
        truth = {"true": "", "false": "no_"}.get(" ".join(option.values).lower())
        return [f"--{option.name}", *option.values] if truth is None else [f"--{table}{dot}{truth}{last}"]
    if not option.values:
        return [f"--{option.name}"]
    first = option.values[0].title() if kind == bool | None else option.values[0]
    return [f"--{option.name}={first}", *option.values[1:]]


def explain(options: Iterable[Option], known: Mapping[str, Any], stop: SystemExit) -> NoReturn:
    """tyro refused the whole: find the option that it refuses alone, and say what that one wants."""
    import tyro

    for option in options:
        kind = known[option.name]
        alone = make_dataclass("Alone", [("value", kind)] if kind is not bool else [("value", kind, False)])
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                tyro.cli(alone, args=spell(Option("value", option.values), kind), console_outputs=False)
        except SystemExit:
            got = " ".join(option.values)
            spaced = kind is str and len(option.values) > 1
            hint = " (put quotes around text that has spaces)" if spaced else did_you_mean(got, map(str, choices(kind)))
            raise UserError(
                f"{option.label}: expected {expected(kind)}, got {repr(got) if got else 'nothing'}{hint}"
            ) from None
    cause: BaseException | None = stop
    while cause is not None and not isinstance(cause, ValueError):
        cause = cause.__context__
    if cause is not None:  # a config's own check, in a class that knows no UserError
        raise UserError(str(cause)) from None
    raise AssertionError(f"tyro refuses the options together but none alone: {stop.__context__}")


def expected(kind: Any) -> str:
    """A type in plain words."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(map(str, parts))
    if origin in (UnionType, Union):
        return " or ".join(expected(part) for part in parts if part is not type(None)) + " (or None)"
    if origin is tuple and Ellipsis not in parts:
        return f"{len(parts)} values ({', '.join(map(expected, parts))})"
    if origin in (list, tuple):
        return f"any number of values, each {expected(parts[0])}"
    if origin is dict:
        return f"pairs of {' and '.join(map(expected, parts))}"
    return ("a " if kind in (int, float, Path) else "") + EXPECTED.get(kind, getattr(kind, "__name__", str(kind)))


def choices(kind: Any) -> list[Any]:
    """The Literal values anywhere in a type."""
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    return [choice for part in get_args(kind) for choice in choices(part)]


def check_known(option: Option, known: Mapping[str, Any]) -> None:
    if option.name in known:
        return
    what = "unknown key" if option.source else "unknown option"
    inside = [name for name in known if name.startswith(option.name + ".")]
    if inside:
        raise UserError(f"{option.label}: holds options of its own, such as {flag(inside[0])}")
    same_end = [name for name in known if name.split(".")[-1] == option.name.split(".")[-1]]
    near = get_close_matches(option.name, known, n=2, cutoff=0.7) or same_end[:3]
    shown = near if option.source else [flag(name) for name in near]
    raise UserError(f"{option.label}: {what}" + (f"; did you mean {' or '.join(shown)}?" if near else ""))


def did_you_mean(word: str, names: Iterable[str]) -> str:
    near = get_close_matches(word, list(names), n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def show_help(config_class: type, prog: str, bare: Sequence[str]) -> NoReturn:
    import tyro

    places = " ".join("[file.toml]" if place == "settings" else f"[{place}]" for place in bare)
    tyro.cli(config_class, args=["--help"], prog=f"{prog} {places}".strip())
    raise SystemExit(0)


# ── back to a file


def to_toml(config: Any) -> str:
    """The whole config as TOML that `parse` reads back to an equal one. None is left out where it is the default."""
    return "\n".join(toml_lines(config)).strip() + "\n"


def toml_lines(config: Any, prefix: str = "") -> Iterator[str]:
    plain = [f for f in fields(config) if f.init and not is_dataclass(getattr(config, f.name))]
    below_preset = bool(getattr(config, "preset", None))  # a row may fill what is None here: then None is said aloud
    for field in plain:
        value = getattr(config, field.name)
        if value is not None or field.default is not None or below_preset:
            yield f"{field.name} = {toml_value(value)}"
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            yield from ["", f"[{prefix}{field.name}]", *toml_lines(value, f"{prefix}{field.name}.")]


def toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{toml_value(str(k))} = {toml_value(v)}" for k, v in value.items()) + "}"
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def save(config: Any, folder: Path | str, command: str) -> None:
    """Writes folder/config.toml: the resolved config, and as comments what made it. command: "pretrain"."""
    path = Path(folder) / "config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    made_by = ", ".join(f"{name} {version}" for name, version in versions().items())
    head = f"# pronk {command} (again: pronk {command} {path})\n# {made_by}\n# git commit {git_commit()}\n\n"
    path.write_text(head + to_toml(config), encoding="utf-8")


def versions() -> dict[str, str]:
    import platform

    found = {"pronk": "not installed", "torch": "not installed"}  # pronk may run from its source tree
    for name in found:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found | {"python": platform.python_version()}


def git_commit() -> str:
    """The commit that pronk's own source stands on, with a plus if it was changed since; "unknown" outside a clone."""
    here = Path(__file__).parent
    try:
        words = ["git", "-C", str(here), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
        said = subprocess.run(words, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return said.stdout.strip() or "unknown"
