"""`pronk pretrain --data FILES`: trains a model from scratch on text, with a tokenizer given or learned on the way."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from pronk.commands.tokenizer import VocabularyConfig, open_or_learn
from pronk.commands.training import check_length, check_numbers, open_run, show_plan, train_on_shards
from pronk.data.sources import ReadConfig, open_sources
from pronk.errors import UserError
from pronk.learn import checkpoint
from pronk.learn.build import TrainConfig, pick_device
from pronk.learn.optim import OptimConfig
from pronk.models.build import build
from pronk.models.config import ModelConfig
from pronk.models.presets import PRESETS as SIZES
from pronk.parallel.mesh import main_first, ranks
from pronk.text.tokenizer import Tokenizer

PRESETS = {"model.preset": SIZES}


@dataclass(frozen=True)
class Config:
    """Trains a model from scratch on text."""

    data: tuple[str, ...] = ()
    """files (.txt .jsonl .parquet, also .gz .zst), globs, folders of shards, or a data set id; each is one source"""
    out: str = "out/pretrain"
    """folder for the run; the model goes to its model/"""
    tokenizer: str = ""
    """tokenizer folder; none = learn one from the data"""
    sample: str = ""
    """text that samples begin with"""
    strict: bool = False
    """stop at the first unusable line instead of counting it"""
    dry_run: bool = False
    """show what would be done, and stop"""
    vocabulary: VocabularyConfig = field(default_factory=VocabularyConfig)
    read: ReadConfig = field(default_factory=ReadConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


def run(config: Config) -> None:
    check_numbers(config)
    device = pick_device(config.train.device)
    if config.dry_run:
        vocab = Tokenizer.load(config.tokenizer).size if config.tokenizer else config.vocabulary.size
        model = build(_shape(config, config.model.vocab or vocab), "meta")
        return show_plan(config, model, config.train, device)
    if not config.data:
        raise UserError("there is nothing to train on: name files with --data")
    with ranks(device.type) as mesh, open_run(config, "pretrain", mesh) as run:
        out = Path(config.out)
        with main_first(mesh):
            tokenizer = _tokenizer(config, out)
            train, validation = open_sources(
                config.data, out / "data", tokenizer, "documents", config.read, config.strict
            )
        model = build(_shape(config, tokenizer.size), device, seed=config.train.seed)
        train_on_shards(config, run, model, tokenizer, train, validation, "documents")


def _tokenizer(config: Config, out: Path) -> Tokenizer:
    """The run's own tokenizer is kept in its folder: a run that goes on must not learn another."""
    kept = out / "tokenizer"
    goes_on = config.train.resume != "never" and checkpoint.steps(out / "checkpoints")
    if not config.tokenizer and kept.exists() and goes_on:
        return Tokenizer.load(kept)
    tokenizer = open_or_learn(config.tokenizer, config.data, config.vocabulary, config.read)
    tokenizer.save(kept)
    return tokenizer


def _shape(config: Config, vocab: int) -> ModelConfig:
    check_length(config.train.length, config.model, new=True)
    if config.model.vocab and config.model.vocab < vocab:
        raise UserError(
            f"--model.vocab {config.model.vocab} is too small for the tokenizer's {vocab} tokens: leave it out, or 0"
        )
    return replace(config.model, vocab=config.model.vocab or vocab)
