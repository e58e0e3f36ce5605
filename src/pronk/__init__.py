"""pronk raises a small language model from scratch and aligns it with human feedback; names come on first use."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pronk.engine.engine import Engine
    from pronk.engine.sequence import Sampling
    from pronk.folders.huggingface import load
    from pronk.learn.fit import fit
    from pronk.learn.learner import Learner
    from pronk.models.logps import logits

_PLACES = {
    "load": "pronk.folders.huggingface",
    "logits": "pronk.models.logps",
    "Engine": "pronk.engine.engine",
    "Sampling": "pronk.engine.sequence",
    "Learner": "pronk.learn.learner",
    "fit": "pronk.learn.fit",
}
__all__ = ["Engine", "Learner", "Sampling", "fit", "load", "logits"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'pronk' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PLACES[name]), name)
