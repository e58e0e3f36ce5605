"""A corpus, texts that are hard to keep, and messages for the tests of this folder."""

import random
from functools import cache
from typing import NamedTuple

from pronk.text import bpe
from pronk.text.tokenizer import Tokenizer

SYLLABLES = ["ba", "ren", "sto", "ling", " ", " the", " Lu", "ka", "mo", "tri", ". ", " go", "ing"]
KINDS = ("bytelevel", "bytefallback", "unigram", "char")
CORPUS = [
    'Once upon a time there was a brave frog. The frog found a key!\n\nIt said, "I\'ll open the 3 doors."',
    "One day, a little girl named Lily went to the park. She saw a red ball and 25 birds.",
    "def f(x):\n    return x + 1  # naïve café\n\t<|end|> <0x41> is only text",
] * 20 + ["".join(random.Random(i).choices(SYLLABLES, k=300)) for i in range(20)]

SCRIPTS = {
    "latin": "Größe, façade, Ærø, İstanbul ıssız, ﬁ",
    "greek": "Ο γάτος είναι γενναίος.",
    "cyrillic": "Жил-был храбрый лягушонок ёж",
    "arabic": "كان يا ما كان، في قديم الزمان",
    "hebrew": "הָיֹה הָיָה פעם",
    "devanagari": "एक समय की बात है, क्षत्रिय",
    "thai": "กาลครั้งหนึ่งนานมาแล้ว",
    "chinese": "从前有一只勇敢的青蛙。𠮷",
    "japanese": "むかしむかし、カエルがいました。がぎぐ",
    "korean": "옛날 옛적에 용감한 개구리",
    "georgian": "იყო და არა იყო რა",
}
HARD = {
    "nothing": "",
    "spaces": "  two  leading,   three   inside, trailing  ",
    "lines": "\n\n\na\r\n\r\nb\n \n\t\tc\x0b\x0c\u2028\u2029\u00a0\u3000d\n",
    "emoji": "👨‍👩‍👧‍👦 🏳️‍🌈 👍🏾 ☃️ 😀",
    "control": "\x00\x01\x07\x1b[31m\x7f\x80\x9f\ufeff\u200b\u202e",
    "combining": "é é Å Å z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢",
    "noncharacters": "\ufdd0\ufffe\uffff\U0010ffff\ufffd\ue000",
    "markers": "▁ ▁▁a Ġ Ċ <0x41><0xFF> <unk> <s> ##ing </w> @@",
    "specials": "<|begin|><|end|><|pad|><|user|><|assistant|><|system|><<|end|>|end|>",
    "digits": "1234567890 ١٢٣ ½ ² Ⅳ",
    "case": "I'LL don't 'S ſ ẞ ǅ",
}


class Turn(NamedTuple):
    """A message."""

    role: str
    content: str


def turns(*said: str, system: str = "") -> list[Turn]:
    """User and assistant in turn, a system message before them if there is one."""
    start = [Turn("system", system)] if system else []
    return start + [Turn(("user", "assistant")[i % 2], words) for i, words in enumerate(said)]


@cache
def trained(kind: str = "bytelevel", size: int = 400) -> Tokenizer:
    return bpe.train(CORPUS, kind, size)  # type: ignore[arg-type]
