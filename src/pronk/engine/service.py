"""One thread that owns a model: loads it, lets requests in at any time, tells what was sampled; knows no HTTP."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

from pronk.engine.engine import Engine
from pronk.engine.refusal import busy, not_ready
from pronk.engine.scheduler import Scheduler
from pronk.engine.sequence import Piece, Request
from pronk.engine.text import TextStream
from pronk.text.pieces import Pieces
from pronk.text.tokenizer import Tokenizer

log = logging.getLogger("pronk.serve")
T = TypeVar("T")
News = tuple[int, Piece]  # number of the sample, and what came of it
Score = Callable[[list[list[int]]], list[float]]  # whole conversations' ids -> a reward each


@dataclass
class Served:
    """What a server speaks for: a language model (engine) or a reward model (score)."""

    name: str
    tokenizer: Tokenizer
    context: int  # longest prompt and answer together, tokens
    engine: Engine | None = None
    score: Score | None = None
    stop: tuple[int, ...] = ()  # ids that end an answer
    defaults: dict[str, Any] = field(default_factory=dict)  # fields of Sampling, where a request says nothing
    since: int = field(default_factory=lambda: int(time.time()))  # Unix time
    about: str = ""  # changes with the weights: the fingerprint that replies carry

    @cached_property
    def pieces(self) -> Pieces:
        return Pieces(self.tokenizer)


class Meter(Protocol):
    """Who counts. Called from the service's thread."""

    def began(self, seconds: float) -> None:
        """A request's first token came this long after it was submitted."""

    def ended(self, prompt: int, tokens: int, finish: str, seconds: float, since_first: float) -> None:
        """A sample is over; "cancelled" where nobody waits for it any more."""


@dataclass(eq=False)
class Job:
    """The samples of one request. hear is called from the service's thread: with news, or with why there are none."""

    requests: list[Request]
    streamed: bool
    hear: Callable[[list[News] | Exception], None]
    asked: float = field(default_factory=time.monotonic)
    first: float | None = None
    told: dict[Request, int] = field(default_factory=dict)  # how many ids of each were told
    left: int = 0  # samples that have not ended

    def __post_init__(self) -> None:
        self.left = len(self.requests)


