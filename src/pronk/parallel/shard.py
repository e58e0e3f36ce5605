"""Fully sharded data parallelism: each rank keeps a slice of every parameter (FSDP2)."""

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard


def shard(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Shard a model in place over the mesh, a group of parameters for each block and one for the rest.

    The rest (embedding, final norm, heads) stays gathered between forward and backward, since the losses read the
    head's weight outside of any forward.
    """
    for module in model.modules():
        blocks = getattr(module, "blocks", None)
        if isinstance(blocks, nn.ModuleList):
            for block in blocks:
                fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    return model
