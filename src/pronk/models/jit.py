"""triton.jit and triton's language, or stand-ins where triton is missing: importing a kernel file never fails."""

import os
from collections.abc import Callable
from typing import Any, TypeAlias

try:
    import triton
    import triton.language as tl

    found = True
except ImportError:
    triton = tl = None
    found = False

EARLY = found and os.environ.get("TRITON_INTERPRET") != "1"
constexpr: TypeAlias = Any  # annotation of a kernel's argument that is fixed when it is compiled


def jit(kernel: Callable[..., Any]) -> Any:
    """triton.jit; kernels are only called where triton was found."""
    return triton.jit(kernel) if found else kernel


@jit
def begin() -> None:
    """Let the next kernel start; its weights may come in while this one works."""
    tl.extra.cuda.gdc_launch_dependents()


@jit
def wait() -> None:
    """What the kernels before wrote can be read from here on, and what they read be written."""
    tl.extra.cuda.gdc_wait()


@jit
def fetch(places: "Any") -> None:
    """Bring what lies at these pointers into the GPU's L2 cache, and go on."""
    tl.inline_asm_elementwise("prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [places], tl.int32, False, 1)


def early(rows: int, chained: bool = False) -> bool:
    """Whether a kernel may start while the one before it ends (programmatic dependent launch): a tenth for one row,
    whose kernels are short. Up to 64 gain where all kernels around are `chained`, ours and narrow, and let the next one
    in after their loops; they lose beside the library's, since what waits takes room from what works (LOG.md)."""
    return EARLY and (rows == 1 or (chained and rows <= 64))


def ceil(number: int, size: int) -> int:
    """How many pieces of `size` cover `number`."""
    return -(-number // size)


def power(number: int, least: int = 16) -> int:
    """The next power of two: sizes of blocks."""
    return max(least, 1 << (number - 1).bit_length())


__all__ = ["begin", "ceil", "constexpr", "early", "fetch", "found", "jit", "power", "tl", "wait"]
