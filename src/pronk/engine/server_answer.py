"""Runs a plan and answers it, whole or as server-sent events; a client that leaves takes its samples along."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from pronk.engine.likely import Place
from pronk.engine.protocol import Limits
from pronk.engine.refusal import Refusal
from pronk.engine.replies import Json
from pronk.engine.sequence import Piece
from pronk.engine.server_plan import Plan
from pronk.engine.service import Job, News, Service
from pronk.errors import UserError

log = logging.getLogger("pronk.serve")
T = TypeVar("T")


class Listening:
    """A plan's samples on their way, for asyncio. Made inside the event loop; `leave` gives their slots back."""

    def __init__(self, service: Service, plan: Plan, streamed: bool) -> None:
        loop, self._queue = asyncio.get_running_loop(), asyncio.Queue[list[News] | Exception]()

        def hear(news: list[News] | Exception) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
                loop.call_soon_threadsafe(self._queue.put_nowait, news)

        self.service = service
        self.requests = plan.requests if plan.sampling.max_tokens else []
        self._job = Job(self.requests, streamed, hear)
        if streamed:
            plan.watch()
        if self.requests:
            service.submit(self._job)
        else:
            service.refuse_if_full()
            nothing: list[News] = [(n, Piece("", [], [], "length")) for n in range(len(plan.requests))]
            self._queue.put_nowait(nothing)
        self.left = len(plan.requests)

    async def news(self) -> AsyncIterator[News]:
        while self.left:
            heard = await self._queue.get()
            if isinstance(heard, Exception):
                raise failed(heard)
            for number, piece in heard:
                self.left -= piece.finish is not None
                yield number, piece

    async def settle(self, plan: Plan, number: int, piece: Piece) -> list[Place]:
        """The places of a whole sample, worked out between two steps of the others."""
        work = self.service.do(lambda: plan.settled_places(number, piece), admitted=True)
        try:
            return await asyncio.wrap_future(work)
        except Exception as error:
            log.exception("the model failed")
            raise failed(error) from None

    def leave(self) -> None:
        if self.requests:
            self.service.cancel(self._job)


def failed(error: Exception) -> Refusal:
    """What a client hears of a model that failed."""
    if isinstance(error, Refusal):
        return error
    return Refusal(500, f"the model failed: {error}" if isinstance(error, UserError) else "the model failed")


async def respond(service: Service, plan: Plan, request: Request, limits: Limits) -> Response:
    """The reply to a plan."""
    listening = Listening(service, plan, plan.streamed and not plan.settled_late)
    if plan.streamed:
        return Events(_events(plan, listening, limits), listening.leave, limits.slow)
    try:
        return JSONResponse(await unless_gone(request, _whole(plan, listening, limits)))
    finally:
        listening.leave()


async def _whole(plan: Plan, listening: Listening, limits: Limits) -> Json:
    async with in_time(limits):
        pieces = {number: piece async for number, piece in listening.news()}
        answers = []
        for number in sorted(pieces):
            piece = pieces[number]
            places = plan.sampled_places(piece)
            if plan.settled_late:
                places = await listening.settle(plan, number, piece)
            answers.append(plan.answer(number, piece, places))
    return plan.shape.reply(answers, plan.counts(sum(len(piece.ids) for piece in pieces.values())))


async def _events(plan: Plan, listening: Listening, limits: Limits) -> AsyncIterator[str]:
    """A chunk with each choice's role, or echo; chunks of text; each choice's finish reason; usage; the end."""
    sampled = 0
    blank = {"usage": None} if plan.include_usage else {}
    try:
        async with in_time(limits):
            for number in range(len(plan.requests)):
                opening = plan.shape.opening(number, plan.prompt(number).text if plan.echo and plan.top is None else "")
                if opening is not None:
                    yield event(plan.shape.chunk([opening]) | blank)
            async for number, piece in listening.news():
                sampled += len(piece.ids)
                async for choice in _choices(plan, listening, number, piece):
                    yield event(plan.shape.chunk([choice]) | blank)
            if plan.include_usage:
                yield event(plan.shape.chunk([]) | {"usage": plan.counts(sampled)})
    except Refusal as refusal:
        yield event(refusal.body())
        return
    yield "data: [DONE]\n\n"


async def _choices(plan: Plan, listening: Listening, number: int, piece: Piece) -> AsyncIterator[Json]:
    """What a piece of news brings to a stream. Ids may come before their text: half characters are held back."""
    text, places = piece.text, plan.sampled_places(piece)
    if plan.settled_late:
        places = await listening.settle(plan, number, piece)
        text = (plan.prompt(number).text if plan.echo else "") + text
    if text or places or (plan.shape.ids and piece.ids):
        yield plan.shape.piece(number, text, piece.ids, places)
    if piece.finish:
        yield plan.shape.closing(number, piece.finish)


def event(value: Json) -> str:
    return f"data: {json.dumps(value, ensure_ascii=True, allow_nan=False)}\n\n"


@contextlib.asynccontextmanager
async def in_time(limits: Limits) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(limits.seconds):
            yield
    except TimeoutError:
        message = f"this took longer than the {limits.seconds:g} seconds that the server gives a request"
        raise Refusal(504, message, code="timeout", headers={"x-should-retry": "false"}) from None


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of work, which is cancelled if the client goes away first."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Refusal(499, "the client went away")  # nobody will read it
        return task.result()
    finally:
        await _end(task, gone)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(*tasks: "asyncio.Future[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Events(StreamingResponse):
    """A stream that ends when it is told, when the client goes away, or when it takes nothing for `slow` seconds."""

    def __init__(self, source: AsyncIterator[str], leave: Callable[[], None], slow: float) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(source, media_type="text/event-stream", headers=headers)
        self.leave, self.slow = leave, slow

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Any) -> None:
            async with asyncio.timeout(self.slow):
                await send(message)

        writing = asyncio.ensure_future(self.stream_response(send_in_time))
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({writing, gone}, return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                with contextlib.suppress(TimeoutError):
                    writing.result()
        finally:
            self.leave()
            await _end(writing, gone)
