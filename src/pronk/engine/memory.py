"""How many rows the memory for their state allows; knows no family, it measures a state of one row."""

import torch
from torch import Tensor

from pronk.engine.quick import Runs
from pronk.errors import UserError
from pronk.models.state import State

SHARE = 0.9  # of the free memory of a GPU; the rest is for steps and prompts on their way


def affordable(model: Runs, slots: int, length: int, budget: float | None) -> int:
    """How many of `slots` rows of `length` tokens, and a spare one, fit into budget GiB; None = the GPU's free memory.

    Raises UserError where not even one does.
    """
    one = size(model.new_state(1, length))
    device = model.head.weight.device
    if budget is None and device.type != "cuda":
        return slots
    room = budget * 2**30 if budget is not None else SHARE * free(device)
    fit = int(room // one) - 1
    if fit < 1:
        raise UserError(
            f"the state of a row of {length:,} tokens and a spare one takes {2 * one / 2**30:.2f} GiB, but there is "
            f"room for {room / 2**30:.2f}: ask for fewer tokens, give the engine a shorter context or more memory"
        )
    return min(slots, fit)


def free(device: torch.device) -> int:
    """Bytes of a GPU that nobody uses, with those that torch keeps for later."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    unused: int = torch.cuda.mem_get_info(device)[0]
    return unused + kept


def size(state: State) -> int:
    """Bytes of the memory behind a state's tensors, each once: some are views of others."""
    found: dict[int, int] = {}

    def visit(part: object) -> None:
        if isinstance(part, Tensor):
            found[part.untyped_storage().data_ptr()] = part.untyped_storage().nbytes()
        elif isinstance(part, dict):
            visit(list(part.values()))
        elif isinstance(part, list | tuple):
            for one in part:
                visit(one)

    visit(list(vars(state).values()))
    return sum(found.values())
