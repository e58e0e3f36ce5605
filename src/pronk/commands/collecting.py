"""Collects votes for `pronk feedback`: answers are made in the background while the page is served."""

import secrets
import threading
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pronk.commands.asking import read_asked
from pronk.commands.feedback import Config, leave, spoken
from pronk.commands.generate import Options, encode, open_model, to_sampling
from pronk.commands.serve import fingerprint, is_loopback, listening, until_stopped, url
from pronk.data.records import Prompt
from pronk.engine.client import Client
from pronk.errors import UserError
from pronk.feedback import desk, pairs
from pronk.feedback.app import Status, create_app
from pronk.feedback.facts import facts
from pronk.feedback.pages import DEFAULT
from pronk.feedback.pairs import Source
from pronk.feedback.serving import served, server
from pronk.feedback.store import Store


def collect(config: Config) -> None:
    """Serve the page until the goal is reached or somebody stops it; then leave the files in --out."""
    plan, sources = planned(config)
    store = Store(config.database)
    status = Status(making=bool(plan), goal=config.votes)
    try:
        desk.publish(store, guidelines(config))
        if config.simulate:
            simulated(config, store, plan, sources, status)
        else:
            in_person(config, store, plan, sources, status)
        with store.reading() as connection:
            numbers = facts(connection)
        told = [*spoken(numbers), *(leave(config, store) if config.out else [])]
    finally:
        store.close()
    print("\n".join([*told, f"feedback: everything is in {config.database}"]), flush=True)
    votes = numbers["counts"]["votes"]
    if votes < config.votes:
        more = "; no pair is left: make more with --pairs" if config.simulate else ""
        raise UserError(f"only {votes} of {config.votes} votes were given; the same command goes on{more}")


def planned(config: Config) -> tuple[list[pairs.Wanted], list[Source]]:
    """What is to be made and by whom; nothing, where a database is only opened again."""
    if not config.model and not config.url:
        if config.prompts or not config.database.is_file():
            raise UserError("who answers? Name --model FOLDER or --url http://127.0.0.1:8000/v1, and --prompts FILE")
        return [], []
    if not config.prompts:
        raise UserError("--model and --url answer prompts: name a file of them with --prompts")
    found = read_asked("feedback", config.prompts, config.strict)
    sources = [from_folder(config, folder) for folder in config.model] + [from_url(config, one) for one in config.url]
    return pairs.wanted(found, len(sources), config.pairs, config.seed), sources


def guidelines(config: Config) -> str:
    if not config.guidelines:
        return DEFAULT
    try:
        return Path(config.guidelines).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--guidelines {config.guidelines}: cannot be read as text ({error})") from None


def from_folder(config: Config, folder: str) -> Source:
    """A model folder; it is opened when it is first asked. Its name tells of its weights, so that a folder that was
    trained anew is another model."""
    if not Path(folder).is_dir():
        raise UserError(f"{folder}: no such folder")
    options = Options(folder, config.device, config.max_tokens, config.temperature, seed=0)
    opened: list[Any] = []

    def answer(prompts: Sequence[Prompt], seed: int) -> list[str]:
        if not opened:
            opened.append(open_model(options, chat=True, slots=config.slots))
        options.seed = seed
        ids = [encode(opened[0], prompt) for prompt in prompts]
        return [done.text or "" for done in opened[0].engine.generate(ids, to_sampling(options, opened[0]))]

    return Source(f"{folder} ({fingerprint(folder).removeprefix('fp_')[:6]})", answer)


def from_url(config: Config, address: str) -> Source:
    client = Client(address)

    def answer(prompts: Sequence[Prompt], seed: int) -> list[str]:
        asked = {"temperature": config.temperature, "max_tokens": config.max_tokens}
        talks = [[asdict(message) for message in prompt.messages] for prompt in prompts]
        return [client.chat(talk, seed=1000 * seed + n, **asked)[0].text for n, talk in enumerate(talks)]

    return Source(f"{client.model} at {client.root}", answer)


def background(
    config: Config, store: Store, plan: Sequence[pairs.Wanted], sources: Sequence[Source], status: Status
) -> Callable[[], None]:
    scores = [Client(address).score for address in config.score]
    if config.pick.choose == "doubt" and not scores:
        raise UserError("--pick.choose doubt needs reward models: name their servers with --score http://…")

    def work() -> None:
        pairs.work(store, plan, sources, scores, config.pick.evaluation, config.slots, config.seed, status)

    return work


def draw(told: Mapping[str, Any], name: str, dark: bool) -> bytes:
    from pronk.evals.votes import draw as draw_picture  # matplotlib, when somebody looks

    return draw_picture(told, name, dark)


def in_person(
    config: Config, store: Store, plan: Sequence[pairs.Wanted], sources: Sequence[Source], status: Status
) -> None:
    """Serve the page to people, and make pairs meanwhile."""
    key = "" if is_loopback(config.host) else secrets.token_urlsafe(24)
    running = server(create_app(store, config.pick, draw, status, key))

    def finished() -> None:
        running.should_exit = True

    status.finished = finished
    work = threading.Thread(target=background(config, store, plan, sources, status), daemon=True)
    with listening(config.host, config.port) as door:
        shown = "localhost" if config.host == "127.0.0.1" else config.host
        address = f"{url(shown, door.getsockname()[1])}/" + (f"?key={key}" if key else "")
        print(f"feedback: the page is at {address}", flush=True)
        if key:
            print("feedback: whoever has this link can vote; it is a new one at each start")
        print("feedback: Ctrl-C stops; every vote is stored as it is given", flush=True)
        work.start()
        if config.open:
            threading.Timer(0.5, webbrowser.open, [address]).start()
        until_stopped(running, door)
    if status.failure:
        print(f"feedback: making pairs stopped: {status.trouble}", flush=True)
        if not isinstance(status.failure, UserError):
            raise status.failure


def simulated(
    config: Config, store: Store, plan: Sequence[pairs.Wanted], sources: Sequence[Source], status: Status
) -> None:
    """Simulated people at the same page, after all pairs are made, so that a seed says everything."""
    from pronk.feedback.simulate import vote_in_turn
    from pronk.world.annotators import Annotator

    background(config, store, plan, sources, status)()
    if status.failure:
        raise status.failure
    people = [Annotator(1000 * config.seed + n, config.noise) for n in range(config.simulate)]
    with served(create_app(store, config.pick, draw, status)) as address:
        vote_in_turn(address, people)
