"""Log-probabilities over HTTP, by numbers: lm-eval's contract for echoes, and the likeliest tokens under every rule."""

import pytest
import torch

from pronk.engine.likely import likeliest
from pronk.engine.sampler import distribution
from pronk.engine.sequence import Sampling
from pronk.models.logps import logits

from .hosted import ASK, hosted, toy
from .make import ALL, close, rules

TEXT = "/v1/completions"
CONTEXT, CONTINUATION = "Once upon a time there", " was a cat"


@pytest.fixture(scope="module")
def host():
    with hosted() as found:
        yield found


@pytest.fixture(scope="module")
def same():
    return toy()


@torch.no_grad()
def full(model, ids):
    """Log-probabilities [T, V] of what follows each token, from one plain forward."""
    return logits(model, torch.tensor([ids]))[0].log_softmax(-1)


@torch.no_grad()
def ruled(served, text, s):
    """Log-probabilities [V] of what may follow a text, from one plain forward and all rules."""
    size = served.tokenizer.size
    seen = torch.zeros(1, size, dtype=torch.bool)
    seen[0, text] = True
    filters = (0, 1.0, 0.0) if s.temperature == 0 else (s.top_k, s.top_p, s.min_p)
    last = logits(served.engine.model, torch.tensor([text]))[:, -1]
    return distribution(last, rules(1, s.temperature, *filters, s.repetition_penalty, vocab=size), ALL, seen)[0]


