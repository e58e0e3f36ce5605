"""`pronk serve FOLDER`: an OpenAI-compatible server for a language model, or for a reward model; this machine only."""

import errno
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pronk.commands.generate import FOLDERS_SAY, settings, stop_ids
from pronk.errors import UserError

if TYPE_CHECKING:
    import torch
    import uvicorn

    from pronk.engine.service import Served

BARE = ("settings", "model")
GRACE = 10  # seconds that running requests get once the server is told to stop
KEY = "PRONK_API_KEY"


@dataclass
class Config:
    """Answers over HTTP as OpenAI does. A reward model's folder is served at /v1/score."""

    model: str
    """Model folder."""
    name: str = ""
    """What clients call the model; empty = the folder's name."""
    host: str = "127.0.0.1"
    """Address to listen on. Any but this machine's own needs a key in the environment variable PRONK_API_KEY."""
    port: int = 8000
    """0 = any free one."""
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of a language model's weights; auto = bf16 on GPUs that have it, else fp32."""
    slots: int = 64
    """Answers sampled at once; each takes the memory of a whole context. More requests wait."""
    queue: int = 64
    """Answers that may wait; beyond them requests are told to come again (429)."""
    seconds: float = 600
    """Longest time a request may take."""
    quiet: bool = False
    """No line for each request."""


def run(config: Config) -> None:
    try:
        import fastapi  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install 'pronk[serve]'") from None
    from pronk.engine.protocol import Limits
    from pronk.engine.server import create_app
    from pronk.engine.server_metrics import Metrics
    from pronk.engine.service import Service

    key = os.environ.get(KEY) or None
    check(config, key)
    metrics = Metrics()
    limits = Limits(queue=config.queue, seconds=config.seconds)
    with listening(config.host, config.port) as door:
        service = Service(lambda: load(config), metrics, config.queue)
        address = url(config.host, door.getsockname()[1])

        def settled() -> None:
            if service.served is None:
                server.should_exit = True
            else:
                announce(service.served, address, key)

        app = create_app(service, metrics, limits, key, hosts(config.host), settled)
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                http="h11",
                log_level=None,
                log_config=logging_config(config.quiet),
                h11_max_incomplete_event_size=limits.headers,
                timeout_graceful_shutdown=GRACE,
                server_header=False,
            )
        )
        until_stopped(server, door)
        if service.failure is not None:
            raise service.failure
    say("stopped")


def check(config: Config, key: str | None) -> None:
    if not is_loopback(config.host) and not key:
        raise UserError(
            f"host {config.host} lets other machines in, so clients need a key: set the environment variable {KEY}"
        )
    for name in ("slots", "queue"):
        if getattr(config, name) < 1:
            raise UserError(f"--{name} must be 1 or more, not {getattr(config, name)}")
    if not config.seconds > 0:
        raise UserError(f"--seconds must be above 0, not {config.seconds}")
    if not 0 <= config.port < 1 << 16:
        raise UserError(f"--port must be from 0 to 65535, not {config.port}")
    if not Path(config.model).is_dir():
        raise UserError(f"{config.model}: no such folder")


def is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def hosts(host: str) -> frozenset[str] | None:
    """Names by which a server on this address may be called."""
    from pronk.engine.server_guard import LOOPBACK

    return LOOPBACK | {host} if is_loopback(host) else None


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        door = socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        cure = (
            "another server uses it; choose one with --port, or --port 0 for any"
            if error.errno == errno.EADDRINUSE
            else ""
        )
        raise UserError(f"cannot listen on {host}:{port}: {cure or error.strerror}") from None
    with door:
        yield door


def url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def load(config: Config) -> "Served":
    """The folder, ready to be served."""
    import torch

    from pronk.engine.service import Served
    from pronk.folders import configs, tensors
    from pronk.folders.huggingface import config_file
    from pronk.learn.build import pick_device

    torch.seed()  # a fresh process would always draw the same
    device = pick_device(config.device)
    is_scorer = configs.is_scorer(tensors.read_json(config_file(config.model)))
    parts = score_parts(config, device) if is_scorer else speaking_parts(config, device)
    return Served(config.name or name_of(config.model), about=fingerprint(config.model), **parts)


