"""`pronk rl --model FOLDER --prompts FILE --reward WORDS`: aligns a model with a reward (REINFORCE, GRPO, PPO, ...)."""

import copy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from pronk.commands.asking import read_asked
from pronk.commands.rounds import Watch, plot_gold
from pronk.commands.scoring import rewards
from pronk.commands.training import card, check_numbers, digest, show_plan, told_of_memory
from pronk.config import save
from pronk.data.encode import encode_prompt
from pronk.data.files import expand
from pronk.data.records import Prompt
from pronk.engine.engine import Engine
from pronk.errors import UserError
from pronk.evals.plots import plot_run
from pronk.folders import huggingface
from pronk.folders.swap import standing
from pronk.learn.build import TrainConfig, make_learner, pick_device
from pronk.learn.fit import Every
from pronk.learn.learner import Learner
from pronk.learn.optim import OptimConfig
from pronk.learn.run import Run, flat
from pronk.models.build import Model, build, compile_blocks, count
from pronk.models.config import ModelConfig
from pronk.models.heads import ActorCritic, Scorer, disable_dropout
from pronk.models.lora import Base, LoraConfig, adapted, attach, twin
from pronk.models.presets import PRESETS as SIZES
from pronk.parallel.mesh import ranks
from pronk.rl.algorithms import ALGORITHMS, AlgorithmConfig
from pronk.rl.kl import KLConfig
from pronk.rl.rollouts import RolloutConfig, RolloutSource
from pronk.rl.share import Share
from pronk.text.chat import end_of_turn
from pronk.text.tokenizer import Tokenizer

PRESETS = {"critic_model.preset": SIZES}
FREE = (
    *("out", "dry_run", "show", "strict", "train.resume", "train.keep"),
    *("train.log_every", "train.save_every", "train.device"),
)


@dataclass(frozen=True)
class Config:
    """Aligns a model with a reward: it samples answers, scores them, and makes the better ones likelier."""

    model: str
    """model folder to start from; its frozen copy is the reference that KL is measured to"""
    prompts: str
    """file of prompts (.jsonl with prompt or messages, .txt with one a line); other keys reach the reward as meta"""
    out: str = "out/rl"
    """folder for the run; the model goes to its model/"""
    reward: tuple[str, ...] = ("subject",)
    """added up: subject, well-formed, utility, similarity (needs [embed]), task:arithmetic or task:gsm8k
    (right answers, by the prompts' "answer"), my_rewards.py:function; 0.4*name gives a weight"""
    reward_text: str = "cat"
    """what subject and similarity look for"""
    gold: tuple[str, ...] = ()
    """rewards that are only watched and never learned from: falling ones tell that the reward is being hacked"""
    algorithm: Literal["reinforce", "rloo", "grpo", "dr-grpo", "dapo", "ppo"] = "reinforce"
    critic: Literal["copy", "new", "shared"] = "copy"
    """ppo: a copy of the policy, a new model of --critic-model's shape, or a head on the policy's own body"""
    freeze: tuple[str, ...] = ()
    """parts that are not trained, by the beginning of their names, such as embed"""
    chat: bool = True
    """ask as a user, through the chat template; --no-chat continues the prompts as they stand"""
    show: int = 3
    """samples to note in samples.jsonl every ten rounds"""
    strict: bool = False
    """stop at the first unusable line instead of counting it"""
    dry_run: bool = False
    """show what would be done, and stop"""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    rl: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    kl: KLConfig = field(default_factory=KLConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=3e-4, warmup=5, weight_decay=0.0, schedule="linear")
    )
    critic_model: ModelConfig = field(default_factory=ModelConfig)
    critic_optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=1e-3, warmup=5, weight_decay=0.0))
    train: TrainConfig = field(default_factory=lambda: TrainConfig(steps=100, spike=0.0, log_every=1, save_every=50))


def run(config: Config) -> None:
    check_numbers(config)
    device = pick_device(config.train.device)
    if config.dry_run:
        return show(whole_rounds(config), device)
    with ranks(device.type) as mesh:
        if mesh is not None and config.lora.rank:
            raise UserError("--lora.rank: adapters train in one process for now; start it without torchrun")
        align(config, device, mesh)


