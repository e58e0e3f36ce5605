"""Generates text from any model with the common forward: many requests at once, streams, scores; takes new weights."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from pronk.engine.memory import affordable
from pronk.engine.philox import derive
from pronk.engine.quick import Quick, Runs, has_kernels, quicken
from pronk.engine.rows import Rows
from pronk.engine.scheduler import Scheduler
from pronk.engine.sequence import Completion, Piece, Request, Sampling
from pronk.engine.share import SharedRoom, shares
from pronk.engine.step import GraphRoom, Room
from pronk.engine.text import Decode, TextStream, cut
from pronk.errors import UserError
from pronk.models.build import Model, eager
from pronk.models.heads import ActorCritic
from pronk.models.logps import IGNORE, logps
from pronk.models.lora import merged, merged_state

LENGTHS = 16  # a room's length is rounded up to this, or to a power of two, so that the next run finds it long enough
PLAIN = Sampling()
SCORED = 8192  # tokens in one forward of score, padding included


class Engine:
    """Runs a model. It is the caller's own model, so what trains it changes what is generated; unless `dtype` asks for
    a copy in another type, has LoRA adapters (the copy has them merged, as they are now), or `load` brings foreign
    weights: then the engine keeps a copy of its own.
    """

    def __init__(
        self,
        model: nn.Module,
        decode: Decode | None = None,
        slots: int = 64,
        context: int | None = None,
        dtype: torch.dtype | None = None,
        graphs: bool | None = None,
        memory: float | None = None,
    ) -> None:
        """decode: ids to text, for texts, stop texts and streams. slots: requests that run at once. context: longest
        prompt and answer together; None = the model's. graphs: capture decode steps; None = on a CUDA device.
        memory: GiB for the state of all rows (keys and values): fewer run at once where it is short, the others
        wait; None = no limit on a CPU, nine tenths of what is free on a GPU.

        With torch.use_deterministic_algorithms a seeded request gives the same bits whatever runs beside it on a GPU
        too: steps then have one size, that of all slots and the whole context."""
        self._given = model
        self.model = merged(_policy(model))
        if dtype is not None and dtype != self.model.embed.weight.dtype:
            self._own(dtype)
        self.decode, self.slots = decode, slots
        self.graphs = self.model.embed.weight.is_cuda if graphs is None else graphs
        self.context = context or self.model.config.context
        if self.context > self.model.config.context:
            raise UserError(f"context {context} is beyond the model's own of {self.model.config.context}")
        if self.graphs and not self.model.embed.weight.is_cuda:
            raise UserError("graphs need a model on a CUDA device")
        self.memory = memory
        self._room: Room | None = None
        self._runs: Runs = quicken(self.model)

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling | Sequence[Sampling] = PLAIN
    ) -> list[Completion]:
        """Answers in the order of the prompts, the n of one prompt together.

        One Sampling with a seed serves many prompts as the seed of the first; the others get seeds derived from it. In
        a list, each prompt's seed is its own. Raises UserError for prompts that are empty, too long or not this
        model's ids.
        """
        self._refresh()  # first: a GPU copies while the host reads
        requests = self.requests(prompts, sampling)
        live = [request for request in requests if request.sampling.max_tokens]
        with _resting(self.model), self._borrowed(live) as room:
            scheduler = Scheduler(room)
            scheduler.add(live)
            while scheduler.busy:
                scheduler.step()
        return [self.completion(request) for request in requests]

    def stream(self, prompt: Sequence[int], sampling: Sampling = PLAIN) -> Iterator[Piece]:
        """The answer piece by piece; leaving the loop early ends it. With decode, never half a character, and text
        that may begin a stop text is held back."""
        if sampling.n != 1:
            raise UserError(f"a stream gives one answer: n must be 1, not {sampling.n}")
        (request,) = self.requests([prompt], [sampling])
        request.text = TextStream(self.decode or (lambda ids: ""), sampling.stop_texts)
        return self._pieces(request)

    def _pieces(self, request: Request) -> Iterator[Piece]:
        if not request.sampling.max_tokens:
            yield Piece("", [], [], "length")
            return
        self._refresh()
        text = cast(TextStream, request.text)
        with self._borrowed([request]) as room:
            scheduler, told = Scheduler(room), 0
            scheduler.add([request])
            while request.finish is None:
                with _resting(self.model):
                    scheduler.step()
                final = request.finish is not None
                text.push([], final)
                yield Piece(text.take(final), request.ids[told:], request.logps[told:], request.finish)
                told = len(request.ids)

    def score(self, sequences: Sequence[Sequence[int]], temperature: float = 1.0) -> list[list[float]]:
        """Log-probability of each token after the first, given those before it, under softmax(logits / temperature)."""
        if not temperature > 0:
            raise UserError(f"score needs a temperature above 0, not {temperature}")
        ids = [self._checked(place, sequence, self.context) for place, sequence in enumerate(sequences)]
        order = sorted(range(len(ids)), key=lambda place: len(ids[place]))
        found: list[list[float]] = [[] for _ in ids]
        self._runs = quicken(self.model, self._runs)
        with _resting(self.model):
            while order:
                size = next((n for n in range(len(order), 1, -1) if n * len(ids[order[n - 1]]) <= SCORED), 1)
                for place, numbers in zip(order, self._scored([ids[place] for place in order[:size]], temperature)):
                    found[place] = numbers
                order = order[size:]
        return found

    def _scored(self, ids: list[list[int]], temperature: float) -> list[list[float]]:
        width = max(map(len, ids))
        padded = torch.tensor([row + [0] * (width - len(row)) for row in ids])
        real = torch.arange(width) < torch.tensor([[len(row)] for row in ids])
        device = self.model.embed.weight.device
        targets = padded.masked_fill(~real, IGNORE)[:, 1:].to(device)
        whole = self.model if isinstance(self._runs, Quick) else self._runs  # on a GPU, stand-ins only decode
        output = whole(padded[:, :-1].to(device))
        numbers = logps(output, targets, temperature)[0].tolist() if width > 1 else [[]] * len(ids)
        return [line[: len(row) - 1] for line, row in zip(numbers, ids)]

    @contextmanager
    def scheduler(self, stops: int = 8) -> Iterator[Scheduler]:
        """A scheduler over all slots and the whole context, for `requests` that come and go at any time (a server).
        stops: the most stop ids of one. The engine's other methods may be used meanwhile, from the same thread."""
        self._refresh()
        longest = Request([0], Sampling(stop=tuple(range(stops))), 0, self.context - 1)
        with _resting(self.model), self._borrowed([longest] * self.slots) as room:
            yield Scheduler(room)

    def load(self, weights: nn.Module | Mapping[str, Tensor]) -> None:
        """Take new weights, cast to the engine's type. Nothing to do for the very model that the engine runs; the
        caller's own model is never written to."""
        if isinstance(weights, nn.Module):
            if _policy(weights) is self.model:
                return
            weights = merged_state(_policy(weights))
        if self.model is _policy(self._given):
            self._own(self.model.embed.weight.dtype)
        own = self.model.state_dict()
        wrong = [n for n in own.keys() | weights.keys() if n not in own or n not in weights]
        wrong += [n for n in own.keys() & weights.keys() if own[n].shape != weights[n].shape]
        if wrong:
            raise UserError(f"weights of another model: {min(wrong)} is missing, unknown or of another shape")
        with torch.no_grad():
            torch._foreach_copy_(list(own.values()), [weights[name] for name in own])

    def _own(self, dtype: torch.dtype) -> None:
        """Run a copy from now on."""
        self.model = copy.deepcopy(self.model).requires_grad_(False).to(dtype)
        self._room = None

    # ── requests and results

    def requests(self, prompts: Sequence[Sequence[int]], sampling: Sampling | Sequence[Sampling]) -> list[Request]:
        """What a scheduler takes: one for each sample, checked and with its seed. As generate reads its arguments."""
        alone = isinstance(sampling, Sampling)
        each = [sampling] * len(prompts) if isinstance(sampling, Sampling) else list(sampling)
        if len(each) != len(prompts):
            raise UserError(f"{len(prompts)} prompts need as many samplings, not {len(each)}")
        if self.decode is None and any(s.stop_texts for s in each):
            raise UserError("stop_texts need an engine with decode: Engine(model, decode=tokenizer.decode)")
        made: list[Request] = []
        before: Sequence[int] | None = None
        for place, (prompt, s) in enumerate(zip(prompts, each)):
            if s.logit_bias and max(s.logit_bias)[0] >= self.model.config.vocab:
                raise UserError(f"logit_bias names a token beyond the vocabulary's last, {self.model.config.vocab - 1}")
            if prompt is not before:
                before, ids = prompt, self._checked(place, prompt, self.context - 1)
            made += [Request(ids, s, 0, min(len(ids) + s.max_tokens, self.context) - 1) for _ in range(s.n)]
        for request, seed in zip(made, _seeds(each, alone)):
            request.seed = seed
            if self.decode is not None and request.sampling.stop_texts:
                request.text = TextStream(self.decode, request.sampling.stop_texts)
        return made

    def _checked(self, place: int, prompt: Sequence[int], longest: int) -> list[int]:
        """The ids as a list of ints, if this model can take them."""
        ids, vocab = list(map(int, prompt)), self.model.config.vocab
        if not ids:
            raise UserError(f"prompt {place} is empty: give at least one token, such as the beginning-of-text id")
        if len(ids) > longest:
            raise UserError(
                f"prompt {place} has {len(ids)} tokens, but prompt and answer share a context of {self.context}: "
                f"shorten it to at most {longest} tokens"
            )
        if min(ids) < 0 or max(ids) >= vocab:
            wrong = next(i for i in ids if not 0 <= i < vocab)
            raise UserError(
                f"prompt {place} holds token id {wrong}, but the model's vocabulary ends at {vocab - 1}: "
                "tokenizer and model do not match"
            )
        return ids

    def completion(self, request: Request) -> Completion:
        """What became of a request that has ended."""
        ids, s = request.ids, request.sampling
        text = None
        if self.decode is not None:
            text = cut(self.decode(ids[:-1] if ids and ids[-1] in s.stop else ids), s.stop_texts)
        return Completion(request.prompt, ids, request.logps, request.finish or "length", text, request.seed)

    # ── memory

    def _refresh(self) -> None:
        """Have what runs take the weights as they are now."""
        self._runs = quicken(self.model, self._runs)

    @contextmanager
    def _borrowed(self, requests: Sequence[Request]) -> Iterator[Room]:
        """A room large enough; the last one again where it is free and large enough."""
        exact = self.exact
        slots = self.slots if exact else max(1, min(self.slots, len(requests)))
        most = max((request.last for request in requests), default=0)
        length = max(128, 1 << most.bit_length()) if self.graphs else -(-(most + 1) // LENGTHS) * LENGTHS
        length = self.context if exact else min(length, self.context)
        stops = max((len(request.sampling.stop) for request in requests), default=0)
        room, self._room = self._room, None
        if room is not None:
            had, fits = room.rows, room.model is self._runs and room.exact == exact
            if not fits or room.asked < slots or had.length < length or had.stops.shape[1] < stops:
                room = None
        if room is None:
            room = self._new_room(slots, length, stops)
        broken = False
        try:
            yield room
        except Exception:  # NaN may be in its memory; leaving a stream early is no error
            broken = True
            raise
        finally:
            if not broken:
                room.rows.free(0)
                self._room = room

    @property
    def exact(self) -> bool:
        """Whether neighbours may change no bit of a request on a GPU; on a CPU in float32 they do not anyway."""
        return self.model.embed.weight.is_cuda and torch.are_deterministic_algorithms_enabled()

    def _new_room(self, slots: int, length: int, stops: int) -> Room:
        asked, slots = slots, affordable(self._runs, slots, length, self.memory)
        fused = has_kernels(self.model)
        rows = Rows(slots, length, self.model.config.vocab, stops, self.model.embed.weight.device, drawn=not fused)
        state = self._runs.new_state(slots + 1, length)
        kind = GraphRoom if self.graphs else SharedRoom if shares(self._runs) else Room
        return kind(self._runs, state, rows, asked=asked, fused=fused, exact=self.exact)


@contextmanager
def _resting(model: nn.Module) -> Iterator[None]:
    """No gradients, no dropout and no compiled code, which was made for training; all as before at the end."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        with torch.no_grad(), eager(model):
            yield
    finally:
        for module in training:
            module.training = True


def _policy(model: nn.Module) -> Model:
    """The part that generates."""
    return cast(Model, model.policy if isinstance(model, ActorCritic) else model)


def _seeds(samplings: Sequence[Sampling], spread: bool) -> list[int]:
    """A seed for each sample; spread = one seed serves all prompts."""
    drawn = iter(torch.randint(0, 1 << 62, (sum(s.seed is None for s in samplings),)).tolist())
    bases = [next(drawn) if s.seed is None else s.seed for s in samplings]
    seeds = [base for base, s in zip(bases, samplings) for _ in range(s.n)]
    if spread and samplings and samplings[0].seed is not None:
        indices = list(range(len(seeds)))
    else:
        indices = [i for s in samplings for i in range(s.n)]
    if not any(indices):
        return seeds
    return derive(torch.tensor(seeds, dtype=torch.int64), torch.tensor(indices, dtype=torch.int64)).tolist()
