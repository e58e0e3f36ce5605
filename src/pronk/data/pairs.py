"""Comparisons as pairs of ids: encoded, split by dialogue, dealt in shuffled batches that can be taken up again."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pronk.data.batch import Pairs
from pronk.data.collate import pad_pairs, pad_scored
from pronk.data.encode import Masked, encode_comparison, place_of
from pronk.data.records import Comparison
from pronk.errors import UserError
from pronk.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Pair:
    """A comparison and its two conversations in ids, with masks of what the answers are."""

    comparison: Comparison
    chosen: Masked
    rejected: Masked


@dataclass
class Fitted:
    """Pairs that fit a row, and what it took."""

    pairs: list[Pair]
    cut: int = 0  # that lost the beginning of their prompt
    dropped: int = 0  # whose answers alone are too long

    def lines(self, length: int) -> list[str]:
        """For the console."""
        cut = f"{self.cut:,} comparisons are longer than --train.length {length}: their prompts lose the beginning"
        dropped = f"{self.dropped:,} comparisons are left out: an answer alone is longer than --train.length {length}"
        return [line for line, count in ((cut, self.cut), (dropped, self.dropped)) if count]


def encode_pairs(tokenizer: Tokenizer, comparisons: Sequence[Comparison], length: int) -> Fitted:
    """Both conversations of each comparison through the chat template, the end of the answer included.

    Where one is longer than `length` tokens, both lose as much of the prompt's beginning (all but bos), so the prompt
    stays the same for both; comparisons whose prompt would be gone are left out.
    """
    fitted = Fitted([])
    for comparison in comparisons:
        chosen, rejected = encode_comparison(tokenizer, comparison)
        over = max(len(chosen[0]), len(rejected[0])) - length
        if over > chosen[1].index(True) - 2:
            fitted.dropped += 1
            continue
        fitted.cut += over > 0
        fitted.pairs.append(Pair(comparison, _without(chosen, over), _without(rejected, over)))
    return fitted


def _without(masked: Masked, count: int) -> Masked:
    """All but `count` ids after the first."""
    ids, mask = masked
    start = 1 + max(0, count)
    return [*ids[:1], *ids[start:]], [*mask[:1], *mask[start:]]


def dialogue_of(comparison: Comparison) -> str:
    """What the user said first. All comparisons of one dialogue share it, those of its later turns, too."""
    return next((m.content for m in comparison.prompt if m.role == "user"), comparison.prompt[0].content)


def split_by_dialogue(pairs: Sequence[Pair], validation: float) -> tuple[list[Pair], list[Pair]]:
    """(training, validation): a dialogue's comparisons are all on one side, which its text alone decides."""
    if not 0 <= validation < 1:
        raise UserError(f"--validation {validation}: give a share from 0 to below 1, such as 0.1")
    held = [place_of(dialogue_of(pair.comparison)) < validation for pair in pairs]
    sides = [p for p, out in zip(pairs, held) if not out], [p for p, out in zip(pairs, held) if out]
    if not sides[0] or (validation and not sides[1]):
        raise UserError(f"{len(pairs)} comparisons are too few to split by prompt: set --validation 0, or give more")
    return sides


def folds(comparisons: Sequence[Comparison], count: int) -> list[list[int]]:
    """For cross-validation: indices in `count` parts; a dialogue's comparisons are all in one of them."""
    keys = [dialogue_of(comparison) for comparison in comparisons]
    dialogues = sorted(set(keys), key=place_of)
    if len(dialogues) < count:
        raise UserError(f"--folds {count}: there are only {len(dialogues)} different prompts")
    part = {dialogue: number % count for number, dialogue in enumerate(dialogues)}
    return [[i for i, key in enumerate(keys) if part[key] == k] for k in range(count)]


def resample(pairs: Sequence[Pair], seed: int) -> list[Pair]:
    """As many dialogues as there are, drawn with replacement, with their comparisons (the bootstrap)."""
    members: dict[str, list[Pair]] = {}
    for pair in pairs:
        members.setdefault(dialogue_of(pair.comparison), []).append(pair)
    dice = random.Random(f"resample {seed}")
    return [pair for key in dice.choices(list(members), k=len(members)) for pair in members[key]]


Collate = Callable[[Sequence[Pair], int], Pairs]


def to_scored(pairs: Sequence[Pair], pad: int) -> Pairs:
    """For reward models: whole conversations, scored at their last token."""
    batch = pad_scored([(pair.chosen[0], pair.rejected[0]) for pair in pairs], pad)
    return _with_strength(batch, pairs)


def to_learned(pairs: Sequence[Pair], pad: int) -> Pairs:
    """For DPO: the answers and their ends are the targets."""
    return _with_strength(pad_pairs([(pair.chosen, pair.rejected) for pair in pairs], pad), pairs)


def _with_strength(batch: Pairs, pairs: Sequence[Pair]) -> Pairs:
    batch.strength = torch.tensor([pair.comparison.strength for pair in pairs])
    return batch


class PairSource:
    """Batches of pairs without end, each pass in an order of its own that seed and pass decide.

    ref_logps [N, 2]: the reference's log-probabilities, made once and dealt with their pairs.
    """

    border = True

    def __init__(
        self,
        pairs: Sequence[Pair],
        collate: Collate,
        pad: int,
        batch: int,
        seed: int,
        ref_logps: torch.Tensor | None = None,
    ) -> None:
        self.pairs, self.collate, self.pad, self.batch, self.seed = pairs, collate, pad, batch, seed
        self.ref_logps = ref_logps
        self.passes = self.place = 0

    def __iter__(self) -> Iterator[Pairs]:
        while True:
            order = list(range(len(self.pairs)))
            random.Random(f"{self.seed} {self.passes}").shuffle(order)
            while self.place < len(order):
                chosen = order[self.place : self.place + self.batch]
                self.place += len(chosen)
                yield self.deal(chosen)
            self.passes, self.place = self.passes + 1, 0

    def deal(self, indices: Sequence[int]) -> Pairs:
        batch = self.collate([self.pairs[i] for i in indices], self.pad)
        batch.ref_logps = None if self.ref_logps is None else self.ref_logps[list(indices)]
        return batch

    def once(self) -> Iterator[Pairs]:
        """All pairs in their own order, for evaluation."""
        for start in range(0, len(self.pairs), self.batch):
            yield self.deal(range(start, min(start + self.batch, len(self.pairs))))

    def tell(self, metrics: Mapping[str, float]) -> None:
        """Nothing here depends on how training goes."""

    def state(self) -> dict[str, Any]:
        return {"passes": self.passes, "place": self.place}

    def restore(self, state: dict[str, Any]) -> None:
        self.passes, self.place = state["passes"], state["place"]
