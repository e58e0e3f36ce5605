"""Trains each case for three steps, on however many ranks torchrun's variables tell of, and leaves what it found.

python -m parallel.worker FOLDER: writes FOLDER/CASE-WORLD-RANK.{safetensors,json} and two checkpoints of state().
"""

import hashlib
import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from learn.toys import PLAIN, actor_critic, model, rollouts, text
from safetensors.torch import save_file

from pronk.learn import checkpoint
from pronk.learn.learner import Learner
from pronk.learn.losses import cross_entropy
from pronk.parallel.mesh import ranks
from pronk.parallel.shard import shard
from pronk.rl.kl import KLConfig
from pronk.rl.losses import clipped, clipped_with_value

CLIPPED = PLAIN.__class__(lr=2e-3, warmup=0, schedule="constant", eps=1e-5, weight_decay=0.1, clip=0.1)
TWO = {"policy.": CLIPPED, "critic.": PLAIN.__class__(lr=1e-3, warmup=1, eps=1e-5, weight_decay=0.0, clip=0.3)}
LENGTHS = (9, 8, 9, 7, 3, 2, 4, 2)  # the second rank has far fewer tokens than the first
ANSWERS = (6, 5, 6, 1, 2, 1)
PHI = {"norm": "layer", "block": "parallel", "feedforward": "gelu", "positions": "learned", "attention_bias": "all"}
PHI |= {"head_bias": True, "tied": False, "window": 4}  # all that may have a bias, and learned positions
CASES = {
    "cross-entropy-decoder": (lambda: model(), CLIPPED, lambda s: text(LENGTHS, s), cross_entropy),
    "cross-entropy-untied": (lambda: model(tied=False), CLIPPED, lambda s: text(LENGTHS, s), cross_entropy),
    "cross-entropy-lstm": (lambda: model("lstm"), CLIPPED, lambda s: text(LENGTHS, s), cross_entropy),
    "cross-entropy-phi": (lambda: model(**PHI), CLIPPED, lambda s: text(LENGTHS, s), cross_entropy),
    "grpo-decoder": (
        lambda: model(),
        CLIPPED,
        lambda s: rollouts(s, lengths=ANSWERS),
        clipped(0.8, kl=KLConfig(coef=0.1, where="loss"), aggregate="answers"),
    ),
    "ppo-decoder": (lambda: actor_critic(), TWO, lambda s: rollouts(s, lengths=ANSWERS), clipped_with_value(0.8)),
    "ppo-lstm": (lambda: actor_critic("lstm"), TWO, lambda s: rollouts(s, lengths=ANSWERS), clipped_with_value(0.8)),
}
STEPS = 3


def share(batch, rank, world):
    """This rank's rows: halves of a batch."""
    size = len(batch) // world
    return batch.map(lambda x: x[rank * size : (rank + 1) * size])


def train(case, mesh, folder):
    make, groups, batch, loss = CASES[case]
    rank, world = (mesh.get_local_rank(), mesh.size()) if mesh else (0, 1)
    module = shard(make(), mesh) if mesh else make()
    learner = Learner(module, groups, STEPS + 1, micro_batch=2, ranks=mesh.get_group() if mesh else None)
    told = [dict(learner.step(share(batch(seed), rank, world), loss)) for seed in range(STEPS)]
    tensors, plain = learner.state()
    found = {k: v.clone() for k, v in tensors.items()}
    items = int((share(batch(0), rank, world).targets != -100).sum())
    hashed = hashlib.sha256()
    for name in sorted(found):
        if not name.startswith("random."):
            hashed.update(found[name].numpy().tobytes())
    facts = {"told": told, "items": items, "hash": hashed.hexdigest()}
    save_file(found, folder / f"{case}-{world}-{rank}.safetensors")
    (folder / f"{case}-{world}-{rank}.json").write_text(json.dumps(facts))
    if rank == 0:
        checkpoint.save(folder / f"{case}-{world}", STEPS, tensors, plain)
    if mesh:
        dist.barrier()
    again(case, mesh, folder, 1)
    if world == 2:
        learner.step(share(batch(STEPS), rank, world), loss)
        whole = {k: v.clone() for k, v in learner.state()[0].items()}
        save_file(whole, folder / f"{case}-{world}-{rank}-more.safetensors")


def again(case, mesh, folder, world):
    """Take up what `world` ranks saved; one more step on these ranks."""
    make, groups, batch, loss = CASES[case]
    path = folder / f"{case}-{world}"
    if not path.exists() or not mesh:
        return
    module = shard(make(), mesh)
    learner = Learner(module, groups, STEPS + 1, micro_batch=2, ranks=mesh.get_group())
    learner.restore(*checkpoint.load(path / f"step-{STEPS}"))
    learner.step(share(batch(STEPS), mesh.get_local_rank(), mesh.size()), loss)
    whole = {k: v.clone() for k, v in learner.state()[0].items()}
    save_file(whole, folder / f"{case}-from{world}-{mesh.get_local_rank()}.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    with ranks("cpu") as mesh:
        assert (mesh is None) == (os.environ.get("WORLD_SIZE", "1") == "1")
        for case in CASES:
            train(case, mesh, Path(sys.argv[1]))
