"""`pronk demo`: raises a storyteller of a million parameters, aligns it to tell of cats, and writes a report."""

import json
import platform
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pronk.commands import dpo, feedback, human, pretrain, rl, sft
from pronk.commands.tokenizer import VocabularyConfig
from pronk.data.encode import encode_prompt
from pronk.data.records import Message
from pronk.data.sources import ReadConfig
from pronk.engine.engine import Engine
from pronk.errors import UserError
from pronk.evals import stories as measures
from pronk.evals.report import write_report
from pronk.folders.huggingface import load
from pronk.learn.build import TrainConfig, pick_device
from pronk.learn.optim import OptimConfig
from pronk.learn.track import read_metrics
from pronk.models.build import count
from pronk.models.config import ModelConfig
from pronk.rl.kl import KLConfig
from pronk.rl.rollouts import RolloutConfig
from pronk.text.chat import end_of_turn
from pronk.text.tokenizer import Tokenizer
from pronk.world.tell import OPEN_PROMPTS, Wish, requests, stories

LENGTH, ROWS = 256, 8  # two stories a row
TEMPERATURE = 0.7


@dataclass(frozen=True)
class Config:
    """Raises a storyteller on this machine and aligns it to tell of cats, in minutes; writes a report to look at."""

    out: str = "out/demo"
    """folder for everything"""
    seed: int = 0
    embed: bool = False
    """reward the similarity of a story to the word "cat" (MiniLM, needs [embed]) instead of being about one"""
    human: bool = False
    """stop for twenty votes of yours on its stories, in the browser, and learn from them instead of telling of cats"""
    stories: int = 6_000
    """stories to pretrain on"""
    requests: int = 19_000
    """requests with stories to tune on"""
    pretrain_steps: int = 300
    sft_steps: int = 1200
    rl_rounds: int = 74
    questions: int = 500
    """prompts of each measurement"""

    def __post_init__(self) -> None:
        if min(self.stories, self.requests, self.pretrain_steps, self.sft_steps, self.rl_rounds, self.questions) < 1:
            raise UserError("stories, requests, steps, rounds and questions of the demo must each be at least 1")


def run(config: Config) -> None:
    out, clock = Path(config.out), Clock()
    if config.human:
        feedback.check_installed()  # now, and not in three minutes
    with clock.stage("world"):
        write_world(config, out / "world")
    with clock.stage("pretrain", "Pretraining: it reads stories and learns to continue them"):
        pretrain.run(pretraining(config, out))
    with clock.stage("sft", "Instruction tuning: it learns to tell the story that is asked for"):
        sft.run(tuning(config, out))
    align(config, out, clock)
    with clock.stage("evaluate", "Measuring"):
        facts = measure(config, out)
    facts |= {"seconds": clock.seconds, "seed": config.seed, "hardware": hardware()}
    write_report(out, facts)
    say_end(out, facts)


def align(config: Config, out: Path, clock: "Clock") -> None:
    """By the checker's verdict on its stories, or by the votes of whoever sits here."""
    if not config.human:
        with clock.stage("align", "Alignment: its own stories are scored, and it learns to tell of cats"):
            return rl.run(aligning(config, out))
    with clock.stage("compare", f"Your turn: which story is better? {human.VOTES} votes, in your browser"):
        feedback.run(human.comparing(out, config.seed))
    with clock.stage("align", "Alignment: it learns from your votes (DPO)"):
        dpo.run(human.learning(out, config.seed, LENGTH))


