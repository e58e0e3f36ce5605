"""What the engine promises its callers, on toy models of every kind: equal to the uncached loop, alone or together."""

import copy
import random

import pytest
import torch

from pronk.engine.engine import Engine
from pronk.engine.sequence import Sampling
from pronk.errors import UserError
from pronk.models.heads import ActorCritic, Scorer

from .make import FAMILIES, V, close, make, oracle, prompts

kinds = pytest.mark.parametrize("family", FAMILIES)
MIXED = [
    Sampling(12, seed=1),
    Sampling(5, temperature=0.0, seed=10),
    Sampling(20, temperature=0.7, seed=2),
    Sampling(9, top_k=5, seed=3),
    Sampling(16, top_p=0.8, seed=4, stop=(3, 9, 11)),
    Sampling(7, min_p=0.2, seed=5),
    Sampling(18, repetition_penalty=1.7, seed=6),
    Sampling(13, temperature=0.0, repetition_penalty=1.7, seed=11),
    Sampling(10, temperature=1.3, top_k=30, top_p=0.9, min_p=0.01, repetition_penalty=1.1, seed=7),
    Sampling(1, seed=8),
    Sampling(0, seed=9),
]
LENGTHS = (5, 1, 17, 2, 8, 30, 3, 11, 1, 4, 6)


def same(found, wanted):
    assert found.ids == wanted.ids
    assert (found.finish, found.text, found.seed) == (wanted.finish, wanted.text, wanted.seed)
    close(found.logps, wanted.logps)


# ── cached and batched equal the plain loop


@kinds
def test_cached_equals_uncached_at_every_position(family):
    model = make(**FAMILIES[family])
    asked = prompts(*LENGTHS)
    for done, prompt, sampling in zip(Engine(model).generate(asked, MIXED), asked, MIXED):
        close(done.logps, oracle(model, prompt, done.ids, sampling))
        assert len(done.ids) == sampling.max_tokens or done.ids[-1] in sampling.stop


@kinds
def test_any_mix_of_requests_gives_each_the_tokens_it_gets_alone(family):
    engine = Engine(make(**FAMILIES[family]), slots=4)
    asked = prompts(*LENGTHS)
    alone = [engine.generate([prompt], [sampling])[0] for prompt, sampling in zip(asked, MIXED)]
    for seed in range(3):
        order = random.Random(seed).sample(range(len(asked)), len(asked))
        mixed = engine.generate([asked[i] for i in order], [MIXED[i] for i in order])
        for place, done in zip(order, mixed):
            same(done, alone[place])


@kinds
def test_left_or_right_pads_do_not_change_logits(family):
    """Unequal prompts share a batch by padding: what is sampled after each is what it gives alone, unpadded."""
    model = make(**FAMILIES[family])
    asked = prompts(1, 40, 2, 13)
    for done, prompt in zip(Engine(model).generate(asked, Sampling(8)), asked):
        close(done.logps, oracle(model, prompt, done.ids, Sampling()))


@kinds
def test_scored_equals_sampled(family):
    engine = Engine(make(**FAMILIES[family]))
    asked = prompts(5, 1, 17, 9)
    for temperature in (1.0, 0.6):
        done = engine.generate(asked, Sampling(20, temperature=temperature))
        scores = engine.score([d.prompt + d.ids for d in done], temperature)
        for d, score in zip(done, scores):
            assert len(score) == len(d.prompt) + len(d.ids) - 1
            close(d.logps, score[len(d.prompt) - 1 :])


@kinds
def test_longer_than_one_block_of_random_numbers(family):
    model = make(context=256, **FAMILIES[family])
    asked = prompts(3, 7)
    samplings = [Sampling(200, seed=1), Sampling(220, seed=2, temperature=0.9)]
    for done, prompt, s in zip(Engine(model).generate(asked, samplings), asked, samplings):
        assert len(done.ids) == s.max_tokens
        close(
            done.logps[::37],
            [oracle(model, prompt + done.ids[:i], [done.ids[i]], s)[0] for i in range(0, s.max_tokens, 37)],
        )
        assert len(set(done.ids[:64])) > 10
        assert done.ids[:64] != done.ids[64:128]


# ── pitfalls by name


def test_sampled_logps_use_the_sampling_temperature():
    model = make()
    (done,) = Engine(model).generate(prompts(4), Sampling(20, temperature=0.7))
    close(done.logps, oracle(model, done.prompt, done.ids, Sampling(temperature=0.7)))
    far = oracle(model, done.prompt, done.ids, Sampling())
    assert max(abs(a - b) for a, b in zip(done.logps, far)) > 0.1


