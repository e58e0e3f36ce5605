"""From a request to what the engine is asked: ids, sampling, and what the reply shall tell; samples nothing."""

import time
import uuid
from dataclasses import dataclass

from pronk.engine.likely import Place, likeliest
from pronk.engine.protocol import Asked, ChatMessage, ChatRequest, CompletionRequest, Limits, check, said, to_sampling
from pronk.engine.refusal import Refusal, from_user_error, too_long
from pronk.engine.replies import Answer, Chat, Completions, Json, Shape, usage
from pronk.engine.sequence import Piece, Request, Sampling
from pronk.engine.service import Served
from pronk.engine.text import TextStream
from pronk.errors import UserError
from pronk.text.chat import encode_chat
from pronk.text.tokenizer import Tokenizer

LEGACY_TOKENS = 16  # OpenAI's default for completions


@dataclass(frozen=True)
class Begun:
    """A prompt's ids. hidden: a begin token was put in front that the client did not write; it is not told of."""

    ids: list[int]
    text: str = ""
    hidden: int = 0


@dataclass
class Plan:
    """One request for answers, ready to run."""

    served: Served
    prompts: list[Begun]
    sampling: Sampling
    shape: Shape
    requests: list[Request]
    top: int | None  # likeliest tokens to tell for each place; None = no log-probabilities
    echo: bool
    streamed: bool
    include_usage: bool

    @property
    def settled_late(self) -> bool:
        """The log-probabilities asked for are worked out once the text is whole."""
        return self.top is not None and (self.top > 0 or self.echo)

    def watch(self) -> None:
        """Have the samples' text at hand at each step, for a stream."""
        for request in self.requests:
            request.text = TextStream(self.served.tokenizer.decode, self.sampling.stop_texts)

    def prompt(self, number: int) -> Begun:
        """Of the sample of this number."""
        return self.prompts[number // self.sampling.n]

    def counts(self, sampled: int) -> Json:
        return usage(sum(len(prompt.ids) - prompt.hidden for prompt in self.prompts), sampled)

    def answer(self, number: int, piece: Piece, places: list[Place] | None) -> Answer:
        prompt = self.prompt(number)
        echo = prompt.text if self.echo else ""
        return Answer(piece.text, piece.finish or "length", piece.ids, prompt.ids, places, echo)

    def sampled_places(self, piece: Piece) -> list[Place] | None:
        """What is known as tokens come: their own log-probabilities."""
        if self.top is None:
            return None
        return [Place(token, logp) for token, logp in zip(piece.ids, piece.logps)]

    def settled_places(self, number: int, piece: Piece) -> list[Place]:
        """With the likeliest of each place, and of the prompt where it is echoed. Runs the model."""
        prompt = self.prompt(number)
        assert self.served.engine is not None
        model, ids = self.served.engine.model, [*prompt.ids, *piece.ids]
        places = likeliest(model, ids, len(prompt.ids), self.sampling, self.top or 0)
        if not self.echo:
            return places[len(prompt.ids) :]
        shown = places[prompt.hidden :]
        if len(prompt.ids) > prompt.hidden:
            shown[0] = Place(shown[0].id, None)  # the first token has no log-probability, whatever was put before it
        return shown


def plan_chat(asked: ChatRequest, served: Served, limits: Limits) -> Plan:
    check(asked, limits)
    ids = encode_messages(served, asked.messages)
    wanted = asked.max_tokens if asked.max_completion_tokens is None else asked.max_completion_tokens
    wanted = max(1, served.context - len(ids)) if wanted is None else wanted
    top = (asked.top_logprobs or 0) if asked.logprobs else None
    return _plan(asked, served, [Begun(ids)], wanted, Chat, top, False, "messages")


def plan_completions(asked: CompletionRequest, served: Served, limits: Limits) -> Plan:
    check(asked, limits)
    prompts = [_begin(served.tokenizer, prompt) for prompt in _each(asked.prompt, limits)]
    wanted = LEGACY_TOKENS if asked.max_tokens is None else asked.max_tokens
    return _plan(asked, served, prompts, wanted, Completions, asked.logprobs, bool(asked.echo), "prompt")


def encode_messages(served: Served, messages: list[ChatMessage], answer: bool = True) -> list[int]:
    """Ids of a conversation; answer: up to where the assistant's answer begins."""
    if not served.tokenizer.template:
        raise Refusal(400, "this model has no chat template: it continues text, at /v1/completions", param="messages")
    if len(messages) > served.context:  # each is a token at least
        raise too_long(len(messages), 1, served.context, "messages")
    turns = [said(message, f"messages.{place}.content") for place, message in enumerate(messages)]
    try:
        return encode_chat(served.tokenizer, turns, add_generation_prompt=answer)[0]
    except UserError as error:
        raise Refusal(400, str(error), param="messages") from None


def _plan(
    asked: Asked,
    served: Served,
    prompts: list[Begun],
    wanted: int,
    kind: type[Shape],
    top: int | None,
    echo: bool,
    param: str,
) -> Plan:
    sampling = to_sampling(asked, wanted, served.stop, served.defaults)
    for prompt in prompts:
        if len(prompt.ids) + wanted > served.context:
            raise too_long(len(prompt.ids), wanted, served.context, param)
    assert served.engine is not None
    try:
        requests = served.engine.requests([prompt.ids for prompt in prompts], [sampling] * len(prompts))
    except UserError as error:
        raise from_user_error(error) from None
    identity = {
        "id": ("chatcmpl-" if kind is Chat else "cmpl-") + uuid.uuid4().hex,
        "created": int(time.time()),
        "model": served.name,
        "system_fingerprint": served.about or None,
    }
    shape = kind(identity, served.pieces, served.tokenizer.decode, bool(asked.return_token_ids))
    include = bool(asked.stream_options and asked.stream_options.include_usage)
    return Plan(served, prompts, sampling, shape, requests, top, echo, bool(asked.stream), include)


def _each(prompt: str | list[str] | list[int] | list[list[int]] | None, limits: Limits) -> list[str] | list[list[int]]:
    """The prompts of a completion request, as a list."""
    if prompt is None or isinstance(prompt, str):
        return [prompt or ""]
    if not prompt or [] in prompt:
        raise Refusal(400, "prompt is an empty list: give a text, token ids, or a list of either", param="prompt")
    if isinstance(prompt[0], int):
        return [prompt]
    if len(prompt) > limits.prompts:
        raise Refusal(400, f"at most {limits.prompts} prompts in one request, not {len(prompt)}", param="prompt")
    return prompt


def _begin(tokenizer: Tokenizer, prompt: str | list[int]) -> Begun:
    """A text is read as the beginning of a document; ids are taken as they are."""
    if not isinstance(prompt, str):
        return Begun(prompt, tokenizer.decode([token for token in prompt if 0 <= token < tokenizer.size]))
    ids = tokenizer_ids(tokenizer, prompt)
    hidden = int(not ids or ids[0] != tokenizer.bos)
    return Begun([tokenizer.bos, *ids] if hidden else ids, prompt, hidden)


def tokenizer_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    try:
        return tokenizer.encode_marked(text)
    except UserError as error:
        raise Refusal(400, str(error), param="prompt") from None
