"""The page's HTTP: sessions, what to show, what was answered, guidelines, dashboard; rules are desk.py's."""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import Connection

from pronk.errors import UserError
from pronk.feedback import desk, static
from pronk.feedback.desk import Refused
from pronk.feedback.facts import facts, newest
from pronk.feedback.guard import Guard, cookie, cookie_line, csrf, same
from pronk.feedback.pages import guidelines_page
from pronk.feedback.rule import Rule
from pronk.feedback.store import Store

STATIC = Path(static.__file__).parent
PAGES = {"/": "collect.html", "/dashboard": "dashboard.html"}
FILES = {"page.css", "common.js", "collect.js", "dashboard.js", "guidelines.js", "icon.svg"}
SESSION = "pronk_session"
Draw = Callable[[Mapping[str, Any], str, bool], bytes]  # facts, name of the picture, dark -> PNG


@dataclass
class Status:
    """What the page tells of the work behind it."""

    making: bool = False
    """more pairs are on their way"""
    trouble: str = ""
    """why they stopped coming"""
    failure: Exception | None = None
    goal: int = 0
    """votes after which the collecting is over; 0 = none"""
    finished: Callable[[], None] = field(default=lambda: None)
    """called when someone says that the collecting is over"""

    def reached(self, votes: int) -> bool:
        return 0 < self.goal <= votes


