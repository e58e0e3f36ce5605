"""`pronk reward --model FOLDER --data COMPARISONS`: teaches a model to score answers as the comparisons' judges do."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pronk.commands.pairs import check, planned, read_pairs, settings, tokens_a_step
from pronk.commands.training import card, show_plan, told_of_memory
from pronk.config import save as save_config
from pronk.data.pairs import Pair, PairSource, dialogue_of, folds, resample, split_by_dialogue, to_scored
from pronk.data.read import conversations
from pronk.engine.score import score_rows
from pronk.errors import UserError
from pronk.evals.calibration import Bin, plot_reliability
from pronk.evals.comparisons import Judged, report, table
from pronk.evals.plots import plot_run
from pronk.folders.huggingface import load, save_scorer
from pronk.learn.build import TrainConfig, make_learner, pick_device
from pronk.learn.fit import Every
from pronk.learn.learner import Learner
from pronk.learn.losses import bradley_terry
from pronk.learn.optim import OptimConfig
from pronk.learn.run import Run
from pronk.learn.track import Track
from pronk.models.build import to_scorer
from pronk.models.heads import Scorer, disable_dropout
from pronk.models.lora import LoraConfig, attach
from pronk.text.chat import encode_chat
from pronk.text.tokenizer import Tokenizer

CENTRED_ON = 2048  # training comparisons whose answers score 0 on average


@dataclass(frozen=True)
class Config:
    """Teaches a model to score answers as the judges of comparisons do (Bradley-Terry)."""

    model: str
    """model folder to start from, best one that was tuned to answer"""
    data: tuple[str, ...] = ()
    """comparisons: TRL (explicit or implicit), Anthropic's transcripts, OpenAI's DPO rows, UltraFeedback"""
    out: str = "out/reward"
    """folder for the run; the model goes to its model/, the report to report.json"""
    center: str = ""
    """conversations whose answers are to score 0 on average (the tuning data); none = the comparisons' own answers"""
    validation: float = 0.1
    """share of the prompts that is kept for validation"""
    folds: int = 0
    """cross-validate: train so many models, each judged on the part it has not seen, and report; keeps no model"""
    ensemble: int = 1
    """models that differ by seed; they go to member-1/model and so on, and are judged by their mean"""
    bootstrap: bool = False
    """each member learns its own resample of the prompts"""
    margin: float = 0.0
    """demand a difference of margin x (strength - 1), as Llama 2 does; the scores are no log-odds then"""
    smoothing: float = 0.0
    """share of the comparisons that is taken for wrong"""
    epochs: float = 1.0
    """passes over the comparisons; 0 = as many steps as --train.steps says"""
    show: int = 3
    """scored comparisons to note in samples.jsonl at each evaluation"""
    strict: bool = False
    """stop at the first unusable line instead of counting it"""
    dry_run: bool = False
    """show what would be done, and stop"""
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=5e-4, weight_decay=0.01))
    lora: LoraConfig = field(default_factory=LoraConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(spike=0.0, log_every=5))


def run(config: Config) -> None:
    check(config, "reward")
    if config.folds and (config.folds == 1 or config.ensemble > 1):
        raise UserError("--folds needs at least 2 parts, and cannot go with --ensemble: cross-validate one model")
    device = pick_device(config.train.device)
    model, tokenizer = load(config.model, device)
    pairs = read_pairs(config, "reward", tokenizer, model.config)
    if config.dry_run:
        attach(model, config.lora)
        rows = replace(
            planned(config, len(pairs)), batch=2 * config.train.batch, micro_batch=2 * config.train.micro_batch
        )
        return show_plan(config, model, rows, device)
    if config.folds:
        return cross_validate(config, pairs)
    train, validation = split_by_dialogue(pairs, config.validation)
    members = [config] if config.ensemble == 1 else [_member(config, k) for k in range(config.ensemble)]
    scorers = []
    for member in members:
        seen = resample(train, member.train.seed) if config.bootstrap else train
        scorers.append(train_scorer(member, seen, validation))
    judged = judge(scorers, validation)
    if judged:
        tell(config, judged, train, {"models": [str(Path(member.out) / "model") for member in members]})
    print(*(f"reward: the model is in {Path(member.out) / 'model'}" for member in members), sep="\n", flush=True)


def _member(config: Config, number: int) -> Config:
    """The config that trains one member of an ensemble alone."""
    out, seed = str(Path(config.out) / f"member-{number + 1}"), config.train.seed + number
    return replace(config, out=out, ensemble=1, train=replace(config.train, seed=seed))


def cross_validate(config: Config, pairs: Sequence[Pair]) -> None:
    """A model for each part, trained on the others; all comparisons are judged once, by a model that never saw them."""
    judged: list[Judged] = []
    for number, held in enumerate(folds([pair.comparison for pair in pairs], config.folds), 1):
        outside = set(held)
        train, validation = [p for i, p in enumerate(pairs) if i not in outside], [pairs[i] for i in held]
        fold = replace(config, out=str(Path(config.out) / f"fold-{number}"))
        judged += judge([train_scorer(fold, train, validation)], validation)
    tell(config, judged, pairs, {"folds": config.folds})


