"""Import this before any kernel: without a GPU, triton's interpreter runs them on the CPU."""

import os

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels are imported
pytest.importorskip("triton")

if DEVICE == "cpu":
    from triton.runtime import interpreter

    _patch = interpreter._patch_lang_tensor

    def _patched(tensor, *scope):
        """numpy 2.4 no longer makes a number of an array of one element by itself. scope: from triton 3.6 on."""
        _patch(tensor, *scope)
        tensor.__index__ = lambda self: int(self.handle.data.item())

    interpreter._patch_lang_tensor = _patched
    import triton.runtime.jit as compiling

    _normalize = compiling._normalize_ty
    compiling._normalize_ty = lambda kind: _normalize(kind.strip("'") if isinstance(kind, str) else kind)  # "constexpr"
