"""Seconds of a GRPO step beside trl's on the same shapes, in turns of one process each way; and of our PPO step.

Usage: python bench/rl.py [--gpu [--no-compile]] [--no-trl] [--steps N]
CPU: Llama 1.1M, 64 answers of 64 tokens to 8 prompts of 16, float32. --gpu: Llama 134M, 64 of 128 to 8 prompts of 32,
bfloat16, blocks compiled (the shape of ../shared/bench/peers_trl_grpo.py). KL to a reference, no answer ends before its
limit, one optimizer step a round. PPO: a critic of the policy's size, 2 epochs of 4 minibatches; its seconds are of one
round.
A step is everything from the prompt to the moved weights: sampling, reward, reference, loss, update.
"""

import argparse
import copy
import json
import os
import statistics
import sys
import tempfile
import time

import torch
from train_peers import llama

from pronk.data.records import Message, Prompt
from pronk.engine.engine import Engine
from pronk.learn.learner import Learner
from pronk.learn.optim import OptimConfig
from pronk.models.build import build, compile_blocks, count
from pronk.models.config import ModelConfig
from pronk.models.heads import ActorCritic, Scorer
from pronk.rl.algorithms import ALGORITHMS, AlgorithmConfig
from pronk.rl.kl import KLConfig
from pronk.rl.rewards import each
from pronk.rl.rollouts import RolloutConfig, RolloutSource

CPU = {"vocab": 1024, "width": 128, "layers": 4, "heads": 4, "prompt": 16, "new": 64}
GPU = {"vocab": 32000, "width": 768, "layers": 12, "heads": 12, "prompt": 32, "new": 128}
PROMPTS, N, BETA, NEVER = 8, 8, 0.05, -1
WARM = 5  # rounds that are not counted


def ids_of(index, shape):
    return [3 + (index * 7 + j) % (shape["vocab"] - 1000) for j in range(shape["prompt"])]


def model_of(shape):
    config = ModelConfig(
        **{k: shape[k] for k in ("vocab", "width", "layers", "heads")}, context=1024, multiple_of=64, tied=False
    )
    return build(config, shape["device"], seed=0)


def pronk(shape, algorithm, steps):
    """Seconds of each round after the warm ones."""
    gpu, ppo, low = shape["device"] == "cuda", algorithm == "ppo", shape["precision"] == "bf16"
    if gpu:
        torch.set_float32_matmul_precision("high")
    policy = model_of(shape)
    reference = copy.deepcopy(policy).requires_grad_(False)
    trained = ActorCritic(policy, Scorer(copy.deepcopy(policy), shape["width"]).to(shape["device"])) if ppo else policy
    if gpu and shape["compile"]:
        compile_blocks(trained)
        compile_blocks(reference)
    optim = OptimConfig(lr=1e-6, warmup=0, weight_decay=0.0)
    groups = {"policy.": optim, "critic.": optim} if ppo else optim
    learner = Learner(trained, groups, 10**6, precision=shape["precision"], graphs=gpu)
    rows = PROMPTS * N
    source = RolloutSource(
        Engine(policy, slots=rows, dtype=torch.bfloat16 if low else None),
        policy,
        [Prompt((Message("user", str(i)),), {"ids": ids_of(i, shape)}) for i in range(4096)],
        lambda prompt: prompt.meta["ids"],
        NEVER,
        {"different": (1.0, each(lambda sample: len(set(sample.ids)) / shape["new"]))},
        ALGORITHMS[algorithm],
        RolloutConfig(PROMPTS, N, shape["new"], minibatch=rows // 4 if ppo else 0),
        AlgorithmConfig(epochs=2 if ppo else 1),
        KLConfig(coef=BETA),
        reference,
        trained.critic if ppo else None,
        compute=learner.compute,
    )
    loss = source.algorithm.loss(1.0, source.settings, source.kl, shape["new"])
    batches, times = iter(source), []
    for _ in range(WARM + steps):
        started = time.perf_counter()
        for _ in range(source.steps()):
            source.tell(learner.step(next(batches), loss))
        if gpu:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return times[WARM:]


def trl(shape, steps):
    """The same with trl's trainer and transformers' generation."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "WANDB_DISABLED": "true"}
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    gpu, ends = shape["device"] == "cuda", []

    class Clock(TrainerCallback):
        def on_step_end(self, *rest, **more):
            if gpu:
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

    words = {"<pad>": 0, "<eos>": 1, "<unk>": 2, **{f"w{i}": i for i in range(3, shape["vocab"])}}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, padding_side="left", **special)
    model = llama(model_of(shape).config, pad_token_id=0, eos_token_id=1, bos_token_id=1)
    model.generation_config.eos_token_id = None
    asked = [{"prompt": " ".join(f"w{i}" for i in ids_of(place, shape))} for place in range(4096)]
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(f"{folder}/model")
        tokenizer.save_pretrained(f"{folder}/model")
        settings = GRPOConfig(
            output_dir=f"{folder}/out",
            per_device_train_batch_size=PROMPTS * N,
            num_generations=N,
            max_completion_length=shape["new"],
            max_steps=WARM + steps,
            beta=BETA,
            learning_rate=1e-6,
            logging_steps=100,
            report_to=[],
            save_strategy="no",
            bf16=shape["precision"] == "bf16",
            use_cpu=not gpu,
            temperature=1.0,
            use_vllm=False,
            disable_tqdm=True,
        )
        GRPOTrainer(
            model=f"{folder}/model",
            reward_funcs=lambda completions, **more: [len(set(text.split())) / shape["new"] for text in completions],
            args=settings,
            train_dataset=Dataset.from_list(asked),
            processing_class=tokenizer,
            callbacks=[Clock()],
        ).train()
    return [after - before for before, after in zip(ends[WARM - 1 :], ends[WARM:])]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="of both; none: fp32 on a CPU, bf16 on a GPU")
    parser.add_argument("--no-trl", action="store_true")
    parser.add_argument("--no-compile", action="store_true", help="--gpu: leave pronk's blocks eager")
    parser.add_argument("--steps", type=int, default=10)
    words = parser.parse_args()
    precision = words.precision or ("bf16" if words.gpu else "fp32")
    shape = {**(GPU if words.gpu else CPU), "device": "cuda" if words.gpu else "cpu", "precision": precision}
    shape["compile"] = not words.no_compile
    where = torch.cuda.get_device_name() if words.gpu else f"{torch.get_num_threads()} threads"
    answers = f"{PROMPTS * N} answers of {shape['new']} tokens"
    print(f"{count(model_of(shape)):,} parameters, {precision}, {answers}, {where}", flush=True)
    found = {f"pronk {name}": pronk(shape, name, words.steps) for name in ("grpo", "ppo")}
    if not words.no_trl:
        found["trl grpo"] = trl(shape, words.steps)
    for name, times in found.items():
        middle, speed = statistics.median(times), PROMPTS * N * shape["new"] / statistics.median(times)
        print(f"{name:11} {middle:.4f} s a step (fastest {min(times):.4f}), {speed:,.0f} sampled tokens/s")
    middles = {name: statistics.median(times) for name, times in found.items()}
    if "trl grpo" in middles:
        print(f"trl / pronk {middles['trl grpo'] / middles['pronk grpo']:.1f}")
    print(json.dumps({"torch": torch.__version__, "device": where, "seconds": middles}), file=sys.stderr)


if __name__ == "__main__":
    main()