def train_scorer(config: Config, train: Sequence[Pair], validation: Sequence[Pair]) -> Scorer:
    """One reward model, from the first step or the last checkpoint to its folder, centred; in evaluation mode."""
    out, plan = Path(config.out), planned(config, len(train))
    with Run(out, "reward", plan, settings(config)) as holder, holder.track() as track:
        model, tokenizer = load(config.model, pick_device(plan.device))
        references = _references(config, tokenizer, train)
        attach(model, config.lora, plan.seed)
        torch.manual_seed(plan.seed)
        scorer = to_scorer(model)
        disable_dropout(scorer)
        scorer.value.bias.requires_grad_(False)  # differences do not feel it: centring sets it
        learner = make_learner(scorer, config.optim, plan)
        source = PairSource(train, to_scored, tokenizer.pad, plan.batch, plan.seed)
        watch = _Watch(config, learner, validation, track)
        every = [Every(plan.eval_every, watch.look)] if plan.eval_every else []
        loss = bradley_terry(config.margin, config.smoothing)
        tokens = tokens_a_step(train, plan.batch)
        with told_of_memory(plan.micro_batch or plan.batch):
            holder.fit(learner, source, loss, track, tokens, every, started=partial(save_config, config, out, "reward"))
        watch.look(learner.steps, {})
    shift = centre(scorer, references)
    about = f"{learner.steps} steps on {len(train):,} comparisons, {watch.said}scores shifted by {shift:+.4f}"
    save_scorer(out / "model", scorer, tokenizer, card("reward", config, about))
    plot_run(out)
    return scorer.eval()


def centre(scorer: Scorer, rows: Sequence[Sequence[int]]) -> float:
    """Shift the scores so that these conversations' mean is 0 (arXiv 2403.17031); returns the shift."""
    scores = score_rows(scorer, rows)
    shift = -sum(scores) / len(scores)
    with torch.no_grad():
        scorer.value.bias.add_(shift)
    return shift


def _references(config: Config, tokenizer: Tokenizer, train: Sequence[Pair]) -> list[list[int]]:
    """Ids of the conversations that score 0 on average; those of --center which are too long are left out."""
    if not config.center:
        return [ids for pair in train[:CENTRED_ON] for ids in (pair.chosen[0], pair.rejected[0])]
    found = [encode_chat(tokenizer, one.messages)[0] for one in conversations(config.center, config.strict)]
    rows = [ids for ids in found if len(ids) <= config.train.length]
    if not rows:
        raise UserError(f"--center {config.center}: every conversation is longer than {config.train.length} tokens")
    return rows


def judge(scorers: Sequence[Scorer], pairs: Sequence[Pair]) -> list[Judged]:
    """The mean scores of an ensemble (of one or more), and by how much its members' differences deviate."""
    if not pairs:
        return []
    found = torch.tensor([scores_of(scorer, pairs) for scorer in scorers])  # [members, pairs, 2]
    mean, gap = found.mean(0).tolist(), found[..., 0] - found[..., 1]
    spread = gap.std(0).tolist() if len(scorers) > 1 else [0.0] * len(pairs)
    rows = zip(pairs, mean, spread)
    return [Judged(p.comparison, both[0], both[1], dialogue_of(p.comparison), s) for p, both, s in rows]


def scores_of(scorer: Scorer, pairs: Sequence[Pair]) -> list[list[float]]:
    """[chosen, rejected] for each pair."""
    flat = score_rows(scorer, [ids for pair in pairs for ids in (pair.chosen[0], pair.rejected[0])])
    return [flat[i : i + 2] for i in range(0, len(flat), 2)]


def tell(config: Config, judged: Sequence[Judged], train: Sequence[Pair], more: dict[str, Any]) -> None:
    """The report as a table, as report.json, and its calibration as plots/reliability.png."""
    facts = report(judged, [pair.comparison for pair in train])
    print("\n".join(f"reward: {name:16} {value}" for name, value in table(facts)), flush=True)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    whole = {"trained_on": len(train), **more, "validation": facts}
    (out / "report.json").write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    plot_reliability(out / "plots" / "reliability.png", [Bin(**one) for one in facts["bins"]])


class _Watch:
    """Looks at the model now and then: accuracy and log loss on the validation comparisons, and a few of them."""

    def __init__(self, config: Config, learner: Learner, validation: Sequence[Pair], track: Track) -> None:
        self.config, self.learner, self.validation, self.track = config, learner, validation, track
        self.last, self.said = -1, ""

    def look(self, step: int, metrics: Mapping[str, float]) -> None:
        if not self.validation or self.last == step:
            return
        self.last = step
        scorer: Scorer = self.learner.model  # type: ignore[assignment]
        with self.track.aside():
            facts = report(judge([scorer], self.validation), [])
            self.said = f"validation accuracy {facts['accuracy']['value']:.3f}, "
            self.track.log(step, {"val_loss": facts["log_loss"], "val_accuracy": facts["accuracy"]["value"]})
            shown = self.validation[: self.config.show]
            self.track.sample(step, [_shown(p, *both) for p, both in zip(shown, scores_of(scorer, shown))])


def _shown(pair: Pair, chosen: float, rejected: float) -> dict[str, str]:
    one = pair.comparison
    sides = {"chosen": f"{chosen:+.2f}  {one.chosen}", "rejected": f"{rejected:+.2f}  {one.rejected}"}
    return {"prompt": one.prompt[-1].content, **sides}
