"""Logit bias, presence and frequency penalty: against an oracle a token, in any company, and over HTTP."""

import random

import pytest
import torch

from pronk.engine.engine import Engine
from pronk.engine.likely import likeliest
from pronk.engine.sampler import adjust, distribution
from pronk.engine.sequence import Sampling
from pronk.errors import UserError
from pronk.models.logps import logits

from .hosted import hosted, tokenizer
from .make import ALL, V, close, make, prompts, rules

RULES = [
    {"presence_penalty": 2.0},
    {"frequency_penalty": 0.7, "temperature": 0.5},
    {"frequency_penalty": -1.0},
    {"logit_bias": ((3, 5.0), (7, -100.0))},
    {"presence_penalty": 1.0, "frequency_penalty": 0.5, "logit_bias": ((9, 2.0),), "top_k": 10, "temperature": 0.8},
    {"frequency_penalty": 1.5, "temperature": 0.0},
    {"presence_penalty": 0.5, "repetition_penalty": 1.3, "top_p": 0.9},
]


@torch.no_grad()
def ruled(model, prompt, ids, s):
    """Log-probabilities [V] of the next token: OpenAI's formula, written out token by token."""
    last = logits(model, torch.tensor([[*prompt, *ids]]))[:, -1].clone()
    for token, bias in s.logit_bias:
        last[0, token] += bias
    for token in set(ids):
        last[0, token] -= s.frequency_penalty * ids.count(token) + s.presence_penalty
    seen = torch.zeros(1, V, dtype=torch.bool)
    seen[0, [*prompt, *ids]] = True
    filters = (0, 1.0, 0.0) if s.temperature == 0 else (s.top_k, s.top_p, s.min_p)
    return distribution(last, rules(1, s.temperature, *filters, s.repetition_penalty), ALL, seen)[0]


@pytest.mark.parametrize("family", ["decoder", "lstm"])
@pytest.mark.parametrize("how", RULES, ids=str)
def test_the_engine_samples_from_openais_formula(how, family):
    model, (prompt,) = make(family=family), prompts(6)
    s = Sampling(25, seed=2, **how)
    done = Engine(model).generate([prompt], [s])[0]
    wanted = [ruled(model, prompt, done.ids[:i], s) for i in range(25)]
    close(done.logps, [row[token].item() for row, token in zip(wanted, done.ids)], 1e-4)
    if s.temperature == 0:
        assert done.ids == [row.argmax().item() for row in wanted]
    places = likeliest(model, [*prompt, *done.ids], len(prompt), s, 3)[len(prompt) :]
    for place, row in zip(places, wanted):
        close([logp for _, logp in place.top], row.topk(3).values.tolist(), 1e-4)


def test_any_company_leaves_a_request_what_it_is_alone():
    """Requests with and without these rules come, go and are cancelled."""
    engine, chance = Engine(make(), slots=5), random.Random(1)
    asked = prompts(*(chance.randint(1, 15) for _ in range(120)))
    how = [Sampling(chance.randint(1, 15), seed=i, **chance.choice([{}, {}, *RULES])) for i in range(120)]
    alone = [Engine(engine.model).generate([p], [s])[0] for p, s in zip(asked, how)]
    with engine.scheduler() as scheduler:
        coming = list(enumerate(engine.requests(asked, how)))
        everyone, cancelled = [request for _, request in coming], set()
        while coming or scheduler.busy:
            group, coming = coming[: (size := chance.choice([0, 1, 4]))], coming[size:]
            scheduler.add(request for _, request in group)
            for place, request in group:
                if chance.random() < 0.1:
                    cancelled.add(place)
                    scheduler.step()
                    scheduler.cancel(request)
            scheduler.step()
    for place, request in enumerate(everyone):
        if request.finish:
            assert request.ids == alone[place].ids
            close(request.logps, alone[place].logps, 1e-4)
        else:
            assert place in cancelled


def test_rows_without_the_rules_stay_as_they_are():
    rows = torch.randn(4, V)
    zero = torch.zeros(4, 1)
    assert torch.equal(adjust(rows, torch.zeros(4, V), torch.ones(4, V), zero, zero), rows)
    engine = Engine(make())
    assert engine.generate(prompts(5), Sampling(4, seed=1))  # no memory is taken where none asks
    assert engine._room.rows.adjusting is None


@pytest.mark.parametrize(
    "wrong",
    [{"presence_penalty": float("nan")}, {"frequency_penalty": float("inf")}, {"logit_bias": ((-1, 1.0),)}],
    ids=str,
)
def test_mistakes(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Sampling(**wrong)
    with pytest.raises(UserError, match="logit_bias names a token beyond"):
        Engine(make()).generate(prompts(3), Sampling(logit_bias=((V, 1.0),)))


def test_over_http():
    with hosted() as host:
        api, made = host.openai(), tokenizer()
        token = made.encode(" cat")[0]
        how = {"model": "toy", "prompt": "a", "max_tokens": 10, "seed": 1}
        only = api.completions.create(**how, logit_bias={str(token): 100}, stop=["zzz"])
        assert only.choices[0].text == made.decode([token] * 10)
        other = api.completions.create(**how, logit_bias={str(token): 100}, frequency_penalty=2, presence_penalty=2)
        assert other.choices[0].text == only.choices[0].text  # 100 still outweighs ten tokens
        once = {"temperature": 0, "logit_bias": {str(token): 12}}
        text = api.completions.create(**how | once, presence_penalty=2, frequency_penalty=2, logprobs=1).choices[0]
        assert 0 < text.text.count(made.decode([token])) < 10
        assert all(
            logp == max(top.values()) for logp, top in zip(text.logprobs.token_logprobs, text.logprobs.top_logprobs)
        )
        for wrong in ({"logit_bias": {"x": 1}}, {"logit_bias": {"99999": 1}}, {"presence_penalty": 3}):
            reply = host.post("/v1/completions", how | wrong)
            assert (reply.status_code, reply.json()["error"]["param"]) == (400, next(iter(wrong)))
