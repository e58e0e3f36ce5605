"""Writes losses.json anew: `python tests/golden/refresh.py`, when a change is meant to change the numbers.

The corpus beside it stays as it is, so that the world's stories may change without a trace here; delete its .jsonl
files to have them written anew as well. Say in the commit why they moved.
"""

import json
import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")


def write_corpus(folder):
    from pronk.world.tell import OPEN_PROMPTS, requests, stories

    asked = list(requests(60, 1))
    corpus = {
        "stories": [{"text": story.text} for story in stories(60, 0)],
        "requests": [
            {"messages": [{"role": "user", "content": r.prompt}, {"role": "assistant", "content": r.story.text}]}
            for r in asked
        ],
        "comparisons": [compared(r.prompt, r.story.text, i) for i, r in enumerate(asked)],
        "prompts": [{"prompt": prompt} for prompt in OPEN_PROMPTS[:6]],
    }
    for name, rows in corpus.items():
        path = folder / f"{name}.jsonl"
        if not path.exists():
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def compared(prompt, story, number):
    """The beginning of a story against the same words in reverse; every seventh is a tie."""
    words = story.split()[:16]
    strength = number % 7 and 1 + number % 4
    return {"prompt": prompt, "chosen": " ".join(words), "rejected": " ".join(words[::-1]), "strength": strength}


def refresh():
    import runs

    write_corpus(runs.HERE)
    with tempfile.TemporaryDirectory() as out:
        found = runs.measured(Path(out))
    lines = {
        name: {metric: [float(f"{value:.7g}") for value in values] for metric, values in series.items()}
        for name, series in found.items()
    }
    runs.KEPT.write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")
    print(f"written to {runs.KEPT}")


if __name__ == "__main__":
    refresh()
