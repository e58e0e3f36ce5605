"""Word problems of the user's own file (question, and an answer that ends in "#### number", as GSM8K's): graded."""

from collections.abc import Sequence

from pronk.data.records import Conversation, Message, Prompt, Sample
from pronk.errors import UserError
from pronk.tasks.answers import grade
from pronk.tasks.task import Split


class GSM8K:
    """Grades answers to questions that a file holds; it has none of its own."""

    name = "gsm8k"

    def prompts(self, split: Split, count: int, seed: int = 0, levels: Sequence[str] = ()) -> list[Prompt]:
        raise UserError("gsm8k has no questions of its own: name your file with --prompts gsm8k-test.jsonl")

    def worked(self, prompt: Prompt) -> Conversation:
        return Conversation((*prompt.messages, Message("assistant", str(prompt.meta["answer"]))))

    def grade(self, sample: Sample) -> float:
        return grade(sample)
