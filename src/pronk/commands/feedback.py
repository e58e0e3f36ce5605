"""`pronk feedback`: people compare two answers in a browser; also gives, takes, tells and forgets what they said."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pronk.errors import UserError
from pronk.feedback.rule import Rule

if TYPE_CHECKING:
    from pronk.feedback.store import Store

BARE = ("settings", "action", "target")
Format = Literal["votes", "trl", "trl-chat", "trl-implicit", "trl-implicit-chat", "hh", "openai", "demonstrations"]


@dataclass(frozen=True)
class Config:
    """Lets people compare two answers in a browser. `pronk feedback export FILE`, `import FILE`, `stats` and
    `forget PERSON` work on what they said."""

    action: Literal["collect", "export", "import", "stats", "forget"] = "collect"
    """collect votes; export them to a file (.jsonl, .parquet); import comparisons; tell numbers; forget a person"""
    target: str = ""
    """of export and import: the file; of forget: the person's name"""
    db: str = ""
    """the database; empty = OUT/feedback.db, or feedback.db"""
    model: tuple[str, ...] = ()
    """model folders that answer: one is compared with itself, several with one another"""
    url: tuple[str, ...] = ()
    """OpenAI-compatible servers that answer, such as http://127.0.0.1:8000/v1"""
    prompts: str = ""
    """file of prompts (.jsonl with prompt or messages, .txt with one a line)"""
    pairs: int = 0
    """pairs to make; 0 = one for each prompt"""
    votes: int = 0
    """votes after which the collecting is over; 0 = when you stop it"""
    guidelines: str = ""
    """Markdown file that people read first; empty = short ones of ours"""
    score: tuple[str, ...] = ()
    """servers of reward models, asked at /v1/score: several differ in doubt, one is in doubt near zero"""
    out: str = ""
    """folder for what was collected, in the end: comparisons.jsonl, evaluation.jsonl, votes.jsonl, stats.json"""
    simulate: int = 0
    """so many simulated people vote instead of real ones, to study the loop; their taste is world/annotators'"""
    noise: float = 0.5
    """spread of a simulated judgement's error, in units of utility"""
    format: Format = "trl"
    """of export"""
    part: Literal["train", "evaluation", "all"] = "train"
    """of export: what may be learned from, what is kept to judge by, or both"""
    ties: bool = False
    """export ties too, with strength 0"""
    host: str = "127.0.0.1"
    """address to listen on; any but this machine's own makes a key, which is part of the link"""
    port: int = 8100
    """0 = any free one"""
    open: bool = True
    """open the page in this machine's browser"""
    strict: bool = False
    """stop at the first unusable line instead of counting it"""
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    temperature: float = 1.0
    max_tokens: int = 256
    """longest answer, tokens"""
    slots: int = 64
    """answers made at once"""
    seed: int = 0
    """of the answers"""
    pick: Rule = field(default_factory=Rule)

    def __post_init__(self) -> None:
        for name in ("pairs", "votes", "simulate"):
            if getattr(self, name) < 0:
                raise UserError(f"--{name} {getattr(self, name)}: give 0 or more")
        for name in ("evaluation", "repeat"):
            if not 0 <= getattr(self.pick, name) <= 1:
                raise UserError(f"--pick.{name} {getattr(self.pick, name)}: give a share from 0 to 1")
        if min(self.slots, self.max_tokens, self.pick.gap + 1) < 1 or not 0 <= self.port < 1 << 16:
            raise UserError("--slots and --max-tokens must be at least 1, --pick.gap 0, --port from 0 to 65535")
        if not 0 <= self.temperature < math.inf or not 0 <= self.noise < math.inf:
            raise UserError("--temperature and --noise must be numbers of at least 0")

    @property
    def database(self) -> Path:
        return Path(self.db or Path(self.out or ".") / "feedback.db")


def run(config: Config) -> None:
    check_installed()
    ACTIONS[config.action](config)


def check_installed() -> None:
    """Raises UserError where the page's libraries are missing."""
    try:
        import alembic  # noqa: F401
        import fastapi  # noqa: F401
        import sqlalchemy  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install 'pronk[feedback]'") from None


def collect(config: Config) -> None:
    from pronk.commands.collecting import collect as collect_votes

    collect_votes(config)


