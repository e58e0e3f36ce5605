"""Serves an application on a socket of ours until it is told to stop; what it serves is app.py's."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from pronk.errors import UserError


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except OSError as error:
        found.close()
        raise UserError(f"cannot listen on {host}, port {port} ({error.strerror}); choose another --port") from None
    return found


def address(host: str, port: int, key: str = "") -> str:
    """What to type into the browser on this machine, or on others where host is one of our own addresses."""
    shown = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname(), "127.0.0.1": "localhost"}.get(host, host)
    shown = f"[{shown}]" if ":" in shown else shown
    return f"http://{shown}:{port}/" + (f"?key={key}" if key else "")


def server(app: Any) -> Any:
    """A server without a log of addresses, which hold the key."""
    import uvicorn

    settings = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        h11_max_incomplete_event_size=16384,
    )
    return uvicorn.Server(settings)


@contextlib.contextmanager
def served(app: Any, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serves in a thread while the block runs; gives the address."""
    place = listen(host, port)
    running = server(app)
    thread = threading.Thread(target=running.run, args=([place],), daemon=True)
    thread.start()
    try:
        while not running.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        yield address(host, place.getsockname()[1])
    finally:
        running.should_exit = True
        thread.join(10)
        place.close()
