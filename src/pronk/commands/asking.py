"""The prompts of a file, for the commands that sample answers to them: what could not be used is told."""

from pronk.data.files import Skipped
from pronk.data.read import prompts
from pronk.data.records import Prompt


def read_asked(name: str, file: str, strict: bool) -> list[Prompt]:
    """All prompts of --prompts. name: of the command, which tells what it skipped; strict: that is a UserError."""
    skipped = Skipped(strict)
    found = list(prompts(file, skipped=skipped))
    for line in skipped.report():
        print(f"{name}: skipped {line}", flush=True)
    return found