def give(config: Config) -> None:
    """Write the votes in the format that is asked for."""
    if not config.target:
        raise UserError("name the file to write: pronk feedback export comparisons.jsonl --db feedback.db")
    with opened(config) as store:
        count, skipped = export_to(store, Path(config.target), config.format, config.part, config.ties)
    if not count:
        raise UserError(
            f"nothing to export as {config.format}, part {config.part} ({', '.join(skipped) or 'no votes'})"
        )
    left_out = ", ".join(skipped) or "nothing"
    print(f"feedback: {count:,} rows of format {config.format} in {config.target}; left out: {left_out}")
    if config.part != "all":
        print(f"feedback: this is the part {config.part}; --part all, train or evaluation choose another")


def export_to(store: "Store", path: Path, shape: str, part: Any, ties: bool = False) -> tuple[int, list[str]]:
    """Write one file; how many rows it has, and what was left out and why. No file where there is no row."""
    from pronk.data.files import Skipped
    from pronk.feedback.export import judged, rows, write

    skipped = Skipped()
    with store.reading() as connection:
        found = list(rows(judged(connection, part), shape, ties, skipped))
    if found:
        write(path, found)
    else:
        path.unlink(missing_ok=True)
    return len(found), [f"{count} × {reason}" for reason, count in skipped.counts.items()]


def take(config: Config) -> None:
    from pronk.data.files import Skipped
    from pronk.feedback.store import Store
    from pronk.feedback.take import take as take_files

    if not config.target:
        raise UserError("name the file to read: pronk feedback import comparisons.jsonl --db feedback.db")
    skipped, store = Skipped(config.strict), Store(config.database)
    count = take_files(store, [config.target], config.pick.evaluation, skipped)
    store.close()
    for line in skipped.report():
        print(f"feedback: skipped {line}")
    print(f"feedback: {count:,} new answers from {config.target} in {config.database}")


def stats(config: Config) -> None:
    from pronk.feedback.facts import facts

    with opened(config) as store, store.reading() as connection:
        told = facts(connection)
    print("\n".join(spoken(told)))


def spoken(told: dict[str, Any]) -> list[str]:
    """The dashboard's numbers as lines."""

    def share(name: str, one: dict[str, Any]) -> str:
        if not one["votes"]:
            return f"feedback: {name}: nothing to count yet"
        return f"feedback: {name}: {one['rate']:.1%} ({one['low']:.1%} to {one['high']:.1%}, {one['votes']:,})"

    lines = ["feedback: " + ", ".join(f"{count:,} {name}" for name, count in told["counts"].items())]
    lines += [
        f"feedback: {one['model']}: strength {one['strength']:.2f} ({one['low']:.2f} to {one['high']:.2f}), "
        f"{one['votes']:,} votes"
        for one in told["standings"]
    ]
    lines += [share(f"{one['model']} wins against {one['other']}", one) for one in told["duels"]]
    lines += [share("the left side was chosen", told["left"]), share("the same choice again", told["self"])]
    if told["others"]["votes"]:
        lines.append(share("two people chose the same", told["others"]))
    if told["others"]["alpha"] is not None:
        lines.append(f"feedback: Krippendorff's alpha {told['others']['alpha']:.2f}")
    return lines


def forget(config: Config) -> None:
    if not config.target:
        raise UserError("name the person: pronk feedback forget ADA --db feedback.db")
    with opened(config) as store:
        person = store.forget(config.target)
    print(f"feedback: name, sessions and notes are gone; the votes stay, under {person}, which leads to nobody")


def opened(config: Config) -> Any:
    """The database, which must be there."""
    from contextlib import closing

    from pronk.feedback.store import Store

    return closing(Store(config.database, create=False))


def leave(config: Config, store: "Store") -> list[str]:
    """Write what was collected into --out; lines that say so."""
    from pronk.feedback.facts import facts

    out = Path(config.out)
    files = [("comparisons", "trl-chat", "train"), ("evaluation", "trl-chat", "evaluation")]
    files += [("demonstrations", "demonstrations", "train"), ("votes", "votes", "all")]
    told = []
    for name, shape, part in files:
        count, _ = export_to(store, out / f"{name}.jsonl", shape, part)
        told += [f"feedback: {count:,} rows in {out / name}.jsonl"] if count else []
    with store.reading() as connection:
        numbers = json.dumps(facts(connection), indent=2, ensure_ascii=False) + "\n"
    (out / "stats.json").write_text(numbers, encoding="utf-8")
    return told


ACTIONS = {"collect": collect, "export": give, "import": take, "stats": stats, "forget": forget}
