"""Process groups under torchrun: who am I, how many are we."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh


@contextmanager
def ranks(device: str) -> Iterator[DeviceMesh | None]:
    """A one-dimensional mesh over all processes started by torchrun; None for a process of its own.

    The store is prefixed by the restart count: with gloo, ranks of a restarted job otherwise read the addresses of
    the dead attempt (torch 2.13).
    """
    if "RANK" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        yield None
        return
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    agent_has_store = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = TCPStore(host, port, world, is_master=rank == 0 and not agent_has_store)
    prefixed = PrefixStore("try" + os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device == "cuda" else "gloo", store=prefixed, rank=rank, world_size=world)
    try:
        yield init_device_mesh(device, (world,), mesh_dim_names=("data",))
    finally:
        dist.destroy_process_group()


@contextmanager
def main_first(mesh: DeviceMesh | None) -> Iterator[None]:
    """Rank 0 runs the body first, the others after it: they find what it made."""
    if mesh is not None and mesh.get_rank() != 0:
        dist.barrier()
    yield
    if mesh is not None and mesh.get_rank() == 0:
        dist.barrier()
