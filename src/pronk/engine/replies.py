"""The answers that the server gives, in the two shapes of OpenAI: whole ones and the pieces of streams."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pronk.engine.likely import Place
from pronk.engine.text import Decode, TextStream
from pronk.text.pieces import Pieces

Json = dict[str, Any]


@dataclass
class Answer:
    """One finished sample. places: its tokens with log-probabilities, the echoed prompt's first; None = not asked."""

    text: str
    finish: str
    ids: Sequence[int]
    prompt: Sequence[int]
    places: Sequence[Place] | None = None
    echo: str = ""  # the prompt's text, where it is to be repeated


def usage(prompt: int, completion: int) -> Json:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


@dataclass
class Shape:
    """What both shapes share. identity: id, created, model and system_fingerprint."""

    identity: Json
    pieces: Pieces
    decode: Decode
    ids: bool = False  # token_ids are told too
    _texts: dict[int, TextStream] = field(default_factory=dict)  # of each choice, for offsets

    whole, part = "", ""

    def reply(self, answers: Sequence[Answer], counts: Json) -> Json:
        choices = [self.choice(number, answer) for number, answer in enumerate(answers)]
        return {**self.identity, "object": self.whole, "choices": choices, "usage": counts}

    def chunk(self, choices: list[Json]) -> Json:
        return {**self.identity, "object": self.part, "choices": choices}

    def choice(self, number: int, answer: Answer) -> Json:
        raise NotImplementedError

    def opening(self, number: int, echo: str) -> Json | None:
        """The first piece of a stream, before anything was sampled."""
        raise NotImplementedError

    def piece(self, number: int, text: str, ids: Sequence[int], places: Sequence[Place] | None) -> Json:
        raise NotImplementedError

    def closing(self, number: int, finish: str) -> Json:
        raise NotImplementedError

    def _with_ids(self, choice: Json, ids: Sequence[int], prompt: Sequence[int] | None = None) -> Json:
        if self.ids:
            choice["token_ids"] = list(ids)
            if prompt is not None:
                choice["prompt_token_ids"] = list(prompt)
        return choice


class Chat(Shape):
    """/v1/chat/completions."""

    whole, part = "chat.completion", "chat.completion.chunk"

    def choice(self, number: int, answer: Answer) -> Json:
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        choice = {"index": number, "message": message, "logprobs": self.logprobs(number, answer.places)}
        return self._with_ids(choice | {"finish_reason": answer.finish}, answer.ids, answer.prompt)

    def opening(self, number: int, echo: str) -> Json | None:
        return self._delta(number, {"role": "assistant", "content": ""})

    def piece(self, number: int, text: str, ids: Sequence[int], places: Sequence[Place] | None) -> Json:
        return self._with_ids(self._delta(number, {"content": text}, self.logprobs(number, places)), ids)

    def closing(self, number: int, finish: str) -> Json:
        return self._delta(number, {}, finish=finish)

    @staticmethod
    def _delta(number: int, delta: Json, logprobs: Json | None = None, finish: str | None = None) -> Json:
        return {"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": finish}

    def logprobs(self, number: int, places: Sequence[Place] | None) -> Json | None:
        if places is None:
            return None
        content = [
            self._entry(place.id, place.logp) | {"top_logprobs": [self._entry(i, logp) for i, logp in place.top]}
            for place in places
        ]
        return {"content": content, "refusal": None}

    def _entry(self, token: int, logp: float | None) -> Json:
        return {"token": self.pieces.text(token), "logprob": logp, "bytes": self.pieces.raw(token)}


class Completions(Shape):
    """/v1/completions."""

    whole = part = "text_completion"

    def choice(self, number: int, answer: Answer) -> Json:
        logprobs = self.logprobs(number, answer.places)
        choice = {"index": number, "text": answer.echo + answer.text, "logprobs": logprobs}
        return self._with_ids(choice | {"finish_reason": answer.finish}, answer.ids, answer.prompt)

    def opening(self, number: int, echo: str) -> Json | None:
        return self._delta(number, echo) if echo else None

    def piece(self, number: int, text: str, ids: Sequence[int], places: Sequence[Place] | None) -> Json:
        return self._with_ids(self._delta(number, text, self.logprobs(number, places)), ids)

    def closing(self, number: int, finish: str) -> Json:
        return self._delta(number, "", finish=finish)

    @staticmethod
    def _delta(number: int, text: str, logprobs: Json | None = None, finish: str | None = None) -> Json:
        return {"index": number, "text": text, "logprobs": logprobs, "finish_reason": finish}

    def logprobs(self, number: int, places: Sequence[Place] | None) -> Json | None:
        """Lists of one length: the likeliest tokens of each place as text to log-probability, its own token included.

        Two tokens may have one text (half characters); the likelier one is kept, so the highest number is always the
        likeliest token's.
        """
        if places is None:
            return None
        return {
            "tokens": [self.pieces.text(place.id) for place in places],
            "token_logprobs": [place.logp for place in places],
            "top_logprobs": [None if place.logp is None else self._top(place) for place in places],
            "text_offset": self._offsets(number, places),
        }

    def _top(self, place: Place) -> dict[str, float]:
        found: dict[str, float] = {}
        for token, logp in (*place.top, (place.id, place.logp)):
            if logp is not None:
                found.setdefault(self.pieces.text(token), logp)
        return found

    def _offsets(self, number: int, places: Sequence[Place]) -> list[int]:
        """Where each token begins in the choice's text, which may have begun in earlier pieces."""
        text, found = self._texts.setdefault(number, TextStream(self.decode)), []
        for place in places:
            found.append(len(text.text))
            text.push([place.id])
        return found