def lm_eval(host, prompt, ctxlen):
    """What lm-eval's local-completions makes of the reply: the continuation's log-likelihood, and whether it is the
    greedy one. It sums token_logprobs[ctxlen:-1] and compares each with max(top_logprobs.values())."""
    body = {"model": "toy", "prompt": prompt, "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1, "echo": True}
    found = host.post(TEXT, body).json()["choices"][0]["logprobs"]
    tokens, tops = found["token_logprobs"][ctxlen:-1], found["top_logprobs"][ctxlen:-1]
    return sum(tokens), all(token == max(top.values()) for token, top in zip(tokens, tops))


@pytest.mark.parametrize("as_text", [False, True])
def test_the_echo_contract_of_lm_eval(host, same, as_text):
    tokenizer, model = same.tokenizer, same.engine.model
    context, continuation = tokenizer.encode(CONTEXT), tokenizer.encode(CONTINUATION)
    ids = context + continuation
    fed = [tokenizer.bos, *ids] if as_text else ids
    logps = full(model, fed)
    hidden = len(fed) - len(ids)
    wanted = sum(logps[hidden + i - 1, ids[i]].item() for i in range(len(context), len(ids)))
    found, greedy = lm_eval(host, CONTEXT + CONTINUATION if as_text else ids, len(context))
    assert found == pytest.approx(wanted, abs=1e-4)
    assert not greedy


def test_a_greedy_continuation_is_told_from_others(host, same):
    """Wherever lm-eval cuts: is_greedy is right, which takes the identical float in both lists."""
    tokenizer, model = same.tokenizer, same.engine.model
    ids = tokenizer.encode(CONTEXT)
    for _ in range(5):
        ids.append(full(model, ids)[-1].argmax().item())
    assert lm_eval(host, ids, len(ids) - 5)[1]
    for place in range(1, 6):
        wrong = list(ids)
        wrong[-place] = full(model, ids[:-place])[-1].topk(2).indices[1].item()
        assert not lm_eval(host, wrong, len(ids) - 5)[1]


@pytest.mark.parametrize("logprobs", [1, 5])
def test_shapes_of_an_echo(host, same, logprobs):
    ids = same.tokenizer.encode(CONTEXT)
    body = {"prompt": ids, "max_tokens": 1, "logprobs": logprobs, "echo": True, "temperature": 0}
    choice = host.post(TEXT, body).json()["choices"][0]
    found = choice["logprobs"]
    assert {len(value) for value in found.values()} == {len(ids) + 1}
    assert found["token_logprobs"][0] is found["top_logprobs"][0] is None
    assert all(isinstance(value, float) for value in found["token_logprobs"][1:])
    logps = full(same.engine.model, ids)
    for place, top in enumerate(found["top_logprobs"][1:]):
        assert max(top.values()) == pytest.approx(logps[place].max().item(), abs=1e-5)
        assert len(top) <= logprobs + 1
    assert found["token_logprobs"][-1] == max(found["top_logprobs"][-1].values())  # greedy
    assert choice["text"].startswith(CONTEXT)
    starts = [choice["text"][start:] for start in found["text_offset"][: len(ids)]]
    assert all(rest.startswith(token) for rest, token in zip(starts, found["tokens"]))


def test_an_echo_without_new_tokens(host, same):
    ids = same.tokenizer.encode(CONTEXT)
    choice = host.post(TEXT, {"prompt": ids, "max_tokens": 0, "logprobs": 1, "echo": True}).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == (CONTEXT, "length")
    logps = full(same.engine.model, ids)
    close(choice["logprobs"]["token_logprobs"][1:], [logps[i - 1, ids[i]].item() for i in range(1, len(ids))], 1e-4)


def test_echoes_of_many_prompts(host, same):
    prompts = [same.tokenizer.encode(text) for text in (CONTEXT, CONTINUATION, "héllo")]
    body = {"max_tokens": 1, "logprobs": 1, "echo": True, "temperature": 0}
    together = host.post(TEXT, body | {"prompt": prompts}).json()["choices"]
    for prompt, choice in zip(prompts, together):
        alone = host.post(TEXT, body | {"prompt": prompt}).json()["choices"][0]
        assert choice["logprobs"] == alone["logprobs"] and choice["text"] == alone["text"]


RULES = [
    {},
    {"temperature": 0.0},
    {"temperature": 0.7},
    {"top_k": 5},
    {"top_p": 0.6},
    {"min_p": 0.2, "temperature": 1.3},
    {"repetition_penalty": 1.5},
    {"temperature": 0.6, "top_k": 30, "top_p": 0.9, "repetition_penalty": 1.2},
]


@pytest.mark.parametrize("how", RULES, ids=str)
def test_likeliest_tokens_are_those_of_the_distribution_sampled_from(same, how):
    """Against a full forward a token, and against what the engine said when it sampled."""
    model, engine = same.engine.model, same.engine
    prompt = same.tokenizer.encode(CONTEXT)
    sampling = Sampling(12, seed=4, **how)
    done = engine.generate([prompt], [sampling])[0]
    places = likeliest(model, [*prompt, *done.ids], len(prompt), sampling, 4)
    asked, sampled = places[: len(prompt)], places[len(prompt) :]
    assert [place.id for place in sampled] == done.ids
    close([place.logp for place in sampled], done.logps, 1e-4)
    plain = full(model, prompt)
    assert asked[0] == (prompt[0], None, ())
    close([p.logp for p in asked[1:]], [plain[i, p.id].item() for i, p in enumerate(asked[1:])], 1e-4)
    for number, place in enumerate(sampled):
        wanted = ruled(same, [*prompt, *done.ids[:number]], sampling).topk(4)
        values = [value for value in wanted.values.tolist() if value > float("-inf")]
        assert [token for token, _ in place.top] == wanted.indices[: len(values)].tolist()
        close([value for _, value in place.top], values, 1e-4)
        assert all(value == place.logp for token, value in place.top if token == place.id)  # the identical float


def test_likeliest_in_chunks(same, monkeypatch):
    prompt, sampling = same.tokenizer.encode(CONTEXT), Sampling(12, temperature=0.7, repetition_penalty=1.3)
    ids = [*prompt, 5, 6, 7, 8, 9]
    whole = likeliest(same.engine.model, ids, len(prompt), sampling, 3)
    monkeypatch.setattr("pronk.engine.likely.CHUNK", 2 * same.tokenizer.size)
    for one, other in zip(whole, likeliest(same.engine.model, ids, len(prompt), sampling, 3)):
        assert [i for i, _ in one.top] == [i for i, _ in other.top]
        assert one.logp == pytest.approx(other.logp, abs=1e-5) if one.logp else other.logp is None


def test_chat_tells_bytes_and_the_likeliest(host, same):
    body = {"messages": ASK, "max_tokens": 20, "seed": 2, "logprobs": True, "top_logprobs": 3, "temperature": 1.5}
    choice = host.post("/v1/chat/completions", body).json()["choices"][0]
    entries = choice["logprobs"]["content"]
    whole = bytes(byte for entry in entries for byte in entry["bytes"])
    text = choice["message"]["content"]
    assert whole.decode("utf-8", "replace").removesuffix("<|end|>").count(" ") == text.count(" ")
    if "\ufffd" not in text and not any("<|" in entry["token"] for entry in entries):
        assert whole.decode() == text
    for entry in entries:
        tops = entry["top_logprobs"]
        assert [top["logprob"] for top in tops] == sorted((top["logprob"] for top in tops), reverse=True)
        assert all(top["logprob"] == entry["logprob"] for top in tops if top["bytes"] == entry["bytes"])
        assert tops[0]["logprob"] >= entry["logprob"]


def test_log_probabilities_alone_are_those_that_were_sampled_from(host, same):
    body = {"prompt": CONTEXT, "max_tokens": 10, "seed": 2, "logprobs": 0, "temperature": 0.8, "return_token_ids": True}
    choice = host.post(TEXT, body).json()["choices"][0]
    prompt, ids, sampling = choice["prompt_token_ids"], choice["token_ids"], Sampling(10, temperature=0.8)
    wanted = [ruled(same, [*prompt, *ids[:i]], sampling)[token].item() for i, token in enumerate(ids)]
    close(choice["logprobs"]["token_logprobs"], wanted, 1e-4)
    assert [max(top.values()) for top in choice["logprobs"]["top_logprobs"]] == choice["logprobs"]["token_logprobs"]
