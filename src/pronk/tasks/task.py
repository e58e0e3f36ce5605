"""What a task is: prompts and a grade, the same object for evaluation, training data and rewards."""

from collections.abc import Sequence
from typing import Literal, Protocol

from pronk.data.records import Conversation, Prompt, Sample

Split = Literal["train", "test"]


class Task(Protocol):
    """Problems whose answers can be checked."""

    @property
    def name(self) -> str: ...

    def prompts(self, split: Split, count: int, seed: int = 0, levels: Sequence[str] = ()) -> list[Prompt]:
        """Different problems; the same seed gives the same ones, and no problem is in both splits."""
        ...

    def worked(self, prompt: Prompt) -> Conversation:
        """The prompt with a right answer, to learn from."""
        ...

    def grade(self, sample: Sample) -> float:
        """From 0 (wrong) to 1 (right), by the prompt's meta alone."""
        ...
