"""Twenty people at one vote a second for a minute: nearly all are acknowledged within 100 ms. By hand: make soak."""

import random
import statistics
import threading
import time

import pytest

from pronk.data.records import Message
from pronk.feedback import schema
from pronk.feedback.desk import Answer, add_item
from pronk.feedback.simulate import Guest
from pronk.feedback.store import Store

from .make import rows
from .test_kill import Server

PEOPLE, SECONDS = 20, 60


def vote_on(guest, rng, times):
    time.sleep(rng.random())
    end = time.monotonic() + SECONDS
    for number in range(SECONDS):
        shown = guest.next()
        begun = time.perf_counter()
        guest.answer(f"{guest.csrf[:12]}-{number:06d}", showing=shown["id"], choice="left", strength=2)
        times.append(time.perf_counter() - begun)
        time.sleep(max(0.0, end - SECONDS + number + 1 - time.monotonic()))


@pytest.mark.soak
def test_twenty_people_at_a_vote_a_second_wait_less_than_100_ms(tmp_path, capsys):
    """A reply says that the vote is durable and brings the next pair of two thousand."""
    store = Store(tmp_path / "feedback.db")
    with store.writing() as connection:
        for number in range(2000):
            pair = [Answer(f"one {number} " * 50, "old"), Answer(f"other {number} " * 50, "new")]
            add_item(connection, (Message("user", f"Question {number}?"),), pair, 0.1)
    store.close()
    server = Server(tmp_path / "feedback.db")
    guests = [Guest(f"http://localhost:{server.port}/", f"guest {n}") for n in range(PEOPLE)]
    times = []
    threads = [threading.Thread(target=vote_on, args=(g, random.Random(n), times)) for n, g in enumerate(guests)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    server.kill()
    quantiles = statistics.quantiles(times, n=100)
    with capsys.disabled():
        print(f"\n{len(times)} votes: median {1000 * quantiles[49]:.0f} ms, p95 {1000 * quantiles[94]:.0f} ms, "
              f"most {1000 * max(times):.0f} ms")  # fmt: skip
    assert len(rows(Store(tmp_path / "feedback.db"), schema.answers)) == len(times) == PEOPLE * SECONDS
    assert quantiles[94] < 0.1
