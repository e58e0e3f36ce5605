"""`pronk generate FOLDER --prompt TEXT`: answers or continues prompts; opens models and fills options for chat too."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pronk.data.records import Message, Prompt
from pronk.errors import UserError

if TYPE_CHECKING:
    from pronk.engine.engine import Engine
    from pronk.engine.sequence import Completion, Sampling
    from pronk.text.tokenizer import Tokenizer

BARE = ("settings", "model")
FOLDERS_SAY = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


@dataclass
class Options:
    """What generate and chat share."""

    model: str
    """Model folder."""
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    max_tokens: int = 256
    """Longest answer, tokens."""
    temperature: float | None = None
    """Below 1 keeps to the likely, above 1 wanders, 0 always takes the likeliest token. Where this and the next four
    are None, the folder's generation_config.json counts; where it is silent too, 1, or off."""
    top_k: int | None = None
    """Only the k likeliest tokens; 0 = all."""
    top_p: float | None = None
    """Only the likeliest tokens that together reach this probability; 1 = all."""
    min_p: float | None = None
    """Only tokens at least this fraction as likely as the likeliest; 0 = all."""
    repetition_penalty: float | None = None
    """Above 1 makes tokens of prompt and answer less likely to come again; 1 = off."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer."""
    seed: int | None = None
    """The same seed gives the same answers; None = others each time."""


@dataclass
class Config(Options):
    """Answers prompts with a model, or continues them."""

    prompt: tuple[str, ...] = ()
    """One or more prompts."""
    prompts: str = ""
    """File of prompts: a .txt line each, or prompt or messages of .jsonl or .parquet rows."""
    strict: bool = False
    """Stop at the first unusable line instead of counting it."""
    system: str = ""
    """What the model is told before each prompt (chat)."""
    n: int = 1
    """Answers to each prompt."""
    chat: bool = True
    """Ask as a user, where the tokenizer has a chat template; --no-chat continues the text as it stands."""
    out: str = ""
    """Write JSON lines here (prompt, text, ids, logps, finish, seed) instead of printing."""
    slots: int = 64
    """Answers made at once."""


class Opened(NamedTuple):
    """A model folder, ready to speak."""

    engine: "Engine"
    tokenizer: "Tokenizer"
    chat: bool  # asked through the chat template
    stop: tuple[int, ...]  # ids that end an answer
    says: dict[str, Any]  # what its generation_config.json sets


def run(config: Config) -> None:
    prompts = gather(config)
    opened = open_model(config, config.chat, config.slots)
    sampling = to_sampling(config, opened, config.n)
    ids = [encode(opened, prompt, config.system) for prompt in prompts]
    if config.out:
        write(Path(config.out), prompts, opened.engine.generate(ids, sampling), config.n)
    elif len(ids) == config.n == 1:
        for piece in opened.engine.stream(ids[0], sampling):
            print(piece.text, end="", flush=True)
        print()
    else:
        show(prompts, opened.engine.generate(ids, sampling), config.n)


def gather(config: Config) -> list[Prompt]:
    """The prompts of the command line, then those of the file."""
    found = [Prompt((Message("user", text),)) for text in config.prompt]
    if config.prompts:
        from pronk.data.read import Skipped, prompts

        skipped = Skipped(config.strict)
        found += prompts([config.prompts], skipped=skipped)
        for line in skipped.report():
            print(f"skipped {line}", file=sys.stderr)
    if not found:
        raise UserError('nothing to answer: give --prompt "some text" or --prompts FILE')
    return found


def open_model(options: Options, chat: bool, slots: int) -> Opened:
    """Load the folder; chat is asked for, and granted where the tokenizer has a template."""
    import torch

    from pronk.engine.engine import Engine
    from pronk.folders.huggingface import load
    from pronk.learn.build import pick_device

    if options.seed is None:
        torch.seed()  # a fresh process would always draw the same
    model, tokenizer = load(options.model, device=pick_device(options.device))
    says = settings(options.model)
    chat = chat and bool(tokenizer.template)
    stop = stop_ids(tokenizer, says, chat)
    return Opened(Engine(model, tokenizer.decode, slots), tokenizer, chat, stop, says)


def stop_ids(tokenizer: "Tokenizer", says: dict[str, Any], chat: bool) -> tuple[int, ...]:
    """The ids that end an answer: the tokenizer's, generation_config.json's, and the end of a turn."""
    from pronk.text.chat import end_of_turn

    eos = says.get("eos_token_id", tokenizer.eos)
    ends = [tokenizer.eos, *(eos if isinstance(eos, list) else [eos]), *([end_of_turn(tokenizer)] if chat else [])]
    return tuple(dict.fromkeys(i for i in ends if isinstance(i, int)))


def settings(folder: str) -> dict[str, Any]:
    """What generation_config.json says; nothing where there is none."""
    from pronk.folders.swap import standing
    from pronk.folders.tensors import read_json

    file = standing(Path(folder)) / "generation_config.json"
    return dict(read_json(file)) if file.is_file() else {}


def to_sampling(options: Options, opened: Opened, n: int = 1) -> "Sampling":
    """The user's own wishes, then the folder's, then none."""
    from pronk.engine.sequence import Sampling

    wishes = {name: getattr(options, name) for name in FOLDERS_SAY}
    chosen = {name: opened.says.get(name) if wish is None else wish for name, wish in wishes.items()}
    known: dict[str, Any] = {name: value for name, value in chosen.items() if isinstance(value, int | float)}
    return Sampling(options.max_tokens, stop=opened.stop, stop_texts=options.stop, seed=options.seed, n=n, **known)


def encode(opened: Opened, prompt: Prompt, system: str = "") -> list[int]:
    """A prompt's ids: through the template, or as the beginning of a document."""
    from pronk.text.chat import encode_chat

    tokenizer, messages = opened.tokenizer, prompt.messages
    if opened.chat:
        told = (Message("system", system), *messages) if system else messages
        return encode_chat(tokenizer, told, add_generation_prompt=True)[0]
    if len(messages) > 1 or system:
        raise UserError("a conversation needs a chat template: this model can only continue plain text (--no-chat)")
    return [tokenizer.bos, *tokenizer.encode(messages[0].content)]


def show(prompts: Sequence[Prompt], completions: "Sequence[Completion]", n: int) -> None:
    for place, done in enumerate(completions):
        asked, sample = divmod(place, n)
        if not sample:
            print(f"── {prompts[asked].messages[-1].content}")
        number = f"{sample + 1}. " if n > 1 else ""
        print(f"{number}{(done.text or '').strip()}\n")


def write(path: Path, prompts: Sequence[Prompt], completions: "Sequence[Completion]", n: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for place, done in enumerate(completions):
            prompt = prompts[place // n]
            alone = len(prompt.messages) == 1
            row: dict[str, Any] = {
                "prompt": prompt.messages[0].content if alone else [asdict(m) for m in prompt.messages]
            }
            row |= {"text": done.text, "ids": done.ids, "logps": done.logps, "finish": done.finish, "seed": done.seed}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(f"{len(completions)} answers in {path}")
