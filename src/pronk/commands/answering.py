"""Samples answers to prompts as records, for the commands that grade them: evaluate and reject."""

from collections.abc import Sequence
from dataclasses import replace

from pronk.data.encode import encode_prompt
from pronk.data.records import Prompt, Sample
from pronk.engine.engine import Engine
from pronk.engine.sequence import Sampling
from pronk.errors import UserError
from pronk.text.chat import end_of_turn
from pronk.text.tokenizer import Tokenizer


def check_sampling(n: int, temperature: float, max_tokens: int, greedy: bool = False) -> None:
    """Refuse numbers that no sampling can go by. greedy: temperature 0 is allowed, for a single answer."""
    if min(n, max_tokens) < 1:
        raise UserError(f"--n {n} and --max-tokens {max_tokens} must each be at least 1")
    if temperature < 0 or (temperature == 0 and not greedy):
        raise UserError(f"--temperature {temperature:g}: give a number above 0")
    if temperature == 0 and n > 1:
        raise UserError(f"--temperature 0 gives the same answer every time: set --n 1 (it is {n})")


def answer(engine: Engine, tokenizer: Tokenizer, prompts: Sequence[Prompt], sampling: Sampling) -> list[Sample]:
    """n samples of each prompt, standing together; the answer ends where the chat template ends a turn."""
    ids = [encode_prompt(tokenizer, prompt.messages) for prompt in prompts]
    how = replace(sampling, stop=(end_of_turn(tokenizer),))
    found = engine.generate(ids, how)
    return [
        Sample(prompts[i // sampling.n], x.text or "", list(x.prompt), x.ids, x.logps, x.finish)
        for i, x in enumerate(found)
    ]
