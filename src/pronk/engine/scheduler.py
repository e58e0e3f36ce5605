"""Who is in which row: lets requests in, steps the live ones together, takes them out as they end."""

import math
from collections import deque
from collections.abc import Iterable

import torch

from pronk.engine.rows import BLOCK, NOWHERE
from pronk.engine.sampler import Use
from pronk.engine.sequence import Request
from pronk.engine.step import Room
from pronk.errors import UserError

SPAN = 16  # the state's columns in use are rounded up to this
PREFILL = 8192  # prompt tokens in one forward, padding included
Key = tuple[int, ...]


class Scheduler:
    """Continuous batching over a room's rows: live requests in front, the last moves where one leaves.

    All but the last token of a prompt is prefilled, once for all requests of a prompt that come together; the last
    one is fed by the first step, so that every sampled token comes from the same code. The state's spare row keeps
    the prompt whose requests did not all find a slot.
    """

    def __init__(self, room: Room) -> None:
        self.room, self.rows = room, room.rows
        self.waiting: deque[Request] = deque()
        self.live: list[Request] = []
        self.steps = 0
        self._refill = BLOCK  # the step before which all rows need new random numbers
        self._lead = 0  # position of the longest row at step 0, had it come in then
        self._use = Use()
        self._spare: Key | None = None

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.live)

    def add(self, requests: Iterable[Request]) -> None:
        self.waiting.extend(requests)

    def step(self) -> list[Request]:
        """Let requests in, sample one token for each live one, and return those that ended."""
        self._admit()
        if not self.live:
            return []
        if self.steps >= self._refill:
            self.rows.refill(slice(0, len(self.live)))
            self._refill = self.steps + BLOCK
        self.room.decode(len(self.live), self._span(), self._use)
        self.steps += 1
        ended = self._ended()
        left = [self.live[row] for row in ended]
        for row, request in zip(ended, left):
            self._read(row, request)
        self._close_gaps(ended)
        return left

    def fresh(self, row: int, request: Request) -> list[int]:
        """Ids sampled since the last call, for one live request that is watched at every step."""
        seen = len(request.prompt) + len(request.ids)
        ids: list[int] = self.rows.ids[row, seen : self._end(request)].tolist()
        request.ids += ids
        request.logps += self.rows.logps[row, seen : self._end(request)].tolist()
        return ids

    def cancel(self, request: Request) -> None:
        """Drop a request, waiting or live."""
        if request in self.waiting:
            self.waiting.remove(request)
        elif request in self.live:
            self._close_gaps([self.live.index(request)])

    # ── in

    def _admit(self) -> None:
        """Fill free rows from the queue; not for one row at a time, since each prefill costs a forward."""
        free = self.rows.slots - len(self.live)
        if not self.waiting or (self.live and free < min(len(self.waiting), 1 + self.rows.slots // 8)):
            return
        groups: dict[Key, list[Request]] = {}
        for _ in range(min(free, len(self.waiting))):
            request = self.waiting.popleft()
            groups.setdefault(tuple(request.prompt), []).append(request)
        new = sorted((key for key in groups if key != self._spare), key=len)
        base = len(self.live)
        sources = {key: base + place for place, key in enumerate(new)}
        if self._spare is not None:
            sources[self._spare] = self.rows.slots
        arrivals = [groups[key].pop(0) for key in new]
        copies = [(sources[key], request) for key, group in groups.items() for request in group]
        arrivals += [request for _, request in copies]
        self._prefill(new, base)
        self._share([source for source, _ in copies], base + len(new), max(map(len, groups)))
        self._keep_spare(sources)
        if any(request.sampling.repetition_penalty != 1 for request in arrivals):
            self.rows.watch()
        self.rows.enter(base, arrivals)
        for request in arrivals:
            request.born = self.steps
        self.live += arrivals
        self._count()

    def _prefill(self, prompts: list[Key], start: int) -> None:
        """Forward prompts, shortest first, into the rows from `start` on."""
        while prompts:
            size = next((n for n in range(len(prompts), 1, -1) if n * len(prompts[n - 1]) <= PREFILL), 1)
            group, prompts = prompts[:size], prompts[size:]
            width = max(1, len(group[-1]) - 1)
            tokens = torch.zeros(size, width, dtype=torch.int64)
            positions = torch.full((size, width), NOWHERE)
            for row, prompt in enumerate(group):
                tokens[row, : len(prompt) - 1] = torch.tensor(prompt[:-1], dtype=torch.int64)
                positions[row, : len(prompt) - 1] = torch.arange(len(prompt) - 1)
            device = self.rows.device
            state = self.room.state.select(slice(start, start + size), width, fresh=True)
            self.room.model(tokens.to(device), positions=positions.to(device), state=state)
            start += size

    def _share(self, sources: list[int], start: int, span: int) -> None:
        """Copy the state of prefilled rows to the rows from `start` on."""
        if sources:
            targets = torch.arange(start, start + len(sources), device=self.rows.device)
            view = self.room.state.select(slice(0, self.rows.slots), span)
            view.copy(torch.tensor(sources, device=self.rows.device), targets)

    def _keep_spare(self, sources: dict[Key, int]) -> None:
        """If requests of a prompt in hand still wait, keep its state for them."""
        key = tuple(self.waiting[0].prompt) if self.waiting else ()
        if key in sources and key != self._spare:
            self._share([sources[key]], self.rows.slots, len(key))
            self._spare = key

    def _count(self) -> None:
        """What the steps until the next coming or going need to know of the rows together."""
        self._lead = max((len(r.prompt) - 1 - r.born for r in self.live), default=0)
        hot = [r.sampling for r in self.live if r.sampling.temperature > 0]
        self._use = Use(
            greedy=len(hot) < len(self.live),
            sampled=bool(hot),
            top_k=any(s.top_k for s in hot),
            top_p=any(s.top_p < 1 for s in hot),
            min_p=any(s.min_p for s in hot),
            penalty=any(r.sampling.repetition_penalty != 1 for r in self.live),
        )

    def _span(self) -> int:
        return min(-(-(self._lead + self.steps + 1) // SPAN) * SPAN, self.rows.length)

    # ── out

    def _ended(self) -> list[int]:
        """Numbers of the rows that ended with this step."""
        live = len(self.live)
        flags = self.rows.done[:live]
        ended = set(flags.nonzero()[:, 0].tolist()) if bool(flags.any()) else set()
        for row, request in enumerate(self.live):
            if request.text is not None:
                request.text.push(self._shown(request, self.fresh(row, request)))
                if request.text.stopped:
                    ended.add(row)
        return sorted(ended)

    @staticmethod
    def _shown(request: Request, ids: list[int]) -> list[int]:
        return ids[:-1] if ids and ids[-1] in request.sampling.stop else ids

    def _end(self, request: Request) -> int:
        """One past the position of the request's newest token."""
        return len(request.prompt) + self.steps - request.born

    def _read(self, row: int, request: Request) -> None:
        """Take an ended request's ids and log-probabilities out of its row."""
        self.fresh(row, request)
        if not math.isfinite(sum(request.logps)):
            raise UserError("the model's logits are not finite: its weights hold NaN or infinity, or overflow")
        stopped = request.ids[-1] in request.sampling.stop or (request.text is not None and request.text.stopped)
        request.finish = "stop" if stopped else "length"

    def _close_gaps(self, ended: list[int]) -> None:
        """Move the last live rows to where the ended ones were."""
        if not ended:
            return
        left = len(self.live) - len(ended)
        gone = set(ended)
        holes = [row for row in ended if row < left]
        movers = [row for row in range(left, len(self.live)) if row not in gone]
        if movers:
            source = torch.tensor(movers, device=self.rows.device)
            target = torch.tensor(holes, device=self.rows.device)
            self.room.state.select(slice(0, self.rows.slots), self._span()).copy(source, target)
            self.rows.move(source, target)
        self.rows.free(left)
        for hole, mover in zip(holes, movers):
            self.live[hole] = self.live[mover]
        del self.live[left:]
        self._count()
