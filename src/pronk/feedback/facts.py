"""What the dashboard and `pronk feedback stats` tell: numbers from the current state; drawing is evals' affair."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from sqlalchemy import Connection, Row, func, select

from pronk.feedback import agree, standing
from pronk.feedback.agree import Ballot
from pronk.feedback.desk import count
from pronk.feedback.schema import answers, events, items, showings
from pronk.feedback.standing import Verdict

OUTCOME = {"first": 1.0, "second": 0.0, "tie": 0.5, "bad": 0.5}
HOUR = 3600.0
PAUSE = 300.0  # seconds without a vote after which the clock of work stands still


def newest(connection: Connection) -> int:
    return count(connection, select(func.max(events.c.id)))


def voted(connection: Connection) -> Sequence[Row[Any]]:
    """The votes that people gave here, with their pairs, in the order of casting."""
    query = select(answers, items.c.first_model, items.c.second_model, showings.c.reason.label("picked"))
    query = query.join(items, items.c.id == answers.c.item).join(showings, showings.c.id == answers.c.showing)
    return connection.execute(query.where(answers.c.kind == "vote").order_by(answers.c.event)).all()


def facts(connection: Connection) -> dict[str, Any]:
    """Counts, standings, agreement and pace.

    Repeated votes count for agreement alone; models are judged by pairs that came in a uniform order, since pairs that
    reward models picked are no fair sample.
    """
    votes = voted(connection)
    once = [row for row in votes if not row.repeat]
    ballots = [Ballot(row.person, row.item, row.choice, row.left, row.repeat) for row in votes]
    first = [Ballot(row.person, row.item, row.choice, row.left, row.repeat) for row in once]
    fair = [Verdict(r.first_model, r.second_model, OUTCOME[r.choice]) for r in once if r.picked == "uniform"]
    return {
        "counts": counts(connection, votes),
        "standings": standing.as_rows(standing.standings(fair)),
        "duels": standing.as_rows(standing.duels(fair)),
        "bad": bad_rates(once),
        "left": agree.left_rate(ballots)._asdict(),
        "self": agree.self_agreement(ballots)._asdict(),
        "others": agree.pairwise_agreement(first)._asdict() | {"alpha": agree.alpha(first)},
        "pace": pace([row.at for row in votes]),
    }


def counts(connection: Connection, votes: Sequence[Row[Any]]) -> dict[str, int]:
    kinds: dict[str, int] = dict(
        connection.execute(select(answers.c.kind, func.count()).group_by(answers.c.kind)).tuples().all()
    )
    choices = Counter(row.choice for row in votes)
    return {
        "pairs": count(connection, select(func.count()).where(items.c.asked)),
        "people": len({row.person for row in votes}),
        "votes": len(votes),
        "repeats": sum(row.repeat for row in votes),
        "ties": choices["tie"],
        "both bad": choices["bad"],
        "edits": sum(bool(row.edit) for row in votes),
        "skips": kinds.get("skip", 0),
        "flags": kinds.get("flag", 0),
        "imported": kinds.get("vote", 0) - len(votes),
    }


def bad_rates(rows: Sequence[Row[Any]]) -> list[dict[str, Any]]:
    """How often a model's answer was one of two that were both bad."""
    models = sorted({name for row in rows for name in (row.first_model, row.second_model)})
    return [
        {"model": name}
        | agree.share(row.choice == "bad" for row in rows if name in (row.first_model, row.second_model))._asdict()
        for name in models
    ]


def pace(times: Sequence[float]) -> dict[str, Any]:
    """Votes in each hour since the first, and votes an hour of work: pauses longer than five minutes are left out."""
    if not times:
        return {"hours": [], "rate": None}
    start = min(times) // HOUR * HOUR
    by_hour = Counter(int((at - start) // HOUR) for at in times)
    hours = [{"start": start + hour * HOUR, "votes": n} for hour, n in sorted(by_hour.items())]
    ordered = sorted(times)
    gaps = [later - earlier for earlier, later in pairwise(ordered) if later - earlier <= PAUSE]
    return {"hours": hours, "rate": HOUR * len(gaps) / sum(gaps) if sum(gaps) > 0 else None}
