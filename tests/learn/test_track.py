"""What a run leaves behind: complete lines, honest rates, no trace of what was undone."""

import json
import math

import pytest

from pronk.learn import track
from pronk.learn.track import Rate, Track, clock, number, peak_flops, read_metrics, short


@pytest.fixture
def clockwork(monkeypatch):
    """Time that moves only when the test says so."""

    class Time:
        now = 100.0

        def monotonic(self):
            return self.now

        def time(self):
            return self.now

    time = Time()
    monkeypatch.setattr(track, "time", time)
    return time


def run(folder, steps, time, resume=None, **options):
    with Track(folder, 100, "pretrain", tensorboard=False, **options) as kept:
        if resume is not None:
            kept.resume_at(resume)
        for step in steps:
            time.now += 2.0
            kept.log(step, {"loss": 1 / step, "lr": 3e-4}, tokens=1000)
    return read_metrics(folder)


def test_lines_hold_step_time_and_metrics(tmp_path, clockwork):
    rows = run(tmp_path, [1, 2, 3], clockwork)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert [row["time"] for row in rows] == [2.0, 4.0, 6.0]
    assert rows[1]["loss"] == 0.5


def test_each_line_is_on_disk_at_once(tmp_path):
    kept = Track(tmp_path, None, "x", tensorboard=False)
    kept.log(1, {"loss": 1.0})
    assert (tmp_path / "metrics.jsonl").read_text().endswith("}\n")
    kept.close()
    kept.close()


def test_what_is_not_finite_is_null(tmp_path):
    with Track(tmp_path, None, "x", tensorboard=False) as kept:
        kept.log(1, {"loss": math.nan, "norm": math.inf})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == read_metrics(tmp_path)[0]
    assert read_metrics(tmp_path)[0]["loss"] is None


def test_resume_drops_what_was_undone_and_does_not_count_the_pause(tmp_path, clockwork):
    run(tmp_path, [1, 2, 3, 4], clockwork)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "ti')
    clockwork.now += 3600
    rows = run(tmp_path, [3, 4], clockwork, resume=2)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert [row["time"] for row in rows] == [2.0, 4.0, 6.0, 8.0]
    assert rows[-1]["tokens_per_second"] == 500.0


def test_a_new_run_replaces_the_old_one(tmp_path, clockwork):
    run(tmp_path, [1, 2, 3], clockwork)
    (tmp_path / "other.jsonl").write_text("mine\n")
    assert len(run(tmp_path, [1], clockwork)) == 1
    assert (tmp_path / "other.jsonl").read_text() == "mine\n"


def test_rates_leave_out_the_first_step_and_slide():
    rate = Rate()
    rate.add(60.0, 1, 1000)  # compiling
    assert rate.tokens_per_second() == 0.0
    for i in range(1, 41):
        rate.add(60.0 + 2 * i, 1 + i, 1000)
    assert rate.tokens_per_second() == 500.0
    rate.add(141.0, 42, 21000)
    assert rate.tokens_per_second() == pytest.approx((19 * 1000 + 21000) / 39)
    assert rate.mean_tokens_per_second() == pytest.approx(61000 / 81)
    assert rate.steps_per_second() == pytest.approx(20 / 39)


def test_mfu_is_true_or_absent(tmp_path, clockwork):
    assert run(tmp_path, [1, 2], clockwork, flops_per_token=1e6, peak=1e9)[-1]["mfu"] == pytest.approx(0.5)
    assert run(tmp_path, [1, 2], clockwork, flops_per_token=1e6)[-1]["mfu"] is None
    assert "mfu" not in run(tmp_path, [1, 2], clockwork)[-1]


def test_known_peaks():
    assert peak_flops("NVIDIA H100 80GB HBM3", "bfloat16") == 989e12
    assert peak_flops("NVIDIA H100 PCIe", "torch.bfloat16") == 756e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", "bfloat16") == 312e12
    assert peak_flops("NVIDIA L4", "bfloat16") == 121e12
    assert peak_flops("NVIDIA L40S", "bfloat16") == 362e12
    assert peak_flops("Some CPU", "bfloat16") is None
    assert peak_flops("Tesla V100-SXM2-16GB", "bfloat16") is None


def test_plain_lines_without_control_characters(tmp_path, clockwork, capsys):
    run(tmp_path, range(1, 12), clockwork, every=5)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "pretrain  step 1/100  loss 1.000  lr 3.0e-04"
    assert lines[1] == "pretrain  step 6/100  loss 0.167  500 tokens/s  3:08 left  lr 3.0e-04"
    assert lines[-1] == "pretrain: 0:22, 500 tokens/s on average"
    assert len(lines) == 4
    assert all(line.isprintable() for line in lines)


def test_what_is_measured_seldom_stays_in_view(tmp_path, capsys):
    with Track(tmp_path, None, "rl", tensorboard=False, every=1) as kept:
        kept.log(1, {"reward/mean": 0.25, "kl/sequence": 1.5})
        kept.log(2, {"loss": math.nan, "mfu": 0.5})
    assert "step 2  loss nan  reward 0.250  kl 1.500  mfu 50.0%" in capsys.readouterr().out
    assert read_metrics(tmp_path)[1]["loss"] is None
    assert "reward/mean" not in read_metrics(tmp_path)[1]


def test_one_line_on_a_terminal_and_a_table_of_samples(tmp_path, clockwork, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with Track(tmp_path, 10, "sft", tensorboard=False) as kept:
        kept.log(1, {"loss": 2.0})
        kept.sample(1, [{"prompt": "[red]Tell", "story": "Once\x1b[2J " * 99}] * 5)
    shown = capsys.readouterr().out
    assert "step 1/10" in shown
    assert "[red]Tell" in shown
    assert "\x1b[2J" not in shown
    assert "…" in shown
    assert len((tmp_path / "samples.jsonl").read_text().splitlines()) == 5


def test_samples_resume_too(tmp_path):
    for resume in (None, 1):
        kept = Track(tmp_path, None, "x", tensorboard=False)
        if resume:
            kept.resume_at(resume)
        for step in (1, 2) if resume is None else (2,):
            kept.sample(step, [{"text": f"a\u2028b{step}"}])
        kept.close()
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").open()]
    assert [line["step"] for line in lines] == [1, 2]


def test_tensorboard_reads_what_was_written(tmp_path, capsys):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for resume in (None, 2):
        with Track(tmp_path, None, "x") as kept:
            if resume:
                kept.resume_at(resume)
            for step in range(1 + (resume or 0), 4 + (resume or 0)):
                kept.log(step, {"loss": 10.0 * (resume or 0) + step, "bad": math.nan})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 1), (2, 2), (3, 23), (4, 24), (5, 25)]
    assert "bad" not in events.Tags()["scalars"]


def test_quiet_writes_nothing(tmp_path, capsys):
    with Track(tmp_path / "none", 5, "x", quiet=True) as kept:
        kept.resume_at(3)
        kept.log(4, {"loss": 1.0}, tokens=5)
        kept.sample(4, [{"a": "b"}])
    assert not (tmp_path / "none").exists()
    assert capsys.readouterr().out == ""


def test_numbers_as_people_read_them():
    assert [short(x) for x in (7, 12345, 2.5e6, 3e9)] == ["7", "12.3k", "2.5M", "3.0G"]
    assert [clock(x) for x in (5, 65, 7207)] == ["0:05", "1:05", "2:00:07"]
    assert [number(x) for x in (None, 0.0, 3e-4, 2.3456)] == ["nan", "0.000", "3.0e-04", "2.346"]