def whole(text: str) -> str:
    """Text that can be stored as UTF-8."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("half a character (a lone surrogate)")
    return text


Text = Annotated[str, AfterValidator(whole)]
Key = Annotated[str, Field(min_length=8, max_length=64, pattern=r"^[\w-]+$")]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Join(Body):
    name: Annotated[Text, Field(min_length=1, max_length=80)]


class Keyed(Body):
    key: Key  # the sender's own: sent twice, it counts once


class Answered(Keyed):
    showing: Annotated[str, Field(max_length=64)]
    note: Annotated[Text, Field(max_length=4000)] = ""
    seconds: Annotated[float, Field(ge=0, le=1e7, allow_inf_nan=False, strict=False)] = 0.0


class Vote(Answered):
    choice: Literal["left", "right", "tie", "bad"]
    strength: Annotated[int, Field(ge=0, le=4)] = 0
    edit: Annotated[Text, Field(max_length=40_000)] = ""

    @model_validator(mode="after")
    def fits(self) -> "Vote":
        better = self.choice in ("left", "right")
        if better != (self.strength > 0):
            raise ValueError("strength is 1 to 4 where one answer is better, and 0 otherwise")
        if self.edit and not better:
            raise ValueError("only the better answer can be edited")
        return self


class Skip(Answered):
    reason: Literal["cannot judge", "the same", "makes no sense", "rather not"]


class Flag(Answered):
    reason: Literal["harmful", "personal", "broken", "other"]


class Read(Body):
    version: int


@dataclass(frozen=True)
class Person:
    id: str  # pseudonym
    name: str


def create_app(store: Store, rule: Rule, draw: Draw, status: Status | None = None, key: str = "") -> Any:
    """The whole page as an ASGI application. key: "" on loopback, else what the URL must carry."""
    status = status or Status()
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.store = store
    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(UserError, refused)
    app.add_exception_handler(RequestValidationError, malformed)
    add_pages(app, store)
    add_person(app, store, status, again=not key)
    add_sitting(app, store, rule, status)
    add_answers(app, store, rule, status)
    add_facts(app, store, draw)
    return Guard(app, key)


async def refused(request: Request, error: Exception) -> Response:
    code = error.status if isinstance(error, Refused) else 409
    return JSONResponse({"error": str(error)}, code)


async def malformed(request: Request, error: Exception) -> Response:
    """Says what is wrong without repeating what was sent, which may not even be text."""
    assert isinstance(error, RequestValidationError)
    told = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
    return JSONResponse({"error": "; ".join(told)}, 422)


def add_pages(app: FastAPI, store: Store) -> None:
    def page(name: str) -> Callable[[], Response]:
        return lambda: FileResponse(STATIC / name, media_type="text/html")

    for path, name in PAGES.items():
        app.get(path)(page(name))

    @app.get("/static/{name}")
    def file(name: str) -> Response:
        return FileResponse(STATIC / name) if name in FILES else JSONResponse({"error": "no such file"}, 404)

    @app.get("/guidelines")
    def read() -> Response:
        with store.reading() as connection:
            newest = desk.current(connection)
        return HTMLResponse(guidelines_page(STATIC, newest.version if newest else 0, newest.text if newest else ""))


def add_person(app: FastAPI, store: Store, status: Status, again: bool) -> None:
    @app.get("/api/me")
    def me(request: Request) -> Response:
        """Who is asking, their CSRF token, and how far they are. Whoever is new gets a session to join with."""
        token = cookie(request.headers, SESSION)
        found = store.who(token) if token else None
        told: dict[str, Any] = {"name": found[1] if found else None}
        with store.reading() as connection:
            newest = desk.current(connection)
            told["guidelines"] = newest.version if newest else 0
            told["read"] = desk.read_version(connection, found[0]) if found else 0
            told["progress"] = desk.progress(connection, found[0] if found else "")
        told |= {"making": status.making, "trouble": status.trouble, "goal": status.goal}
        token = token or secrets.token_urlsafe(32)
        return JSONResponse(told | {"csrf": csrf(token)}, headers={"Set-Cookie": cookie_line(SESSION, token)})

    @app.post("/api/join")
    def join(body: Join, request: Request) -> Response:
        check_csrf(request, cookie(request.headers, SESSION))
        _, token = store.join(" ".join(body.name.split()) or "nobody", again)
        return JSONResponse({"csrf": csrf(token)}, headers={"Set-Cookie": cookie_line(SESSION, token)})


def check_csrf(request: Request, token: str) -> None:
    if not token or not same(request.headers.get("x-csrf", ""), csrf(token)):
        raise Refused("this page is out of date; load it again", 403)


def person(request: Request) -> Person:
    """Whoever asks; who has not joined is refused."""
    token = cookie(request.headers, SESSION)
    check_csrf(request, token)
    found = request.app.state.store.who(token)
    if found is None:
        raise Refused("say who you are first", 401)
    return Person(*found)


Someone = Annotated[Person, Depends(person)]


def going_on(connection: Connection, status: Status, rule: Rule, someone: Person) -> dict[str, Any]:
    """How far they are, and what they see next."""
    far = desk.progress(connection, someone.id)
    done = status.reached(far["votes"])
    shown = None if done else desk.show(connection, someone.id, rule)
    told = {"progress": far, "making": status.making, "trouble": status.trouble, "goal": status.goal, "done": done}
    return told | {"showing": shown._asdict() if shown else None}


def add_sitting(app: FastAPI, store: Store, rule: Rule, status: Status) -> None:
    @app.post("/api/read")
    def read(body: Read, someone: Someone) -> dict[str, int]:
        with store.writing() as connection:
            desk.mark_read(connection, someone.id, body.version)
        return {"version": body.version}

    @app.post("/api/next")
    def next_pair(someone: Someone) -> dict[str, Any]:
        with store.writing() as connection:
            return going_on(connection, status, rule, someone)

    @app.post("/api/finish")
    def finish(someone: Someone) -> dict[str, bool]:
        with store.reading() as connection:
            votes = desk.progress(connection, someone.id)["votes"]
        if not status.reached(votes):
            raise Refused("the collecting is not over")
        status.finished()
        return {"finished": True}


def add_answers(app: FastAPI, store: Store, rule: Rule, status: Status) -> None:
    """Each stores an answer and goes on, in one transaction."""

    def stored(someone: Person, kind: str, body: Answered) -> dict[str, Any]:
        with store.writing() as connection:
            event = desk.answer(connection, someone.id, kind, body.key, body.model_dump(exclude={"key"}))
            return {"event": event, "next": going_on(connection, status, rule, someone)}

    @app.post("/api/vote")
    def vote(body: Vote, someone: Someone) -> dict[str, Any]:
        return stored(someone, "vote", body)

    @app.post("/api/skip")
    def skip(body: Skip, someone: Someone) -> dict[str, Any]:
        return stored(someone, "skip", body)

    @app.post("/api/flag")
    def flag(body: Flag, someone: Someone) -> dict[str, Any]:
        return stored(someone, "flag", body)

    @app.post("/api/undo")
    def undo(body: Keyed, someone: Someone) -> dict[str, Any]:
        with store.writing() as connection:
            event = desk.undo(connection, someone.id, body.key)
            return {"event": event, "next": going_on(connection, status, rule, someone)}


def add_facts(app: FastAPI, store: Store, draw: Draw) -> None:
    pictures: dict[tuple[str, bool], tuple[int, bytes]] = {}

    @app.get("/api/facts")
    def told() -> dict[str, Any]:
        with store.reading() as connection:
            return facts(connection)

    @app.get("/plots/{name}.png")
    def plot(name: Literal["standing", "pace"], dark: bool = False) -> Response:
        with store.reading() as connection:
            last = newest(connection)
            if pictures.get((name, dark), (-1, b""))[0] != last:
                pictures[name, dark] = last, draw(facts(connection), name, dark)
        return Response(pictures[name, dark][1], media_type="image/png")
