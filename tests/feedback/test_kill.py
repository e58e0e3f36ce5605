"""kill -9 while a thousand votes come in: none that was acknowledged is lost, none is stored twice."""

import http.client
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter

from pronk.data.records import Message
from pronk.feedback import schema, state
from pronk.feedback.desk import Answer, add_item
from pronk.feedback.simulate import Guest
from pronk.feedback.store import Store

from .make import rows

VOTES, PEOPLE, KILLS = 1000, 4, 5
SERVE = """
import sys, time
from pronk.feedback.app import create_app
from pronk.feedback.rule import Rule
from pronk.feedback.serving import served
from pronk.feedback.store import Store

app = create_app(Store(sys.argv[1]), Rule(evaluation=0.0, repeat=0.02), lambda *_: b"")
with served(app, int(sys.argv[2])):
    print("ready", flush=True)
    time.sleep(600)
"""


class Server:
    """A server in a process of its own, on the same port and database each time."""

    def __init__(self, path):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.path = path
        self.start()

    def start(self):
        words = [sys.executable, "-c", SERVE, str(self.path), str(self.port)]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "ready\n"

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()


class Stubborn(Guest):
    """Sends the same again until it is answered, as the page does."""

    def ask(self, method, path, body=None):
        for _ in range(2000):
            try:
                return super().ask(method, path, body)
            except (OSError, http.client.HTTPException):
                self.connection.close()
                time.sleep(0.02)
        raise AssertionError("the server did not come back")


def vote_on(guest, count, acknowledged, rng):
    for number in range(count):
        shown = guest.next()
        key = f"{guest.csrf[:12]}-{number:06d}"
        choice, strength = rng.choice([("left", 1), ("right", 4), ("tie", 0), ("bad", 0)])
        event = guest.answer(key, showing=shown["id"], choice=choice, strength=strength)
        acknowledged[key] = (event, shown["id"], choice, strength)


def test_kill_9_during_a_thousand_votes_loses_none_and_doubles_none(tmp_path):
    store = Store(tmp_path / "feedback.db")
    with store.writing() as connection:
        for number in range(VOTES + 50):
            pair = [Answer(f"one {number}", "old"), Answer(f"other {number}", "new")]
            add_item(connection, (Message("user", f"Question {number}?"),), pair, 0.0)
    store.close()
    server, rng = Server(tmp_path / "feedback.db"), random.Random(0)
    guests = [Stubborn(f"http://localhost:{server.port}/", f"guest {n}") for n in range(PEOPLE)]
    acknowledged = {}
    threads = [
        threading.Thread(target=vote_on, args=(guest, VOTES // PEOPLE, acknowledged, random.Random(n)))
        for n, guest in enumerate(guests)
    ]
    for thread in threads:
        thread.start()
    kills = 0
    while any(thread.is_alive() for thread in threads):
        enough = len(acknowledged) >= (kills + 1) * VOTES // (KILLS + 1)
        if kills < KILLS and enough:
            time.sleep(rng.uniform(0, 0.05))
            server.kill()
            server.start()
            kills += 1
        time.sleep(0.01)
    server.kill()
    assert kills == KILLS and len(acknowledged) == VOTES

    store = Store(tmp_path / "feedback.db")
    events = {row.id: row for row in rows(store, schema.events) if row.kind == "vote"}
    assert len(events) == VOTES == len(rows(store, schema.answers))
    assert Counter(row.key for row in events.values()).most_common(1)[0][1] == 1
    stored = {row.event: row for row in rows(store, schema.answers)}
    for key, (event, showing, choice, strength) in acknowledged.items():
        assert events[event].key.endswith(key)
        row = stored[event]
        side = {"left": row.left, "right": "second" if row.left == "first" else "first"}.get(choice, choice)
        assert (row.showing, row.choice, row.strength) == (showing, side, strength)
    with store.reading() as connection:
        live = state.snapshot(connection)
    store.rebuild()
    with store.reading() as connection:
        assert state.snapshot(connection) == live