@pytest.mark.parametrize("one", [{"temperature": 0.7}, {"top_k": 4}, {"top_p": 0.7}, {"min_p": 0.15}], ids=str)
def test_filtered_sampling_reports_renormalized_logps(one):
    """Chi-square of 3,000 first tokens of one prompt against the reported log-probabilities."""
    N = 3000
    done = Engine(make(), slots=512).generate(prompts(6), Sampling(1, seed=5, n=N, **one))
    chances = {d.ids[0]: torch.tensor(d.logps[0]).exp().item() for d in done}
    counts = {token: sum(d.ids[0] == token for d in done) for token in chances}
    assert sum(chances.values()) <= 1 + 1e-5
    common = [token for token in chances if chances[token] * N >= 5]
    assert sum(chances[token] for token in common) > 0.9
    statistic = sum((counts[t] - chances[t] * N) ** 2 / (chances[t] * N) for t in common)
    assert statistic < len(common) + 4 * (2 * len(common)) ** 0.5


def test_token_in_token_out():
    """Ids come back as sampled, even where decoding and encoding again would give others."""
    words = ["a", "b", "ab", "ba", *(str(i) for i in range(V - 4))]
    engine = Engine(make(), decode=lambda ids: "".join(words[i] for i in ids))
    for done in engine.generate(prompts(3, 5), Sampling(30)):
        close(done.logps, engine.score([done.prompt + done.ids])[0][len(done.prompt) - 1 :])
        assert done.text == "".join(words[i] for i in done.ids)


def test_dropout_is_off_and_the_mode_is_restored():
    model = make(dropout=0.5)
    model.train()
    model.blocks[0].eval()
    modes = [module.training for module in model.modules()]
    engine = Engine(model)
    (first,) = engine.generate(prompts(4), Sampling(10, seed=1))
    close(first.logps, engine.score([first.prompt + first.ids])[0][3:])
    assert [module.training for module in model.modules()] == modes
    same(first, Engine(make()).generate(prompts(4), Sampling(10, seed=1))[0])
    for _ in engine.stream(prompts(4)[0], Sampling(3)):
        assert [module.training for module in model.modules()] == modes
        assert torch.is_grad_enabled()


def test_sampling_does_not_disturb_training():
    model = make()
    engine = Engine(model)
    engine.generate(prompts(4), Sampling(3))
    output = model(torch.tensor(prompts(8)))
    output.head(output.hidden).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


# ── seeds


def test_seeds_repeat():
    engine = Engine(make())
    one, again, other = (engine.generate(prompts(4), Sampling(20, seed=s))[0].ids for s in (1, 1, 2))
    assert one == again != other


def test_seeds_come_from_torchs_generator_where_none_is_given():
    engine = Engine(make())
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append([d.ids for d in engine.generate(prompts(4, 4), Sampling(20))])
    assert runs[0] == runs[1] != runs[2]
    assert runs[0][0] != runs[0][1]


def test_seeded_requests_leave_torchs_generator_alone():
    engine = Engine(make())
    before = torch.get_rng_state()
    engine.generate(prompts(4), Sampling(5, seed=3, n=2))
    assert torch.equal(before, torch.get_rng_state())


def test_a_completions_seed_gives_it_again():
    engine = Engine(make())
    for done in engine.generate(prompts(4, 9), Sampling(15, n=3)):
        same(engine.generate([done.prompt], Sampling(15, seed=done.seed))[0], done)


def test_a_text_cut_anywhere_goes_on_the_same_with_its_seed():
    """Random numbers belong to positions, past every block of them."""
    engine = Engine(make(context=256))
    (done,) = engine.generate(prompts(4), Sampling(240, seed=3))
    for cut in (1, 60, 64, 130, 200):
        (rest,) = engine.generate([done.prompt + done.ids[:cut]], Sampling(240 - cut, seed=3))
        assert rest.ids == done.ids[cut:]


def test_samples_of_a_prompt_differ_and_come_in_order():
    engine = Engine(make(), slots=4)
    asked = prompts(4, 9, 2)
    done = engine.generate(asked, Sampling(15, seed=3, n=5))
    assert [d.prompt for d in done] == [p for p in asked for _ in range(5)]
    assert len({tuple(d.ids) for d in done}) == 15
    for d in done:
        same(engine.generate([d.prompt], Sampling(15, seed=d.seed))[0], d)


def test_one_seed_for_many_prompts_is_spread():
    engine = Engine(make())
    (prompt,) = prompts(4)
    together = engine.generate([prompt] * 3, Sampling(15, seed=3))
    assert len({tuple(d.ids) for d in together}) == 3
    for a, b in zip(together, engine.generate([prompt], Sampling(15, seed=3, n=3))):
        same(a, b)


# ── ends


