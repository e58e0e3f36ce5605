"""Benches of attention, families and time to quality still run: at toy size, on a CPU; their figures mean nothing."""

import json
import runpy
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent / "bench"


@pytest.fixture
def run(monkeypatch, tmp_path):
    """run("attention", "--toy") as `python bench/attention.py --toy` would."""
    monkeypatch.syspath_prepend(BENCH)

    def run(name, *words):
        monkeypatch.setattr("sys.argv", [f"bench/{name}.py", *words])
        runpy.run_path(str(BENCH / f"{name}.py"), run_name="__main__")

    return run


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_attention(run, tmp_path, capsys):
    run("attention", "--toy", "--out", str(tmp_path / "attention.json"))
    rows = json.loads((tmp_path / "attention.json").read_text())["rows"]
    found = {(row["part"], row["name"]) for row in rows if "ms" in row}
    assert {("core", "naive"), ("core", "flex"), ("layer", "joined, flash"), ("layer", "pronk, flash")} <= found


def test_families(run, tmp_path, capsys):
    words = ["--toy", "--out", str(tmp_path)]
    run("families", *words, "--part", "data")
    for part in ("loss", "recall", "pace", "decode"):
        run("families", *words, "--part", part, "--only", "gru with attention", "mistral")
    (tmp_path / "families" / "device.json").write_text('{"device": "CPU", "torch": "2"}')
    run("families", *words, "--part", "draw")
    found = json.loads((tmp_path / "families.json").read_text())["families"]
    assert list(found) == ["gru with attention", "mistral"]
    assert found["mistral"]["decoded_per_second"] > 0
    assert set(found["mistral"]["recall"]) == {"64", "128"}
    assert (tmp_path / "families.png").stat().st_size > 10_000


def test_time_to_quality(run, tmp_path):
    (tmp_path / "text.txt").write_text("To be, or not to be, that is the question.\n" * 600)
    run("time_to_quality", str(tmp_path / "text.txt"), str(tmp_path), "--toy")
    found = json.loads((tmp_path / "time-to-quality-shakespeare-two-cores.json").read_text())
    assert list(found["curves"]) == ["plain GPT, AdamW", "pronk, Muon", "pronk, AdamW"]
    assert found["seconds to it"]["plain GPT, AdamW"] == found["curves"]["plain GPT, AdamW"][-1][0]
    assert (tmp_path / "time-to-quality-shakespeare-two-cores.png").stat().st_size > 10_000


def test_sides_wait_for_their_turn_and_tell_why_they_failed(monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCH)
    from side_by_side import Side

    code = f"import sys; sys.path.insert(0, {str(BENCH)!r}); from side_by_side import pause; pause(stage=1); "
    good, bad = (
        Side("good", "-c", code + "print('working'); pause(stage=2)"),
        Side("bad", "-c", code + "assert not 'me'"),
    )
    assert good.hear() == bad.hear() == {"stage": 1}
    for side in (good, bad):
        side.go()
    assert good.hear() == {"stage": 2} and bad.hear() is None and bad.hear() is None
    assert "bad failed" in capsys.readouterr().out
    good.stop()