def show(config: Config, device: torch.device) -> None:
    policy, tokenizer = huggingface.load(config.model, device)
    attach(policy, config.lora, config.train.seed)
    longest = max(map(len, read(config, policy, tokenizer)[1]))
    rows = config.rollout.minibatch or config.rollout.prompts * config.rollout.n
    shape = replace(config.train, batch=rows, length=longest + config.rollout.max_tokens)
    copies, beside = 1 if config.kl.coef and not config.lora.rank else 0, critic_parameters(config, policy)
    show_plan(config, policy, shape, device, copies, beside)


def align(asked: Config, device: torch.device, mesh: DeviceMesh | None) -> None:
    config, out = whole_rounds(asked), Path(asked.out)
    policy, tokenizer = huggingface.load(config.model, device)
    attach(policy, config.lora, config.train.seed)
    prompts, asked_ids = read(config, policy, tokenizer)
    ids = {id(prompt): one for prompt, one in zip(prompts, asked_ids)}
    with Run(out, "rl", config.train, settings(asked), mesh) as holder, holder.track() as track:
        torch.manual_seed(config.train.seed)
        whole, learner = prepare(config, policy, mesh)
        watch, algorithm = Watch(out, learner, track, config.show), ALGORITHMS[config.algorithm]
        refresh = partial(copy_weights, learner.model, whole)
        source = RolloutSource(
            _engine(config, policy, tokenizer, learner.precision == "bf16"),
            policy,
            prompts,
            lambda prompt: ids[id(prompt)],  # a chat template takes long to write them again in every epoch
            end_of_turn(tokenizer) if config.chat else tokenizer.eos,
            rewards(config.reward, config.reward_text, learner.compute, device),
            algorithm,
            config.rollout,
            config.rl,
            config.kl,
            _reference(policy, bool(config.train.compile)) if config.kl.coef else None,
            _critic(whole),
            config.train.seed,
            watch.hear,
            learner.compute,
            rewards(config.gold, config.reward_text, learner.compute, device) if config.gold else None,
            Share(learner.ranks),
            refresh,
        )
        loss = algorithm.loss(config.rollout.temperature, config.rl, config.kl, config.rollout.max_tokens)
        step = Every(1, lambda number, metrics: watch.step(metrics, source.border))
        started = partial(begin, asked, out, watch)
        rows = config.train.micro_batch or config.rollout.minibatch or config.rollout.prompts * config.rollout.n
        with told_of_memory(rows):
            holder.fit(learner, source, loss, track, 0, [step], lambda: watch.statistics, started)
        refresh()
    if holder.main:
        about = card("rl", config, f"{learner.steps} steps")
        huggingface.save(out / "model", policy, tokenizer, {"temperature": 0.7}, about)
        plot_run(out)
        plot_gold(out)
        print(f"rl: the model is in {out / 'model'}", flush=True)


def _engine(config: Config, policy: Model, tokenizer: Tokenizer, low: bool) -> Engine:
    slots = config.rollout.prompts * config.rollout.n
    return Engine(policy, tokenizer.decode, slots=slots, dtype=torch.bfloat16 if low else None)


def begin(config: Config, out: Path, watch: Watch) -> None:
    """Once the settings were found to fit the folder; on the main rank alone."""
    save(config, out, "rl")
    watch.start()