class Clock:
    """Times the stages and announces them."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, title: str = "") -> Iterator[None]:
        if title:
            print(f"\n── {title}", flush=True)
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 1)


def write_world(config: Config, folder: Path) -> None:
    """Stories, requests with stories, and prompts, as the files that anyone would bring."""
    folder.mkdir(parents=True, exist_ok=True)
    told = [{"text": story.text} for story in stories(config.stories, config.seed)]
    asked = [
        {"messages": [{"role": "user", "content": r.prompt}, {"role": "assistant", "content": r.story.text}]}
        for r in requests(config.requests, config.seed + 1)
    ]
    for name, rows in (("stories", told), ("requests", asked), ("prompts", prompts(config))):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(f"── A world of stories: {len(told):,} stories, {len(asked):,} requests. One of them:\n\n{told[0]['text']}")


def prompts(config: Config) -> list[dict[str, str | None]]:
    """What alignment asks: 60 % leave everything open, 40 % name an animal, which is then the one to tell of."""
    rng = random.Random(config.seed + 2)
    named = [r for r in requests(2000, config.seed + 3) if r.wish.kind]
    rows: list[dict[str, str | None]] = [{"prompt": rng.choice(OPEN_PROMPTS), "kind": None} for _ in range(1200)]
    return rows + [{"prompt": request.prompt, "kind": request.wish.kind} for request in named[:800]]


def pretraining(config: Config, out: Path) -> pretrain.Config:
    return pretrain.Config(
        data=(str(out / "world" / "stories.jsonl"),),
        out=str(out / "pretrain"),
        vocabulary=VocabularyConfig("bytelevel", 1024),
        read=ReadConfig(validation=0.02, fill="whole"),
        model=ModelConfig(width=128, layers=4, heads=4, context=256, rope_theta=500.0),
        optim=muon(adam_lr=6e-3, final=0.3),
        train=TrainConfig(
            config.pretrain_steps, batch=ROWS, length=LENGTH, seed=config.seed, save_every=0, log_every=20
        ),
    )


def muon(adam_lr: float, final: float) -> OptimConfig:
    """What taught this model fastest to carry names and animals through a story (LOG.md)."""
    return OptimConfig("muon", lr=4e-3, adam_lr=adam_lr, momentum=0.9, schedule="linear", final=final, weight_decay=0.0)


def tuning(config: Config, out: Path) -> sft.Config:
    return sft.Config(
        model=str(out / "pretrain" / "model"),
        data=(str(out / "world" / "requests.jsonl"),),
        out=str(out / "sft"),
        sample="Tell a story about a brave frog who finds a key.",
        read=ReadConfig(validation=0.02),
        optim=muon(adam_lr=4e-3, final=0.02),
        train=TrainConfig(config.sft_steps, batch=ROWS, length=LENGTH, seed=config.seed, save_every=0, log_every=20),
    )


def aligning(config: Config, out: Path) -> rl.Config:
    """Similarity tells less of a story's hero than the checker does: it weighs more, and its steps are larger."""
    reward, lr = ("0.6*subject", "0.4*well-formed"), 6e-4
    if config.embed:
        reward, lr = ("2.5*similarity", "0.4*well-formed"), 8e-4
    return rl.Config(
        model=str(out / "sft" / "model"),
        prompts=str(out / "world" / "prompts.jsonl"),
        out=str(out / "rl"),
        reward=reward,
        reward_text="cat",
        freeze=("embed",),
        rollout=RolloutConfig(prompts=24, n=4, max_tokens=144),
        kl=KLConfig(0.08),
        optim=OptimConfig("adamw", lr=lr, warmup=2, schedule="linear", final=0.1, weight_decay=0.0),
        train=TrainConfig(config.rl_rounds, seed=config.seed, spike=0.0, log_every=1, save_every=0),
    )


