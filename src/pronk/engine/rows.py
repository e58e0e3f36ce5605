"""What the engine knows of each live row, as tensors that never move: tokens, limits, rules, results; runs no model."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pronk.engine.forward import NOWHERE
from pronk.engine.philox import uniforms
from pronk.engine.sampler import Rules, Use, adjust, distribution, sample
from pronk.engine.sequence import Request, Sampling

BLOCK = 64  # random numbers made at a time for each row


class Columns(NamedTuple):
    """Some rows' part of what a step reads and writes, but for biases and counts."""

    tokens: Tensor
    positions: Tensor
    lasts: Tensor
    rules: Rules
    stops: Tensor
    done: Tensor
    random: Tensor
    ids: Tensor
    logps: Tensor
    seen: Tensor | None


def choose(rows: Columns, logits: Tensor, use: Use) -> None:
    """A token for each row from logits [R, V], by its rules and its random number. Runs in TorchScript too."""
    logps = distribution(logits.float(), rows.rules, use, rows.seen)
    uniforms = rows.random.gather(1, (rows.positions + 1) % rows.random.shape[1])
    picked, chosen = sample(logps, rows.rules.temperature, uniforms, use)
    note(rows, picked, chosen, use)


def note(rows: Columns, picked: Tensor, chosen: Tensor, use: Use, nowhere: int = NOWHERE) -> None:
    """Take the tokens picked [R, 1] and their log-probabilities as the rows' newest, and note who ended with them.

    Rows at position `nowhere` stay as they are. Runs in TorchScript too, which knows no constants."""
    seen = rows.seen
    if use.penalty and seen is not None:
        seen.scatter_(1, picked, True)
    places, alive = rows.positions + 1, rows.positions >= 0
    written = torch.where(alive, places, rows.ids.shape[1] - 1)
    rows.ids.scatter_(1, written, picked)
    rows.logps.scatter_(1, written, chosen)
    ends = (picked == rows.stops).any(1, keepdim=True) | (places >= rows.lasts)
    rows.done.logical_or_(ends & alive)
    rows.tokens.copy_(torch.where(alive, picked, rows.tokens))
    rows.positions.copy_(torch.where(alive & ~ends, places, nowhere))


class Adjusting:
    """What biases, presence and frequency penalties need to know of each row."""

    def __init__(self, slots: int, vocab: int, device: torch.device) -> None:
        self.bias = torch.zeros(slots, vocab, device=device)
        self.times = torch.zeros(slots, vocab, device=device)  # that each token was sampled
        self.weights = torch.zeros(slots, 2, device=device)  # frequency, presence
        self.starts = torch.zeros(slots, 1, dtype=torch.int64, device=device)  # position of the first sampled token

    @property
    def columns(self) -> list[Tensor]:
        return [self.bias, self.times, self.weights, self.starts]

    def enter(self, start: int, requests: Sequence[Request]) -> None:
        """Take in the rules of requests, which have sampled nothing yet."""
        for row, request in enumerate(requests, start):
            s = request.sampling
            self.bias[row], self.times[row] = 0, 0
            for token, bias in s.logit_bias:
                self.bias[row, token] = bias
            self.weights[row] = torch.tensor([s.frequency_penalty, s.presence_penalty])
            self.starts[row] = len(request.prompt)

    def apply(self, logits: Tensor, tokens: Tensor, positions: Tensor) -> Tensor:
        """Count the tokens [R, 1] that are fed, where they were sampled, and adjust the logits [R, V] behind them."""
        R = len(logits)
        times, weights = self.times[:R], self.weights[:R]
        times.scatter_add_(1, tokens, (positions >= self.starts[:R]).float())
        return adjust(logits, self.bias[:R], times, weights[:, 0:1], weights[:, 1:2])