class Service:
    """Between two steps of the scheduler the thread does what it finds in its inbox; with nothing to do it sleeps."""

    def __init__(self, load: Callable[[], Served], meter: Meter, queue: int) -> None:
        """queue: answers that may wait for a slot. load runs in the thread; until it is done, all is refused."""
        self._load, self.meter, self.queue = load, meter, queue
        self.served: Served | None = None
        self.failure: Exception | None = None  # why loading failed
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._jobs: dict[Job, None] = {}  # in the order they came
        self._scheduler: Scheduler | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="pronk-service", daemon=True)

    # ── from any thread

    def start(self, settled: Callable[[], None] = lambda: None) -> None:
        """settled is called from the thread once the model is loaded, or cannot be."""
        self._settled = settled
        self._thread.start()

    def close(self) -> None:
        """End the thread; who still waits is told so."""
        self._closing = True
        self._inbox.put(lambda: None)
        if self._thread.is_alive():
            self._thread.join(timeout=30)

    @property
    def running(self) -> int:
        return len(self._scheduler.live) if self._scheduler else 0

    @property
    def waiting(self) -> int:
        return max(0, sum(job.left for job in list(self._jobs)) - self.running)

    def ready(self) -> Served:
        """What is served; a Refusal while it cannot be."""
        if self._closing:
            raise not_ready("the server is stopping")
        if self.served is None:
            raise not_ready("the model is still being loaded" if self.failure is None else "the model cannot be loaded")
        return self.served

    def submit(self, job: Job) -> None:
        """Queue a job; a Refusal where too many wait."""
        self.ready()
        self.refuse_if_full()
        self._jobs[job] = None
        self._inbox.put(lambda: self._add(job))

    def cancel(self, job: Job) -> None:
        """Free the slots of a job; nothing if it is over."""
        self._inbox.put(lambda: self._drop(job))

    def do(self, work: Callable[[], T], admitted: bool = False) -> "Future[T]":
        """Run something that needs the model, between two steps. admitted: part of a request that was let in."""
        self.ready()
        if not admitted:
            self.refuse_if_full()
        future: Future[T] = Future()
        self._inbox.put(lambda: _fulfil(future, work))
        return future

    def refuse_if_full(self) -> None:
        slots = self.served.engine.slots if self.served and self.served.engine else 0
        beyond = max(sum(job.left for job in list(self._jobs)) - slots, self._inbox.qsize())
        if beyond >= self.queue:
            raise busy(beyond)

    # ── in the thread

    def _run(self) -> None:
        try:
            self.served = self._load()
        except Exception as error:
            self.failure = error
        self._settled()
        if self.served is None:
            return
        while not self._closing:
            engine = self.served.engine
            try:
                with engine.scheduler(len(self.served.stop)) if engine else nullcontext() as scheduler:
                    self._scheduler = scheduler
                    self._serve()
            except Exception as error:  # of the model: bad weights, no memory; the next request finds fresh memory
                log.exception("the model failed")
                self._fail(error)
        self._fail(not_ready("the server is stopping"))

    def _serve(self) -> None:
        while not self._closing:
            scheduler = self._scheduler
            self._heed(wait=scheduler is None or not scheduler.busy)
            if scheduler is not None and scheduler.busy and not self._closing:
                scheduler.step()
                self._tell(scheduler)

    def _heed(self, wait: bool) -> None:
        """Do what the inbox holds."""
        try:
            self._inbox.get(block=wait)()
            while True:
                self._inbox.get_nowait()()
        except Empty:
            pass

    def _add(self, job: Job) -> None:
        if self._scheduler is not None and job in self._jobs:
            self._scheduler.add(job.requests)

    def _drop(self, job: Job) -> None:
        if job not in self._jobs:
            return
        del self._jobs[job]
        for request in job.requests:
            if request.finish is None and self._scheduler is not None:
                self._scheduler.cancel(request)
                self._count(job, request, "cancelled")

    def _tell(self, scheduler: Scheduler) -> None:
        """Let each job hear what the last step brought it."""
        now, live = time.monotonic(), set(scheduler.live)
        for job in list(self._jobs):
            if job.first is None and any(r in live or r.finish for r in job.requests):
                job.first = now
                self.meter.began(now - job.asked)
            if news := list(self._news(job)):
                job.left -= sum(piece.finish is not None for _, piece in news)
                if not job.left:
                    del self._jobs[job]
                job.hear(news)

    def _news(self, job: Job) -> Iterator[News]:
        for number, request in enumerate(job.requests):
            told = job.told.get(request, 0)
            if told < 0 or not (request.finish or (job.streamed and len(request.ids) > told)):
                continue
            job.told[request] = -1 if request.finish else len(request.ids)
            yield number, self._piece(job, request, told)
            if request.finish:
                self._count(job, request, request.finish)

    def _piece(self, job: Job, request: Request, told: int) -> Piece:
        final = request.finish is not None
        if job.streamed and isinstance(request.text, TextStream):
            request.text.push([], final)
            text = request.text.take(final)
        else:
            assert self.served is not None and self.served.engine is not None
            text = self.served.engine.completion(request).text or ""
        return Piece(text, request.ids[told:], request.logps[told:], request.finish)

    def _count(self, job: Job, request: Request, finish: str) -> None:
        now = time.monotonic()
        since = 0.0 if job.first is None else now - job.first
        self.meter.ended(len(request.prompt), len(request.ids), finish, now - job.asked, since)

    def _fail(self, error: Exception) -> None:
        """All that was asked comes to nothing."""
        for job in list(self._jobs):
            del self._jobs[job]
            job.hear(error)


def _fulfil(future: "Future[T]", work: Callable[[], T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(work())
    except Exception as error:
        future.set_exception(error)