def test_stop_ids_end_the_text_and_stay_in_the_ids():
    engine = Engine(make(), decode=lambda ids: " ".join(map(str, ids)))
    (free,) = engine.generate(prompts(4), Sampling(40, seed=1))
    stop = free.ids[11]
    end = free.ids.index(stop) + 1
    (done,) = engine.generate(prompts(4), Sampling(40, seed=1, stop=(V - 1 if stop != V - 1 else 0, stop)))
    end = min(end, next((i + 1 for i, t in enumerate(free.ids) if t in (stop, V - 1)), end))
    assert done.ids == free.ids[:end]
    assert done.finish == "stop"
    assert done.text == " ".join(map(str, done.ids[:-1]))
    assert free.finish == "length"


@kinds
def test_stop_texts_are_found_across_token_borders(family):
    """Each token is two letters; the stop text begins in the middle of one and ends in the middle of another."""

    def decode(ids):
        return "".join(f"{i:02d}" for i in ids)

    engine = Engine(make(**FAMILIES[family]), decode=decode, slots=2)
    asked = prompts(4, 5, 6)
    free = engine.generate(asked, [Sampling(20, seed=s) for s in range(3)])
    stop = free[0].text[11:14]
    samplings = [Sampling(20, seed=0, stop_texts=("never", stop)), Sampling(20, seed=1), Sampling(20, seed=2)]
    done = engine.generate(asked, samplings)
    end = free[0].text.index(stop)
    assert done[0].text == free[0].text[:end]
    assert done[0].finish == "stop"
    assert done[0].ids == free[0].ids[: -(-(end + len(stop)) // 2)]
    assert len(done[0].logps) == len(done[0].ids)
    same(done[1], free[1])
    same(done[2], free[2])


def test_generation_ends_at_the_context_edge():
    model = make(context=16)
    engine = Engine(model)
    done = engine.generate(prompts(15, 10, 1), Sampling(100, seed=1))
    assert [len(d.ids) for d in done] == [1, 6, 15]
    assert {d.finish for d in done} == {"length"}
    for d in done:
        close(d.logps, oracle(model, d.prompt, d.ids, Sampling()))


def test_a_smaller_context_of_the_engines_own():
    done = Engine(make(), context=12).generate(prompts(5), Sampling(100))
    assert len(done[0].ids) == 7
    with pytest.raises(UserError, match="context 65 is beyond"):
        Engine(make(), context=65)


def test_no_tokens_asked_for():
    done = Engine(make(), decode=str).generate(prompts(5, 2), Sampling(0, n=2))
    assert [(d.ids, d.logps, d.finish) for d in done] == [([], [], "length")] * 4
    assert Engine(make()).generate([], Sampling()) == []


# ── mistakes


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ([], "prompt 1 is empty"),
        ([0] * 64, "64 tokens.*context of 64.*at most 63"),
        ([1, V], f"token id {V}.*ends at {V - 1}.*do not match"),
        ([-1], "token id -1"),
    ],
)
def test_prompts_that_cannot_be_continued(prompt, words):
    with pytest.raises(UserError, match=words):
        Engine(make()).generate([[1], prompt], Sampling())


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"top_p": 0.0},
        {"top_k": -1},
        {"min_p": 1.5},
        {"repetition_penalty": 0.0},
        {"n": 0},
        {"max_tokens": -1},
        {"seed": -1},
        {"stop_texts": ("",)},
    ],
    ids=str,
)
def test_samplings_out_of_range_name_the_field(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Sampling(**wrong)


def test_requests_that_do_not_fit_together():
    engine = Engine(make())
    with pytest.raises(UserError, match="2 prompts"):
        engine.generate(prompts(1, 2), [Sampling()])
    with pytest.raises(UserError, match="decode"):
        engine.generate(prompts(1), Sampling(stop_texts=("x",)))
    with pytest.raises(UserError, match="n must be 1"):
        engine.stream(prompts(1)[0], Sampling(n=2))
    with pytest.raises(UserError, match="temperature"):
        engine.score(prompts(3), temperature=0.0)


def test_weights_that_are_not_finite_are_an_error_and_leave_nothing_behind():
    model = make()
    engine = Engine(model)
    (wanted,) = engine.generate(prompts(4), Sampling(5, seed=1))
    good = model.blocks[1].attention.v.weight.detach().clone()
    with torch.no_grad():
        model.blocks[1].attention.v.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="not finite"):
        engine.generate(prompts(4), Sampling(5, seed=1))
    with torch.no_grad():
        model.blocks[1].attention.v.weight.copy_(good)
    same(engine.generate(prompts(4), Sampling(5, seed=1))[0], wanted)


# ── weights