class Rows:
    """Columns of `slots` rows. Live rows are kept in front; the others stand at position NOWHERE."""

    def __init__(
        self, slots: int, length: int, vocab: int, stops: int, device: torch.device, drawn: bool = True
    ) -> None:
        """drawn: keep random numbers for the steps to come; a step of Triton kernels makes its own."""
        self.slots, self.length, self.vocab, self.device = slots, length, vocab, device
        self.whole = torch.zeros(slots, 5, dtype=torch.int64, device=device)
        self.tokens, self.positions = self.whole[:, 0:1], self.whole[:, 1:2]  # the token to feed, and where
        self.lasts, self.seeds, self.top_k = self.whole[:, 2:3], self.whole[:, 3:4], self.whole[:, 4:5]
        self.real = torch.ones(slots, 4, device=device)  # temperature, top_p, min_p, repetition penalty
        self.stops = torch.full((slots, stops), NOWHERE, device=device)
        self.done = torch.zeros(slots, 1, dtype=torch.bool, device=device)
        self.random = torch.zeros(slots, BLOCK if drawn else 0, device=device)  # column: position modulo BLOCK
        self.ids = torch.zeros(slots, length + 1, dtype=torch.int64, device=device)  # sampled; column: position,
        self.logps = torch.zeros(slots, length + 1, device=device)  # and a last one that nobody reads
        self.seen: Tensor | None = None  # [slots, vocab]; made where a repetition penalty needs it
        self.adjusting: Adjusting | None = None  # made where a request needs it
        self.positions.fill_(NOWHERE)
        self.top_k.fill_(vocab)

    def part(self, start: int, end: int) -> Columns:
        """The rows from start to end."""
        rows = slice(start, end)
        return Columns(
            tokens=self.tokens[rows],
            positions=self.positions[rows],
            lasts=self.lasts[rows],
            rules=self.rules(end, start),
            stops=self.stops[rows],
            done=self.done[rows],
            random=self.random[rows],
            ids=self.ids[rows],
            logps=self.logps[rows],
            seen=None if self.seen is None else self.seen[rows],
        )

    def rules(self, end: int, start: int = 0) -> Rules:
        real = self.real[start:end]
        return Rules(real[:, 0:1], self.top_k[start:end], real[:, 1:2], real[:, 2:3], real[:, 3:4])

    def watch(self) -> None:
        """Start to keep the tokens seen."""
        if self.seen is None:
            self.seen = torch.zeros(self.slots, self.vocab, dtype=torch.bool, device=self.device)

    def count(self) -> None:
        """Start to count what is sampled."""
        if self.adjusting is None:
            self.adjusting = Adjusting(self.slots, self.vocab, self.device)

    def enter(self, start: int, requests: Sequence[Request]) -> None:
        """Put requests into the rows from `start` on, each about to be fed the last token of its prompt."""
        rows = slice(start, start + len(requests))
        whole, real, stops = [], [], []
        rules: dict[int, tuple[int, list[float], list[int]]] = {}  # of each sampling, which many may share
        for request in requests:
            s = request.sampling
            if id(s) not in rules:
                rules[id(s)] = self._rules(s)
            top_k, numbers, ends = rules[id(s)]
            whole.append((request.prompt[-1], len(request.prompt) - 1, request.last, request.seed, top_k))
            real.append(numbers)
            stops.append(ends)
        for column, lines in ((self.whole, whole), (self.real, real), (self.stops, stops)):
            values = np.array(lines, dtype=np.float32 if column is self.real else np.int64)  # five times torch's speed
            column[rows] = torch.from_numpy(values).to(self.device)
        self.done[rows] = False
        self.refill(rows)
        if self.adjusting is not None:
            self.adjusting.enter(start, requests)
        if self.seen is not None:
            self.seen[rows] = False
            for row, request in enumerate(requests, start):
                if request.sampling.repetition_penalty != 1:
                    self.seen[row, torch.tensor(request.prompt, device=self.device)] = True

    def _rules(self, s: Sampling) -> tuple[int, list[float], list[int]]:
        """top_k, the columns of `real`, and those of `stops`."""
        greedy = s.temperature == 0
        top_k = self.vocab if greedy or not s.top_k else min(s.top_k, self.vocab)
        filters = (1.0, 0.0) if greedy else (s.top_p, s.min_p)
        ends = [*s.stop, *[NOWHERE] * (self.stops.shape[1] - len(s.stop))]
        return top_k, [s.temperature, *filters, s.repetition_penalty], ends

    def refill(self, rows: slice) -> None:
        """Random numbers for the next BLOCK tokens of these rows."""
        if not self.random.shape[1]:
            return
        first = self.positions[rows] + 1
        columns = torch.arange(BLOCK, device=self.device)
        self.random[rows] = uniforms(self.seeds[rows], first + (columns - first) % BLOCK)

    def move(self, source: Tensor, target: Tensor) -> None:
        """Copy rows `source` to `target`."""
        columns = [self.whole, self.real, self.stops, self.random, self.ids, self.logps]
        columns += [] if self.seen is None else [self.seen]
        columns += [] if self.adjusting is None else self.adjusting.columns
        for column in columns:
            column[target] = column[source]

    def free(self, live: int) -> None:
        """The rows from `live` on hold nobody; those before hold nobody that ended."""
        self.done.fill_(False)
        self.positions[live:] = NOWHERE