def speaking_parts(config: Config, device: "torch.device") -> dict[str, Any]:
    """Of Served, for a language model."""
    import torch

    from pronk.engine.engine import Engine
    from pronk.folders.huggingface import load
    from pronk.learn.build import pick_precision

    model, tokenizer = load(config.model, device)
    says = settings(config.model)
    wish = "fp32" if config.precision == "auto" and device.type != "cuda" else config.precision
    dtype = torch.bfloat16 if pick_precision(wish, device) == "bf16" else None
    engine = Engine(model, tokenizer.decode, config.slots, dtype=dtype)
    stop = stop_ids(tokenizer, says, bool(tokenizer.template))
    defaults = {key: says[key] for key in FOLDERS_SAY if isinstance(says.get(key), int | float)}
    return {"tokenizer": tokenizer, "context": engine.context, "engine": engine, "stop": stop, "defaults": defaults}


def score_parts(config: Config, device: "torch.device") -> dict[str, Any]:
    """Of Served, for a reward model."""
    from pronk.engine.score import score_rows
    from pronk.folders.huggingface import load_scorer, read_config

    scorer, tokenizer = load_scorer(config.model, device)
    context = read_config(config.model).context
    return {"tokenizer": tokenizer, "context": context, "score": lambda rows: score_rows(scorer, rows)}


def name_of(folder: str) -> str:
    """The folder's name; that of its run, where it is the `model` of one."""
    path = Path(folder).resolve()
    return path.parent.name if path.name == "model" and path.parent.name else path.name


def fingerprint(folder: str) -> str:
    """Changes when the weights' files do: a hash of their sizes and times."""
    import hashlib

    from pronk.folders.swap import standing

    files = sorted(standing(Path(folder)).glob("*.safetensors"))
    text = "".join(f"{file.name}{file.stat().st_size}{file.stat().st_mtime_ns}" for file in files)
    return "fp_" + hashlib.sha256(text.encode()).hexdigest()[:10]


def announce(served: "Served", address: str, key: str | None) -> None:
    """The address, the model's name, and a line to try."""
    if served.engine is None:
        path, example = "score", '"prompt": "Hello", "answers": ["Hi!", "Go away."]'
    elif served.tokenizer.template:
        path, example = "chat/completions", '"messages": [{"role": "user", "content": "Hello"}]'
    else:
        path, example = "completions", '"prompt": "Once upon a time"'
    bearer = f' -H "Authorization: Bearer ${KEY}"' if key else ""
    say(f"{served.name} is served on {address}/v1 (context {served.context} tokens). Try:\n")
    say(f"curl {address}/v1/{path} -H 'Content-Type: application/json'{bearer} \\")
    say(f'  -d \'{{"model": "{served.name}", {example}}}\'\n')
    say("Ctrl-C stops it.")


def say(line: str) -> None:
    print(line, flush=True)


def logging_config(quiet: bool) -> dict[str, Any]:
    """Warnings of ours and uvicorn's, and a line for each request unless quiet, to stderr."""
    levels = {"uvicorn.error": "WARNING", "pronk.serve": "WARNING", "uvicorn.access": "WARNING" if quiet else "INFO"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"plain": {"format": "%(levelname)s %(message)s"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain"}},
        "loggers": {
            name: {"level": level, "handlers": ["stderr"], "propagate": False} for name, level in levels.items()
        },
    }


def until_stopped(server: "uvicorn.Server", door: socket.socket) -> None:
    """Run until SIGINT or SIGTERM. uvicorn ends calmly on both, then raises them anew for the handlers it found."""
    before = {name: signal.signal(name, lambda *_: None) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run(sockets=[door])
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
