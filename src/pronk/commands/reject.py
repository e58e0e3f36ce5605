"""`pronk reject --model FOLDER --prompts FILE --reward WORDS`: keeps the best of n answers and tunes on them."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pronk.commands import sft
from pronk.commands.answering import answer, check_sampling
from pronk.commands.asking import read_asked
from pronk.commands.evaluate import table, tally
from pronk.commands.scoring import rewards, total
from pronk.commands.task import conversation, write
from pronk.commands.training import card, check_numbers, digest
from pronk.config import save
from pronk.data.files import expand
from pronk.data.records import Prompt
from pronk.data.sources import ReadConfig
from pronk.engine.engine import Engine
from pronk.engine.sequence import Sampling
from pronk.errors import UserError
from pronk.evals.passk import best_of_n_kl, pass_rate
from pronk.folders import huggingface
from pronk.folders.swap import standing
from pronk.learn.build import TrainConfig, pick_device
from pronk.learn.checkpoint import check_same, claim
from pronk.learn.optim import OptimConfig
from pronk.learn.run import flat
from pronk.models.lora import LoraConfig
from pronk.rl import rejection
from pronk.rl.rejection import Scored

KEEP = {"best": rejection.best, "passing": rejection.passing}
# Tuning has settings of its own.
FREE = ("out", "dry_run", "strict", "rounds", "tune", "slots", "train", "optim", "lora", "read")


@dataclass(frozen=True)
class Config:
    """Samples answers, keeps the best by reward, and tunes the model on them: rejection sampling, in rounds."""

    model: str
    """model folder to start from"""
    prompts: str
    """file of prompts; other keys of its rows reach the reward as meta"""
    out: str = "out/reject"
    """folder; round-1/ has answers.jsonl, kept.jsonl, comparisons.jsonl (for dpo) and sft/; the model goes to model/"""
    reward: tuple[str, ...] = ("subject",)
    """what scores answers, in rl's words: task:arithmetic, subject, my_rewards.py:function, ..; added up"""
    reward_text: str = "cat"
    """what subject and similarity look for"""
    n: int = 8
    """answers to each prompt"""
    keep: Literal["best", "passing"] = "best"
    """the best answer to each prompt, or every different one that reaches the threshold"""
    threshold: float | None = None
    """least score of an answer that is kept, and that counts as right in pass@k; None = any"""
    comparisons: int = 1
    """comparisons of each prompt, at most: pairs of answers whose scores differ, the widest difference first"""
    rounds: int = 1
    """times to sample and to tune; each round starts from the model of the last"""
    tune: bool = True
    """--no-tune only samples and writes"""
    temperature: float = 1.0
    max_tokens: int = 128
    """longest answer, tokens; one that is cut is never kept"""
    seed: int = 0
    slots: int = 256
    """answers made at once"""
    strict: bool = False
    """stop at the first unusable line instead of counting it"""
    dry_run: bool = False
    """show what would be done, and stop"""
    read: ReadConfig = field(default_factory=lambda: ReadConfig(validation=0.02))
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=3e-4, weight_decay=0.0))
    lora: LoraConfig = field(default_factory=LoraConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(steps=200))


def run(config: Config) -> None:
    check(config)
    if config.dry_run:
        print(f"reject: {config.rounds} rounds of {config.n} answers a prompt, each followed by this tuning:\n")
        return sft.run(replace(tuning(config, 1, config.model), dry_run=True))
    out, model = Path(config.out), config.model
    lock = claim(out)
    try:
        if config.train.resume == "never":
            for old in out.glob("round-*"):
                shutil.rmtree(old)
        prompts = read_asked("reject", config.prompts, config.strict)
        for number in range(1, config.rounds + 1):
            sample(config, prompts, number, model)
            if config.tune:
                sft.run(tuning(config, number, model))
                model = str(out / f"round-{number}" / "sft" / "model")
        save(config, out, "reject")
        if config.tune:
            trained, tokenizer = huggingface.load(model)
            about = card("reject", config, f"{config.rounds} rounds of the best of {config.n}")
            huggingface.save(out / "model", trained, tokenizer, {"temperature": 0.7}, about)
            print(f"reject: the model is in {out / 'model'}", flush=True)
    finally:
        lock.close()


def check(config: Config) -> None:
    if "RANK" in os.environ:
        raise UserError("pronk reject runs in one process for now: start it without torchrun")
    check_numbers(config)
    check_sampling(config.n, config.temperature, config.max_tokens)
    if config.rounds < 1 or config.comparisons < 0:
        raise UserError("--rounds must be at least 1, and --comparisons at least 0")
    if config.rounds > 1 and not config.tune:
        raise UserError("--rounds: without tuning every round would sample the same; leave out --no-tune or --rounds")
    if config.keep == "passing" and config.threshold is None:
        raise UserError("--keep passing needs a --threshold, for example 1 where a right answer scores 1")


