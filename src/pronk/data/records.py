"""What files hold and what generation returns, as plain records; tensors live in batch.py."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Document:
    """A text to learn as it is."""

    text: str


@dataclass(frozen=True)
class Message:
    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Conversation:
    """Alternating messages; what the assistant says is learned."""

    messages: tuple[Message, ...]


@dataclass(frozen=True)
class Comparison:
    """Two continuations of one conversation, the better one first. strength: 1 (slightly) to 4; 0 is a tie.

    first: which of the two its judge saw first, or on the left; empty where that is unknown.
    """

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    strength: int = 1
    first: Literal["", "chosen", "rejected"] = ""


@dataclass(frozen=True)
class Prompt:
    """A conversation that awaits an answer. meta travels to the reward untouched (what was asked, the key answer)."""

    messages: tuple[Message, ...]
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass
class Sample:
    """One sampled answer: the ids that were really sampled (never re-encoded text) and their log-probabilities."""

    prompt: Prompt
    text: str
    prompt_ids: list[int]
    ids: list[int]  # response, the end token included when it was sampled
    logps: list[float]  # one for each of ids, under the distribution that was sampled from
    finish: Literal["stop", "length"]
    reward: float = 0.0  # of the whole answer, once it was scored
