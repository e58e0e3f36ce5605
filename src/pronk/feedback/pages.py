"""Makes the guidelines page out of Markdown; the other pages are files."""

from html import escape
from pathlib import Path

NONE = "*There are no guidelines yet: whoever runs this page names a Markdown file with `--guidelines`.*"
DEFAULT = """\
# How to compare

You see what was asked and two answers. Say which answer is **better for the person who asked**, and by how much.

1. **Does it do what was asked?** An answer that ignores the question loses, however well it is written.
2. **Is it right, and does it hold together?** Facts that are wrong, or a story that forgets its own beginning,
   weigh more than style.
3. **Is it clear and pleasant to read?** Prefer plain words, and nothing repeated. Longer is not better.
4. **Is it harmless?** Flag what is cruel, dangerous or private.

How much better? *Barely* if you would not argue about it, *much* if nobody could see it otherwise. Choose *tie* if
both are as good, and *both bad* if neither helps. If you cannot judge, skip: a skip is worth more than a guess.

If you know how the better answer ought to read, edit it. Your version is kept as an example to learn from.
"""


def guidelines_page(folder: Path, version: int, text: str) -> str:
    """The page around the text; HTML within the Markdown shows as it stands."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text or NONE)
    page = (folder / "guidelines.html").read_text(encoding="utf-8")
    return page.replace("{{version}}", escape(str(version))).replace("{{guidelines}}", body)