def tuning(config: Config, number: int, model: str) -> sft.Config:
    """The round's tuning on what it kept."""
    folder = Path(config.out) / f"round-{number}"
    kept = str(folder / "kept.jsonl")
    common = {"optim": config.optim, "read": config.read, "lora": config.lora, "train": config.train}
    return sft.Config(model=model, data=(kept,), out=str(folder / "sft"), **common)  # type: ignore[arg-type]


def sample(config: Config, prompts: Sequence[Prompt], number: int, model: str) -> None:
    """A round's answers, scored, with what is kept of them; nothing to do where this was done before."""
    folder = Path(config.out) / f"round-{number}"
    settings = told(config, model)
    marker = folder / "results.json"
    if marker.exists():
        if config.train.resume != "force":
            check_same(json.loads(marker.read_text(encoding="utf-8"))["settings"], settings, folder)
        return print(f"reject: round {number} has been sampled: {folder}", flush=True)
    trained, tokenizer = huggingface.load(model, pick_device(config.train.device))
    how = Sampling(config.max_tokens, config.temperature, seed=config.seed + number - 1, n=config.n)
    samples = answer(Engine(trained, tokenizer.decode, config.slots), tokenizer, prompts, how)
    scores = total(rewards(config.reward, config.reward_text), samples)
    scored = [Scored(one, score) for one, score in zip(samples, scores)]
    groups = [scored[start : start + config.n] for start in range(0, len(scored), config.n)]
    kept = [one for group in groups for one in KEEP[config.keep](group, config.threshold)]
    results = measure(groups, kept, config)
    print(f"reject: round {number}\n{spoken(results, config)}", flush=True)
    if config.tune and not kept:
        raise UserError(
            f"none of {len(samples):,} answers is worth keeping: try more --n, a lower --threshold or more --max-tokens"
        )
    keep(folder, config, groups, kept)
    fresh = marker.with_suffix(".tmp")  # the marker comes last, whole: without it the round is sampled again
    fresh.write_text(json.dumps(results | {"settings": settings}, indent=1) + "\n", encoding="utf-8")
    fresh.rename(marker)


def keep(folder: Path, config: Config, groups: Sequence[Sequence[Scored]], kept: Sequence[Scored]) -> None:
    """The round's files."""
    folder.mkdir(parents=True, exist_ok=True)
    everything = [one for group in groups for one in group]
    rows = (
        {"prompt": s.prompt.messages[-1].content, "text": s.text, "finish": s.finish, "score": score}
        for s, score in everything
    )
    pairs = (pair for group in groups for pair in rejection.comparisons(group, config.comparisons))
    write(folder / "answers.jsonl", rows)
    write(folder / "kept.jsonl", (conversation(rejection.conversation(one.sample)) for one in kept))
    write(folder / "comparisons.jsonl", map(asdict, pairs))


def told(config: Config, model: str) -> dict[str, Any]:
    """What decides a round's answers."""
    weights = sorted(standing(Path(model)).glob("*.safetensors"))
    asked = [path for path in map(Path, expand(config.prompts)) if path.exists()]
    plain = {name: value for name, value in flat(config).items() if name.split(".")[0] not in (*FREE, "model")}
    return plain | {"weights of the model": digest(*weights), "contents of --prompts": digest(*asked)}


def measure(groups: Sequence[Sequence[Scored]], kept: Sequence[Scored], config: Config) -> dict[str, Any]:
    """Mean and best scores; pass@k where a threshold says what passes."""
    scores = [one.score for group in groups for one in group]
    found: dict[str, Any] = {
        "answers": len(scores),
        "kept": len(kept),
        "cut": sum(one.sample.finish == "length" for group in groups for one in group),
        "mean score": sum(scores) / len(scores),
        "mean best score": sum(max(one.score for one in group) for group in groups) / len(groups),
        "largest KL": best_of_n_kl(config.n),
    }
    if config.threshold is not None:
        right = tally([score >= config.threshold for score in scores], config.n)
        powers = [k for k in (1, 2, 4, 8, 16, 32, 64) if k <= config.n]
        rates = {f"pass@{k}": asdict(pass_rate(config.n, right, k)) for k in powers}
        found["pass"] = {"problems": len(groups)} | rates
    return found


def spoken(found: dict[str, Any], config: Config) -> str:
    lines = [
        f"{found['answers']:,} answers, {found['kept']:,} kept, {found['cut']:,} cut at --max-tokens; "
        f"score {found['mean score']:.4g}, best of {config.n} {found['mean best score']:.4g} "
        f"(at most {found['largest KL']:.2f} nats from the model)"
    ]
    if "pass" in found:
        powers = [int(name.removeprefix("pass@")) for name in found["pass"] if name.startswith("pass@")]
        lines.append(table({"prompts": found["pass"]}, powers))
    return "\n".join(lines)