def whole_rounds(config: Config) -> Config:
    """Steps rounded up to whole rounds, since a round that was sampled is learned from."""
    rows, algorithm = config.rollout.prompts * config.rollout.n, ALGORITHMS[config.algorithm]
    each = (config.rl.epochs or algorithm.epochs) * -(-rows // (config.rollout.minibatch or rows))
    return replace(config, train=replace(config.train, steps=-(-config.train.steps // each) * each))


def encode(config: Config, tokenizer: Tokenizer, prompt: Prompt) -> list[int]:
    """A prompt's ids: through the chat template, or the bare text after the token that begins a text."""
    if config.chat:
        return encode_prompt(tokenizer, prompt.messages)
    return [tokenizer.bos, *tokenizer.encode("".join(message.content for message in prompt.messages))]


def settings(config: Config) -> dict[str, Any]:
    """What decides the run's numbers: a run that goes on must have the same."""
    weights = sorted(standing(Path(config.model)).glob("*.safetensors"))
    asked = [path for path in map(Path, expand(config.prompts)) if path.exists()]
    return flat(config, FREE) | {"weights of --model": digest(*weights), "contents of --prompts": digest(*asked)}


def read(config: Config, policy: Model, tokenizer: Tokenizer) -> tuple[list[Prompt], list[list[int]]]:
    """The prompts, each with room for an answer, and their ids."""
    found = read_asked("rl", config.prompts, config.strict)
    ids = [encode(config, tokenizer, prompt) for prompt in found]
    longest = max(map(len, ids))
    if longest + config.rollout.max_tokens > policy.config.context:
        room = policy.config.context - longest
        raise UserError(
            f"the longest prompt has {longest} tokens, and with --rollout.max-tokens {config.rollout.max_tokens} it "
            f"leaves the model's context of {policy.config.context}: "
            + (f"set --rollout.max-tokens {room}" if room > 0 else "shorten the prompts")
        )
    return found, ids


def prepare(config: Config, policy: Model, mesh: DeviceMesh | None = None) -> tuple[nn.Module, Learner]:
    """The policy, with a critic where the algorithm has one, and its learner; dropout off for good.

    Over ranks the learner shards a copy; the whole policy and critic sample and judge, kept up by `copy_weights`.
    """
    disable_dropout(policy)
    for prefix in config.freeze:
        chosen = [p for name, p in policy.named_parameters() if name.startswith(prefix)]
        if not chosen:
            raise UserError(f"--freeze {prefix}: no part of the model begins so; the parts are {_parts(policy)}")
        for parameter in chosen:
            parameter.requires_grad_(False)
    critic = ALGORITHMS[config.algorithm].critic
    whole = _with_critic(config, policy).to(next(policy.parameters()).device) if critic else policy
    groups = {"policy.": config.optim, "critic.": config.critic_optim} if critic else config.optim
    trained = copy.deepcopy(whole) if mesh is not None else whole
    return whole, make_learner(trained, groups, config.train, mesh)


@torch.no_grad()
def copy_weights(sharded: nn.Module, whole: nn.Module) -> None:
    """Called by all ranks: each gets the whole weights. Nothing to do where both are one."""
    for ours, theirs in zip(whole.parameters(), sharded.parameters() if sharded is not whole else ()):
        ours.copy_(theirs.full_tensor() if isinstance(theirs, DTensor) else theirs)


def _with_critic(config: Config, policy: Model) -> ActorCritic:
    if config.critic == "shared":
        return ActorCritic(policy, width=policy.config.width)
    if config.critic == "copy":
        body = twin(policy) if adapted(policy) else copy.deepcopy(policy).requires_grad_(True)
        return ActorCritic(policy, Scorer(body, policy.config.width))
    shape = replace(config.critic_model, vocab=policy.config.vocab, context=policy.config.context)
    return ActorCritic(policy, Scorer(build(shape), shape.width))


def critic_parameters(config: Config, policy: Model) -> int:
    """How many a critic would add."""
    if not ALGORITHMS[config.algorithm].critic:
        return 0
    if config.critic == "new":
        shape = replace(config.critic_model, vocab=policy.config.vocab, context=policy.config.context)
        return count(build(shape, "meta")) + shape.width + 1
    return policy.config.width + 1 + (count(policy) if config.critic == "copy" else 0)


def _critic(trained: nn.Module) -> nn.Module | None:
    """What gives values: the critic alone, or the whole where it is a head on the policy's body."""
    if not isinstance(trained, ActorCritic):
        return None
    return trained.critic if isinstance(trained.critic, Scorer) else trained


def _reference(policy: Model, compiled: bool) -> nn.Module:
    """The policy as it is now, for good; with adapters, which do nothing yet, no copy is needed."""
    if adapted(policy):
        return Base(policy)
    frozen = copy.deepcopy(policy).eval().requires_grad_(False)  # a copy leaves what was compiled behind
    if compiled:
        compile_blocks(frozen)
    return frozen


def _parts(policy: nn.Module) -> str:
    return ", ".join(sorted({name.split(".")[0] for name, _ in policy.named_parameters()}))
