"""Who is in which row: lets requests in, steps the live ones together, takes them out as they end."""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch

from pronk.engine.rows import BLOCK
from pronk.engine.sampler import Use
from pronk.engine.sequence import Request, Sampling
from pronk.engine.step import Room
from pronk.errors import UserError

SPAN = 4  # the state's columns in use are rounded up to this
BLIND = 8  # steps between two looks at rows of which none can end before its length
CHUNK = 2048  # a longer prompt is prefilled in pieces of this size, one a step, so that it does not stall the others
Key = tuple[int, ...]


@dataclass
class Long:
    """A prompt on its way into the spare row, with the requests that wait for it."""

    key: Key
    requests: list[Request] = field(default_factory=list)
    done: int = 0  # tokens


class Scheduler:
    """Continuous batching over a room's rows: live requests in front, the last moves where one leaves.

    All but the last token of a prompt is prefilled, once for all requests of a prompt that come together; the last
    one is fed by the first step, so that every sampled token comes from the same code. The state's spare row keeps
    the prompt whose requests did not all find a slot, or takes in a long prompt piece by piece.
    """

    def __init__(self, room: Room) -> None:
        self.room, self.rows = room, room.rows
        self.waiting: deque[Request] = deque()
        self.live: list[Request] = []
        self.steps = 0
        self._refill = BLOCK  # the step before which all rows need new random numbers
        self._lead = 0  # position of the longest row at step 0, had it come in then
        self._full = 0  # the step at which the first row has its full length
        self._use = Use()
        self._texts = False  # whether any live row is read as it grows,
        self._stops = True  # or may end before its length
        self._spare: Key | None = None
        self._long: Long | None = None

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.live or self._long)

    def add(self, requests: Iterable[Request]) -> None:
        self.waiting.extend(requests)

    def step(self) -> list[Request]:
        """Let requests in, sample for the live ones, and return those that ended.

        As many tokens for each row as the room's `every`, but none past the first row's full length: results are read
        once for all of them. A row that ends in between stands still.
        """
        with self.room.steady():
            return self._step()

    def _step(self) -> list[Request]:
        self._admit()
        if not self.live:
            return []
        least = 1 if self._texts else self.room.stopping if self._stops else BLIND
        missing = min(max(self.room.every, least), self._full - self.steps)
        while missing:
            if self.steps >= self._refill:
                self.room.refill(len(self.live))
                self._refill = self.steps + BLOCK
            count = min(missing, self._refill - self.steps)
            self.room.steps(len(self.live), [self._span(step) for step in range(count)], self._use)
            self.steps, missing = self.steps + count, missing - count
        ended = self._ended()
        left = [self.live[row] for row in ended]
        for request in left:
            self._finish(request)
        self._close_gaps(ended)
        return left

    def cancel(self, request: Request) -> None:
        """Drop a request, waiting or live."""
        if request in self.waiting:
            self.waiting.remove(request)
        elif request in self.live:
            self._close_gaps([self.live.index(request)])
        elif self._long is not None and request in self._long.requests:
            self._long.requests.remove(request)
            self._long = self._long if self._long.requests else None

    # ── in

    def _admit(self) -> None:
        """Fill free rows from the queue; not for one row at a time, since each prefill costs a forward."""
        self._go_on()
        free = self.rows.slots - len(self.live)
        if not self.waiting or (self.live and free < min(len(self.waiting), 1 + self.rows.slots // 8)):
            return
        groups = self._chosen(free)
        if not groups:
            return
        new = sorted((key for key in groups if key != self._spare), key=len)
        base = len(self.live)
        sources = {key: base + place for place, key in enumerate(new)}
        if self._spare is not None:
            sources[self._spare] = self.rows.slots
        arrivals = [groups[key].pop(0) for key in new]
        copies = [(sources[key], request) for key, group in groups.items() for request in group]
        arrivals += [request for _, request in copies]
        self.room.prefill(new, base)
        self._share([source for source, _ in copies], base + len(new), max(map(len, groups)))
        self._keep_spare(sources)
        samplings = _samplings(arrivals)
        if any(s.repetition_penalty != 1 for s in samplings):
            self.rows.watch()
        if any(s.adjusts for s in samplings):
            self.rows.count()
        self.rows.enter(base, arrivals)
        for request in arrivals:
            request.born = self.steps
            request.full = self.steps + request.last + 1 - len(request.prompt)
        self.live += arrivals
        self._count()

    def _chosen(self, free: int) -> dict[Key, list[Request]]:
        """Up to `free` requests out of the queue, by prompt. The first long prompt begins its way into the spare row,
        other long ones wait; shorter ones pass them."""
        groups: dict[Key, list[Request]] = {}
        held, prompt = [], None
        key: Key = ()
        while free and self.waiting:
            request = self.waiting.popleft()
            if request.prompt is not prompt:  # samples of one prompt share it
                prompt, key = request.prompt, tuple(request.prompt)
            if len(key) - 1 <= CHUNK or key == self._spare:
                groups.setdefault(key, []).append(request)
                free -= 1
            elif (self._long is not None and self._long.key != key) or self._spare in groups:
                held.append(request)
            else:
                self._long, self._spare = self._long or Long(key), None
                self._long.requests.append(request)
        self.waiting.extendleft(reversed(held))
        return groups

    def _go_on(self) -> None:
        """The next piece of the long prompt; after its last one, its requests are next to come in."""
        if self._long is None:
            return
        long, end = self._long, min(self._long.done + CHUNK, len(self._long.key) - 1)
        self.room.extend(list(long.key[long.done : end]), self.rows.slots, long.done)
        long.done = end
        if end == len(long.key) - 1:
            self.waiting.extendleft(reversed(long.requests))
            self._spare, self._long = long.key, None

    def _share(self, sources: list[int], start: int, span: int) -> None:
        """Copy the state of prefilled rows to the rows from `start` on."""
        if sources:
            targets = torch.arange(start, start + len(sources), device=self.rows.device)
            view = self.room.state.select(slice(0, self.rows.slots), span)
            view.copy(torch.tensor(sources, device=self.rows.device), targets)

    def _keep_spare(self, sources: dict[Key, int]) -> None:
        """If requests of a prompt in hand still wait, keep its state for them."""
        key = tuple(self.waiting[0].prompt) if self.waiting else ()
        if key in sources and key != self._spare and self._long is None:
            self._share([sources[key]], self.rows.slots, len(key))
            self._spare = key

    def _count(self) -> None:
        """What the steps until the next coming or going need to know of the rows together."""
        self._lead = max((len(r.prompt) - 1 - r.born for r in self.live), default=0)
        self._full = min((r.full for r in self.live), default=0)
        samplings = _samplings(self.live)
        self._texts = any(r.text is not None for r in self.live)
        self._stops = self._texts or any(s.stop for s in samplings)
        hot = [s for s in samplings if s.temperature > 0]
        self._use = Use(
            greedy=len(hot) < len(samplings),
            sampled=bool(hot),
            heat=any(s.temperature != 1 for s in hot),
            top_k=any(s.top_k for s in hot),
            top_p=any(s.top_p < 1 for s in hot),
            min_p=any(s.min_p for s in hot),
            penalty=any(s.repetition_penalty != 1 for s in samplings),
            adjust=any(s.adjusts for s in samplings),
        )

    def _span(self, later: int = 0) -> int:
        """Columns in use at the step that is so many steps away."""
        return min(-(-(self._lead + self.steps + later + 1) // SPAN) * SPAN, self.rows.length)

    # ── out

    def _ended(self) -> list[int]:
        """Numbers of the rows that ended, their results taken; results of rows with text too."""
        if self._stops:
            ended = {row for row, done in enumerate(self.rows.done[: len(self.live), 0].tolist()) if done}
        elif self.steps < self._full:
            return []
        else:
            ended = {row for row, request in enumerate(self.live) if request.full <= self.steps}
        texts = {row for row, request in enumerate(self.live) if request.text is not None} if self._texts else set()
        seen = {row: len(self.live[row].ids) for row in texts}
        self._take(sorted(ended | texts))
        for row in texts:
            if self._told(self.live[row], seen[row]):
                ended.add(row)
        return sorted(ended)

    def _take(self, numbers: list[int]) -> None:
        """Read what these rows sampled since they were last read, up to a stop id: nothing was sampled after it."""
        if not numbers:
            return
        requests = [self.live[row] for row in numbers]
        starts = [len(request.prompt) + len(request.ids) for request in requests]
        ends = [request.last + 1 + self.steps - request.full for request in requests]
        low, high = min(starts), max(ends)
        index = torch.tensor(numbers, device=self.rows.device)
        ids = self.rows.ids[:, low:high][index].tolist()
        logps = self.rows.logps[:, low:high][index].tolist()
        for request, start, end, new, chosen in zip(requests, starts, ends, ids, logps):
            new = _up_to(request.sampling.stop, new[start - low : end - low])
            request.ids += new
            request.logps += chosen[start - low : start - low + len(new)]

    @staticmethod
    def _told(request: Request, seen: int) -> bool:
        """Tell the text of a request its new ids, one by one; True where it stopped, ids after that are dropped."""
        assert request.text is not None
        for count in range(seen, len(request.ids)):
            if request.ids[count] not in request.sampling.stop:
                request.text.push(request.ids[count : count + 1])
            if request.text.stopped:
                del request.ids[count + 1 :], request.logps[count + 1 :]
                return True
        return False

    @staticmethod
    def _finish(request: Request) -> None:
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


def _up_to(stop: tuple[int, ...], ids: list[int]) -> list[int]:
    """The ids up to the first stop id."""
    if stop:
        for place, token in enumerate(ids, 1):
            if token in stop:
                return ids[:place]
    return ids


def _samplings(requests: Sequence[Request]) -> list[Sampling]:
    """How the requests are sampled; once where many have the same object."""
    return list({id(request.sampling): request.sampling for request in requests}.values())
