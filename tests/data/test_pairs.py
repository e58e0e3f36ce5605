"""Comparisons in ids: cut alike on both sides, split by dialogue, dealt in batches that can be taken up again."""

import pytest
import torch

from pronk.data.batch import IGNORE
from pronk.data.encode import encode_comparison, encode_prompt
from pronk.data.pairs import (
    PairSource,
    dialogue_of,
    encode_pairs,
    folds,
    resample,
    split_by_dialogue,
    to_learned,
    to_scored,
)
from pronk.data.records import Comparison, Message
from pronk.errors import UserError

from .make import tokenizer


def user(text):
    return Message("user", text)


def comparisons(count=40, prompts=10):
    """Several comparisons a prompt, and for each prompt one of a later turn."""
    found = []
    for i in range(count):
        prompt = (user(f"What is {i % prompts}?"),)
        if i < prompts:
            prompt = (*prompt, Message("assistant", "A number."), user("Which?"))
        found.append(Comparison(prompt, f"It is {i}.", "A frog.", strength=i % 5))
    return found


def pairs(length=200, **keys):
    return encode_pairs(tokenizer(), comparisons(**keys), length).pairs


def dialogues(some):
    return {dialogue_of(pair.comparison) for pair in some}


def test_all_comparisons_of_one_prompt_are_on_one_side():
    """Those of a dialogue's later turns, too (pitfall 43); whatever else there is, a dialogue stays on its side."""
    found = pairs()
    train, validation = split_by_dialogue(found, 0.3)
    assert train and validation and len(train) + len(validation) == len(found)
    assert not dialogues(train) & dialogues(validation)
    more, _ = split_by_dialogue(found[::3], 0.3)
    assert dialogues(more) <= dialogues(train)


def test_folds_hold_each_comparison_once_and_share_no_prompt():
    found = pairs()
    parts = folds(comparisons(), 3)
    assert sorted(i for part in parts for i in part) == list(range(len(found)))
    sides = [dialogues([found[i] for i in part]) for part in parts]
    assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]
    assert [len(side) for side in sides] == [4, 3, 3]


def test_a_resample_draws_whole_dialogues():
    found = pairs()
    drawn = resample(found, 1)
    counts = {key: sum(dialogue_of(p.comparison) == key for p in drawn) for key in dialogues(found)}
    assert sum(counts.values()) == len(drawn) == 40
    assert all(count % 4 == 0 for count in counts.values())
    assert len(set(counts.values())) > 1
    assert drawn == resample(found, 1) != resample(found, 2)


def test_too_few_prompts_to_split():
    with pytest.raises(UserError, match="too few to split"):
        split_by_dialogue(pairs(count=3, prompts=1), 0.1)
    with pytest.raises(UserError, match="only 10 different prompts"):
        folds(comparisons(), 11)
    with pytest.raises(UserError, match="--validation 1"):
        split_by_dialogue(pairs(), 1)


def test_what_is_too_long_loses_the_same_beginning_on_both_sides():
    long = Comparison((user("What is 1 + 2? " * 20),), "It is 3.", "It is 3, said the brave frog.")
    chosen, rejected = encode_comparison(tokenizer(), long)
    whole = max(len(chosen[0]), len(rejected[0]))
    fitted = encode_pairs(tokenizer(), [long], whole - 7)
    (pair,) = fitted.pairs
    assert (fitted.cut, fitted.dropped) == (1, 0)
    assert pair.chosen[0] == [tokenizer().bos, *chosen[0][8:]]
    assert pair.rejected[0] == [tokenizer().bos, *rejected[0][8:]]
    assert [i for i, m in zip(*pair.rejected) if m] == [i for i, m in zip(*rejected) if m]
    assert max(len(pair.chosen[0]), len(pair.rejected[0])) == whole - 7
    assert encode_pairs(tokenizer(), [long], whole).pairs[0].chosen == chosen
    too_short = encode_pairs(tokenizer(), [long], 8)
    assert (too_short.pairs, too_short.dropped) == ([], 1)
    assert "1 comparisons are left out" in too_short.lines(8)[0]


def test_scored_rows_are_whole_and_end_with_the_end_of_the_answer():
    found = pairs()[:3]
    batch = to_scored(found, tokenizer().pad)
    for b, pair in enumerate(found):
        for side, (ids, mask) in enumerate((pair.chosen, pair.rejected)):
            last = int(batch.last[b, side])
            assert batch.tokens[b, side, : last + 1].tolist() == ids
            assert ids[-1] == tokenizer().eos and mask[-1]
            assert (batch.tokens[b, side, last + 1 :] == tokenizer().pad).all()
    assert (batch.targets == IGNORE).all()
    assert batch.strength.tolist() == [0, 1, 2]


def test_learned_rows_learn_the_answers_alone():
    found = pairs()[:2]
    batch = to_learned(found, tokenizer().pad)
    for b, pair in enumerate(found):
        prompt = encode_prompt(tokenizer(), pair.comparison.prompt)
        learned = batch.targets[b, 0][batch.targets[b, 0] != IGNORE].tolist()
        assert prompt + learned == pair.chosen[0]


def source(reference=None):
    found = pairs()[:11]
    return PairSource(found, to_scored, tokenizer().pad, batch=4, seed=3, ref_logps=reference)


def first(batch):
    return [row[0].tolist() for row in batch.tokens]


def test_each_pass_holds_every_pair_once_in_another_order():
    batches = iter(source())
    passes = [[row for _ in range(3) for row in next(batches).strength.tolist()] for _ in range(2)]
    assert sorted(passes[0]) == sorted(passes[1]) == sorted(p.comparison.strength for p in source().pairs)
    assert passes[0] != passes[1]


def test_batches_go_on_where_they_were_saved():
    one, other = source(), source()
    batches = iter(one)
    for _ in range(4):
        next(batches)
    other.restore(one.state())
    for ours, theirs in zip(batches, other, strict=False):
        assert torch.equal(ours.tokens, theirs.tokens)
        if one.passes == 3:
            break


def test_reference_log_probabilities_go_with_their_pairs():
    numbers = torch.arange(22.0).view(11, 2)
    made = source(numbers)
    for batch in [next(iter(made)), *made.once()]:
        for row, reference in zip(batch.tokens, batch.ref_logps.tolist()):
            pair = made.pairs[int(reference[0]) // 2]
            assert row[0, : len(pair.chosen[0])].tolist() == pair.chosen[0]
            assert reference[1] == reference[0] + 1
