"""Serves the page beside other work; what it serves is app.py's."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any


def server(app: Any) -> Any:
    """A uvicorn server that keeps no log of addresses, which may hold the key."""
    import uvicorn

    limits: dict[str, Any] = {"h11_max_incomplete_event_size": 1 << 14, "timeout_graceful_shutdown": 5}
    quiet: dict[str, Any] = {"log_level": "warning", "access_log": False, "server_header": False}
    return uvicorn.Server(uvicorn.Config(app, lifespan="off", **limits, **quiet))


@contextlib.contextmanager
def served(app: Any, port: int = 0) -> Iterator[str]:
    """Serves on this machine's own address in a thread while the block runs; gives the URL. port 0 is any free one."""
    running = server(app)
    with socket.create_server(("127.0.0.1", port), backlog=512) as door:
        thread = threading.Thread(target=running.run, args=([door],), daemon=True)
        thread.start()
        while not running.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        try:
            yield f"http://localhost:{door.getsockname()[1]}/"
        finally:
            running.should_exit = True
            thread.join(10)
