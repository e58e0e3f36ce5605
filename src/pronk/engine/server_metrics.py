"""What the server counts, for Prometheus: requests, tokens, queue and times; each server has a registry of its own."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
SHORT = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


class Metrics:
    """A service.Meter."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._answers = Counter("pronk_requests", "Answers, by how they ended", ["finish_reason"], registry=registry)
        self._refused = Counter("pronk_refusals", "Requests refused, by status", ["status"], registry=registry)
        self._prompt = Counter("pronk_prompt_tokens", "Tokens of prompts, once for each answer", registry=registry)
        self._sampled = Counter("pronk_generation_tokens", "Tokens sampled", registry=registry)
        self._first = Histogram(
            "pronk_time_to_first_token_seconds", "From a request to its first token", buckets=SECONDS, registry=registry
        )
        self._between = Histogram(
            "pronk_inter_token_seconds", "Mean time between an answer's tokens", buckets=SHORT, registry=registry
        )
        self._whole = Histogram(
            "pronk_request_seconds", "From a request to the end of an answer", buckets=SECONDS, registry=registry
        )

    def watch(self, running: Callable[[], float], waiting: Callable[[], float]) -> None:
        """Where to read the present load."""
        Gauge("pronk_requests_running", "Answers being sampled", registry=self.registry).set_function(running)
        Gauge("pronk_requests_waiting", "Answers waiting for a slot", registry=self.registry).set_function(waiting)

    def began(self, seconds: float) -> None:
        self._first.observe(seconds)

    def ended(self, prompt: int, tokens: int, finish: str, seconds: float, since_first: float) -> None:
        self._answers.labels(finish).inc()
        self._prompt.inc(prompt)
        self._sampled.inc(tokens)
        self._whole.observe(seconds)
        if tokens > 1:
            self._between.observe(since_first / (tokens - 1))

    def refused(self, status: int) -> None:
        self._refused.labels(str(status)).inc()

    def text(self) -> bytes:
        return generate_latest(self.registry)
