"""`pronk dpo --model FOLDER --data COMPARISONS`: aligns a model with comparisons directly, without a reward model."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from pronk.commands.pairs import check, planned, read_pairs, settings, tokens_a_step
from pronk.commands.training import card, show_plan, told_of_memory
from pronk.config import save as save_config
from pronk.data.encode import encode_prompt
from pronk.data.pairs import Pair, PairSource, split_by_dialogue, to_learned
from pronk.engine.engine import Engine
from pronk.engine.sequence import Sampling
from pronk.errors import UserError
from pronk.evals.likelihood import mean_metrics
from pronk.evals.plots import plot_run
from pronk.folders.huggingface import load, save
from pronk.learn.build import TrainConfig, make_learner, pick_device
from pronk.learn.fit import Every
from pronk.learn.learner import Learner
from pronk.learn.losses import PairLoss, dpo, reference_logps
from pronk.learn.optim import OptimConfig
from pronk.learn.run import Run
from pronk.learn.track import Track
from pronk.models.heads import disable_dropout
from pronk.models.lora import LoraConfig, attach
from pronk.text.chat import end_of_turn
from pronk.text.tokenizer import Tokenizer

PATIENCE, FALL = 20, 2.0  # steps, and nats below the reference, after which a falling chosen answer is told


@dataclass(frozen=True)
class Config:
    """Aligns a model with comparisons directly: the chosen answers become likelier than the rejected ones (DPO)."""

    model: str
    """model folder to start from, one that was tuned to answer; as it stands, it is the reference, too"""
    data: tuple[str, ...] = ()
    """comparisons: TRL (explicit or implicit), Anthropic's transcripts, OpenAI's DPO rows, UltraFeedback"""
    out: str = "out/dpo"
    """folder for the run; the model goes to its model/"""
    loss: Literal["dpo", "ipo"] = "dpo"
    """dpo: the logistic loss; ipo: a squared one, which stops at a margin instead of widening it for ever"""
    beta: float = 0.1
    """how dearly distance to the reference is paid; smaller values move further away"""
    smoothing: float = 0.0
    """share of the comparisons that is taken for wrong (conservative DPO)"""
    validation: float = 0.1
    """share of the prompts that is kept for validation"""
    epochs: float = 1.0
    """passes over the comparisons; 0 = as many steps as --train.steps says"""
    show: int = 3
    """answers to note in samples.jsonl at each evaluation"""
    strict: bool = False
    """stop at the first unusable line instead of counting it"""
    dry_run: bool = False
    """show what would be done, and stop"""
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=1e-4, weight_decay=0.0, schedule="linear"))
    lora: LoraConfig = field(default_factory=LoraConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(spike=0.0, log_every=5))


def run(config: Config) -> None:
    check(config, "dpo")
    if not config.beta > 0:
        raise UserError(f"--beta {config.beta}: give a number above 0, such as 0.1")
    device, out = pick_device(config.train.device), Path(config.out)
    policy, tokenizer = load(config.model, device)
    attach(policy, config.lora, config.train.seed)
    pairs = read_pairs(config, "dpo", tokenizer, policy.config)
    if config.dry_run:
        rows = replace(
            planned(config, len(pairs)), batch=2 * config.train.batch, micro_batch=2 * config.train.micro_batch
        )
        return show_plan(config, policy, rows, device)
    train, validation = split_by_dialogue(pairs, config.validation)
    plan = planned(config, len(train))
    with Run(out, "dpo", plan, settings(config)) as holder, holder.track() as track:
        torch.manual_seed(plan.seed)
        disable_dropout(policy)
        learner = make_learner(policy, config.optim, plan)
        with told_of_memory(plan.micro_batch or plan.batch):
            sides = [_source(config, learner, side, tokenizer) for side in (train, validation)]
            loss, tokens = dpo(config.beta, config.loss, config.smoothing), tokens_a_step(train, plan.batch)
            watch = _Watch(config, learner, sides[1], loss, tokenizer, track)
            every = [Every(1, watch.hear), *([Every(plan.eval_every, watch.look)] if plan.eval_every else [])]
            started = partial(save_config, config, out, "dpo")
            holder.fit(learner, sides[0], loss, track, tokens, every, started=started)
        watch.look(learner.steps, {})
    about = card("dpo", config, f"{learner.steps} steps on {len(train):,} comparisons{watch.said}")
    save(out / "model", policy, tokenizer, {"temperature": 0.7}, about)
    plot_run(out)
    print(f"dpo: the model is in {out / 'model'}", flush=True)


def _source(config: Config, learner: Learner, pairs: Sequence[Pair], tokenizer: Tokenizer) -> PairSource:
    """The pairs with the log-probabilities that the model gives them before its first step: they are the reference's,
    so that no second model need be kept."""
    plan = config.train
    source = PairSource(pairs, to_learned, tokenizer.pad, plan.batch, plan.seed)
    source.ref_logps = reference_logps(learner.model, source.once(), learner.compute)
    return source


class _Watch:
    """Looks at the model now and then: loss and accuracy on the validation comparisons, and a few answers; and warns
    once when even the chosen answers become unlikelier (arXiv 2402.13228)."""

    def __init__(
        self,
        config: Config,
        learner: Learner,
        validation: PairSource,
        loss: PairLoss,
        tokenizer: Tokenizer,
        track: Track,
    ) -> None:
        self.config, self.learner, self.validation, self.loss = config, learner, validation, loss
        self.tokenizer, self.track = tokenizer, track
        self.changes: deque[float] = deque(maxlen=PATIENCE)
        self.waiting: Mapping[str, float] | None = None  # of the last step
        self.warned, self.last, self.said = False, -1, ""

    def hear(self, step: int, metrics: Mapping[str, float]) -> None:
        """Look at the step before: the device need not wait for this one."""
        before, self.waiting = self.waiting, metrics
        if before is None:
            return
        self.changes.append(before["chosen_change"])
        mean = sum(self.changes) / len(self.changes)
        if not self.warned and len(self.changes) == PATIENCE and mean < -FALL:
            self.warned = True
            print(
                f"dpo: the chosen answers have become unlikelier than they were under the reference, by {-mean:.1f} "
                f"nats (mean of steps {step - PATIENCE} to {step - 1}), the rejected ones more so: the model learns "
                "what to avoid rather than what to say. Lower --optim.lr or --epochs, raise --beta, or tune on the "
                "chosen answers first (pronk sft)",
                flush=True,
            )

    def look(self, step: int, metrics: Mapping[str, float]) -> None:
        if not self.validation.pairs or self.last == step:
            return
        self.last = step
        with self.track.aside():
            found = mean_metrics(self.learner.model, self.validation.once(), self.loss, self.learner.compute)
            self.said = f", validation accuracy {found['accuracy']:.3f}"
            self.track.log(step, {f"val_{name}": value for name, value in found.items()})
            self.track.sample(step, self._answers())

    def _answers(self) -> list[dict[str, str]]:
        """What the model answers to a few of the validation prompts."""
        asked = [pair.comparison.prompt for pair in self.validation.pairs[: self.config.show]]
        engine = Engine(self.learner.model, self.tokenizer.decode)
        ids = [encode_prompt(self.tokenizer, prompt) for prompt in asked]
        fitting = [(p, row) for p, row in zip(asked, ids) if len(row) < engine.context]
        longest = min([200, *(engine.context - len(row) for _, row in fitting)])
        stop = (end_of_turn(self.tokenizer),)
        done = engine.generate([row for _, row in fitting], Sampling(longest, 0.7, stop=stop, seed=0))
        return [{"prompt": p[-1].content, "text": one.text or ""} for (p, _), one in zip(fitting, done)]
