"""What is written in any of the field's formats reads back as the same comparisons."""

import pytest

from pronk.data.read import comparisons
from pronk.data.records import Comparison, Message
from pronk.data.write import FORMS, comparison_row, write_comparisons
from pronk.errors import UserError

USER, SYSTEM = Message("user", "Tell of é\n\na cat."), Message("system", "Be kind.")
LONG = (Message("user", "Hi"), Message("assistant", "Hello!"), USER)
FOUND = [
    Comparison((USER,), "Once upon a time.", "Once more.\n\nNo."),
    Comparison((USER,), "A", "B", 4),
    Comparison((USER,), "A", "B", 0, "rejected"),
    Comparison((USER,), "B", "A", 2, "chosen"),
]
MORE = [*FOUND, Comparison(LONG, "Yes", "No", 3)]


@pytest.mark.parametrize("form", FORMS)
def test_every_format_reads_back(tmp_path, form):
    wanted = FOUND if form == "trl-plain" else MORE
    assert write_comparisons(tmp_path / "a.jsonl", wanted, form) == len(wanted)
    found = list(comparisons(tmp_path / "a.jsonl", strict=True))
    if form == "openai":  # its rows have no place for strength
        wanted = [Comparison(one.prompt, one.chosen, one.rejected) for one in wanted]
    assert found == wanted


def test_real_transcripts_read_back(tmp_path):
    from .make import real

    wanted = list(comparisons(real("hh-harmless-1700.jsonl")))[:300]
    for form in set(FORMS) - {"trl-plain"}:
        write_comparisons(tmp_path / "a.jsonl", wanted, form)
        assert list(comparisons(tmp_path / "a.jsonl", strict=True)) == wanted


@pytest.mark.parametrize(
    ("form", "prompt", "said"),
    [
        ("trl-plain", LONG, "use the format trl"),
        ("anthropic", (SYSTEM, USER), "no system message"),
        ("anthropic", (Message("user", "a\n\nHuman: b"),), "no '"),
        ("csv", (USER,), "known: trl, "),
    ],
)
def test_what_a_format_cannot_hold_is_refused(form, prompt, said):
    with pytest.raises(UserError, match=said):
        comparison_row(Comparison(prompt, "A", "B"), form)


@pytest.mark.parametrize(
    ("extra", "said"),
    [({"first": "left"}, "first must be"), ({"score_chosen": 2, "score_rejected": 3}, "score_chosen is below")],
)
def test_rows_that_contradict_themselves_are_refused(tmp_path, extra, said):
    from .make import lines

    row = {"prompt": "Hi", "chosen": "A", "rejected": "B"} | extra
    with pytest.raises(UserError, match=said):
        list(comparisons(lines(tmp_path / "a.jsonl", row)))


def test_comparisons_are_read_and_written_without_torch():
    """The comparison page runs without it."""
    import subprocess
    import sys

    code = "import sys; sys.modules['torch'] = None; import pronk.data.read, pronk.data.write"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
