"""`pronk sft --model FOLDER --data FILES`: teaches a pretrained model to answer, from conversations."""

from dataclasses import dataclass, field
from pathlib import Path

from pronk.commands.training import check_length, check_numbers, open_run, show_plan, train_on_shards
from pronk.data.sources import ReadConfig, open_sources
from pronk.errors import UserError
from pronk.folders.huggingface import load
from pronk.learn.build import TrainConfig, pick_device
from pronk.learn.optim import OptimConfig
from pronk.models.lora import LoraConfig, attach
from pronk.parallel.mesh import main_first, ranks


@dataclass(frozen=True)
class Config:
    """Teaches a model to answer: only the assistant's words are learned."""

    model: str
    """model folder to start from"""
    data: tuple[str, ...] = ()
    """conversations: messages, ShareGPT, Alpaca, prompt and completion, question and answer"""
    out: str = "out/sft"
    """folder for the run; the model goes to its model/"""
    sample: str = ""
    """what samples answer"""
    strict: bool = False
    """stop at the first unusable line instead of counting it"""
    dry_run: bool = False
    """show what would be done, and stop"""
    read: ReadConfig = field(default_factory=ReadConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=1e-3, weight_decay=0.0))
    lora: LoraConfig = field(default_factory=LoraConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


def run(config: Config) -> None:
    check_numbers(config)
    device = pick_device(config.train.device)
    if config.dry_run:
        model, _ = load(config.model)
        attach(model, config.lora)
        check_length(config.train.length, model.config)
        return show_plan(config, model, config.train, device)
    if not config.data:
        raise UserError("there is nothing to learn from: name conversations with --data")
    with ranks(device.type) as mesh, open_run(config, "sft", mesh, config.model) as run:
        if config.lora.rank and mesh is not None:
            raise UserError("--lora.rank: adapters train in one process for now: start it without torchrun")
        model, tokenizer = load(config.model, device)
        attach(model, config.lora, config.train.seed)
        check_length(config.train.length, model.config)
        with main_first(mesh):
            place = Path(config.out) / "data"
            train, validation = open_sources(config.data, place, tokenizer, "conversations", config.read, config.strict)
        train_on_shards(config, run, model, tokenizer, train, validation, "conversations")