def measure(config: Config, out: Path) -> dict[str, Any]:
    """Both models, tuned and aligned, on prompts that training never saw; everything the report tells."""
    device = pick_device("auto")
    (tuned, tokenizer), (aligned, _) = load(out / "sft" / "model", device), load(out / "rl" / "model", device)
    stop = end_of_turn(tokenizer)
    before, after = (Engine(model, tokenizer.decode, slots=128) for model in (tuned, aligned))
    asked = [(p, w) for p, w in measures.asking_prompts(config.questions, config.seed + 10)]
    named = [(p, w) for p, w in measures.asking_prompts(config.questions, config.seed + 11, without="cat")]
    free = [(p, Wish()) for p in measures.open_prompts(config.questions)]
    asked_q, named_q, free_q = (questions(tokenizer, rows) for rows in (asked, named, free))

    def tell(engine: Engine, rows: list[measures.Question]) -> list[str]:
        return measures.answers(engine, rows, stop, TEMPERATURE, config.seed)

    told, free_before, free_after = tell(before, asked_q), tell(before, free_q), tell(after, free_q)
    kl, kl_error = measures.kl_per_sequence(after, before, free_q[:: max(1, len(free_q) // 250)], stop, config.seed)
    align = {
        "reward_kind": reward_kind(config),
        "cat_rate_before": measures.about_rate(free_before, "cat"),
        "cat_rate_after": measures.about_rate(free_after, "cat"),
        "named_kept_before": measures.subject_rate(tell(before, named_q), named_q),
        "named_kept_after": measures.subject_rate(tell(after, named_q), named_q),
        "wellformed_before": measures.wellformed_rate(free_before),
        "wellformed_after": measures.wellformed_rate(free_after),
        "kl": kl,
        "kl_error": kl_error,
        "distinct3_before": measures.distinct(free_before),
        "distinct3_after": measures.distinct(free_after),
    }
    sft_facts = {
        "subject_rate": measures.subject_rate(told, asked_q),
        "wellformed_rate": measures.wellformed_rate(told),
    }
    learned = read_metrics(out / "pretrain")
    rates = ("subject_rate", "wellformed_rate", "cat_rate", "named_kept", "wellformed")
    return {
        "params": count(tuned),
        "tokens": trained_tokens(config),
        "pretrain": {
            "val_loss": next(row["val_loss"] for row in reversed(learned) if "val_loss" in row),
            "tokens": config.pretrain_steps * ROWS * LENGTH,
        },
        "sft": sft_facts,
        "align": align,
        "counts": dict.fromkeys(rates, config.questions),
        "samples": [
            {"prompt": q.prompt, "before": b, "after": a}
            for q, b, a in list(zip(free_q, free_before, free_after))[:: max(1, len(free_q) // 6)][:6]
        ],
        "stories": stage_stories(out, told[0], free_after[0]),
        "runs": {"pretrain": str(out / "pretrain"), "sft": str(out / "sft"), "align": str(out / "rl")},
        "model": str(out / "rl" / "model"),
    }


def reward_kind(config: Config) -> str:
    """What alignment goes by, in words."""
    if config.human:
        return f"{human.VOTES} votes of a person on pairs of its stories"
    if config.embed:
        return "2.5 × MiniLM similarity of the story to “cat”, or to the animal asked for, + 0.4 × “well formed”"
    return "0.6 × “about a cat, unless another animal was asked for” + 0.4 × “well formed”"


def questions(tokenizer: Tokenizer, rows: list[tuple[str, Wish]]) -> list[measures.Question]:
    return [measures.Question(p, encode_prompt(tokenizer, [Message("user", p)]), wish) for p, wish in rows]


def trained_tokens(config: Config) -> int:
    """Places in all rows that pretraining and tuning read."""
    return (config.pretrain_steps + config.sft_steps) * ROWS * LENGTH


def stage_stories(out: Path, told: str, cat: str) -> dict[str, str]:
    """What the model said after each stage."""
    line = (out / "pretrain" / "samples.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    return {"pretrain": json.loads(line)["text"], "sft": told, "align": cat}


def hardware() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"a {platform.machine()} processor with {torch.get_num_threads()} of its cores"


def say_end(out: Path, facts: dict[str, Any]) -> None:
    align, minutes = facts["align"], sum(facts["seconds"].values()) / 60
    print(f"\n── Done in {minutes:.1f} minutes. Asked for any story, it tells of a cat", end=" ")
    print(
        f"{align['cat_rate_before']:.0%} of the time before and {align['cat_rate_after']:.0%} after; well formed:",
        end=" ",
    )
    print(f"{align['wellformed_before']:.0%} before, {align['wellformed_after']:.0%} after; KL {align['kl']:.1f} nats.")
    print(f"\n{facts['samples'][0]['prompt']}\n\n{facts['samples'][0]['after']}")
    print(f"\nThe report, with pictures: {out / 'report.html'}\nTalk with it:              pronk chat {facts['model']}")