@kinds
def test_loaded_weights_change_what_is_generated(family):
    model, other = make(0, **FAMILIES[family]), make(1, **FAMILIES[family])
    engine, wanted = Engine(model), Engine(other).generate(prompts(4), Sampling(10, seed=1))[0]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert engine.generate(prompts(4), Sampling(10, seed=1))[0].ids != wanted.ids
    for weights in (other, other.state_dict()):
        engine.load(weights)
        same(engine.generate(prompts(4), Sampling(10, seed=1))[0], wanted)
        engine.load(model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_an_engine_on_the_callers_model_sees_each_update_without_a_copy():
    model = make()
    engine = Engine(model)
    assert engine.model is model
    before = engine.generate(prompts(4), Sampling(10, seed=1))[0].ids
    with torch.no_grad():
        model.embed.weight.add_(torch.randn_like(model.embed.weight))
    engine.load(model)
    assert engine.model is model
    assert engine.generate(prompts(4), Sampling(10, seed=1))[0].ids != before


def test_an_engine_of_another_type_keeps_a_copy():
    model = make()
    engine = Engine(model, dtype=torch.bfloat16)
    assert model.embed.weight.dtype == torch.float32
    (done,) = engine.generate(prompts(4), Sampling(10, seed=1))
    close(done.logps, engine.score([done.prompt + done.ids])[0][3:], by=0.1)
    with torch.no_grad():
        model.embed.weight.mul_(1.5)
    engine.load(model)
    assert torch.equal(engine.model.embed.weight, model.embed.weight.bfloat16())


def test_weights_of_another_model_are_refused():
    with pytest.raises(UserError, match="another model"):
        Engine(make()).load(make(layers=3))
    with pytest.raises(UserError, match="another model"):
        Engine(make()).load(make(width=64))


def test_an_actor_critic_generates_with_its_policy():
    policy = make()
    both = ActorCritic(policy, Scorer(make(1, width=64), 64))
    same(
        Engine(both).generate(prompts(4), Sampling(10, seed=1))[0],
        Engine(copy.deepcopy(policy)).generate(prompts(4), Sampling(10, seed=1))[0],
    )


# ── streams and memory


def test_stream_equals_generate():
    engine = Engine(make(), decode=lambda ids: "".join(f"{i:02d}" for i in ids))
    for sampling in (Sampling(20, seed=1), Sampling(20, temperature=0.0, stop=(5,)), Sampling(0)):
        (done,) = engine.generate(prompts(4), sampling)
        pieces = list(engine.stream(prompts(4)[0], sampling))
        assert [i for p in pieces for i in p.ids] == done.ids
        assert [x for p in pieces for x in p.logps] == done.logps
        assert "".join(p.text for p in pieces) == done.text
        assert [p.finish for p in pieces] == [None] * (len(pieces) - 1) + [done.finish]


def test_stream_holds_back_stop_texts_and_halves_of_characters():
    letters = "🦙ab".encode()

    def decode(ids):
        return bytes(letters[i % len(letters)] for i in ids).decode("utf-8", errors="replace")

    engine = Engine(make(), decode=decode)
    (free,) = engine.generate(prompts(4), Sampling(40, seed=1))
    stop = next(free.text[i : i + 2] for i in range(10, 30) if "\ufffd" not in free.text[i : i + 2])
    sampling = Sampling(40, seed=1, stop_texts=(stop,))
    (done,) = engine.generate(prompts(4), sampling)
    assert "".join(p.text for p in engine.stream(prompts(4)[0], sampling)) == done.text
    assert stop not in done.text


def test_a_stream_left_early_frees_its_memory_and_streams_do_not_meet():
    engine = Engine(make())
    wanted = engine.generate(prompts(4, 6), [Sampling(10, seed=1), Sampling(10, seed=2)])
    streams = [engine.stream(p, Sampling(10, seed=s)) for p, s in zip(prompts(4, 6), (1, 2))]
    found = [[], []]
    for _ in range(5):
        for ids, stream in zip(found, streams):
            ids += next(stream).ids
    same(engine.generate(prompts(4), Sampling(10, seed=1))[0], wanted[0])
    assert found == [d.ids[:5] for d in wanted]
    for stream in streams:
        stream.close()
    same(engine.generate(prompts(4), Sampling(10, seed=1))[0], wanted[0])


def test_memory_is_kept_between_runs_and_grows_only_when_needed():
    engine = Engine(make(), slots=8)
    engine.generate(prompts(*[4] * 8), Sampling(10))
    room = engine._room
    engine.generate(prompts(4, 5), Sampling(10, n=3))
    assert engine._room is room
    assert room.rows.slots == 8
    engine.generate(prompts(4), Sampling(10, stop=(1, 2)))
    assert engine._room is not room
