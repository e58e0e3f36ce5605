"""`pronk demo` at toy sizes, end to end: every stage's folder, the report, and the line to type next."""

import io
import json
import os
import re
import sys
from html.parser import HTMLParser

import pytest

import pronk.learn.build as building

from .make import curve, fails, metrics, pronk, same_weights

SIZES = {"pretrain-steps": 20, "sft-steps": 10, "rl-rounds": 2, "questions": 20, "stories": 400, "requests": 300}
WORDS = [word for name, value in SIZES.items() for word in (f"--{name}", value)]
STAGES = {"pretrain": "pretrain", "sft": "sft", "rl": "rl"}  # folder: command
WANTED = {  # issue 2's list
    "pretrain": {"val_loss"},
    "sft": {"subject_rate", "wellformed_rate"},
    "align": {
        *("reward_kind", "kl", "cat_rate_before", "cat_rate_after", "named_kept_before", "named_kept_after"),
        *("wellformed_before", "wellformed_after", "distinct3_before", "distinct3_after"),
    },
}


@pytest.fixture(autouse=True, scope="module")
def plain_precision():
    """Whether bfloat16 pays is measured each time; two runs are compared here, so both take float32."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "_product", lambda dtype: 1.0)
        yield


@pytest.fixture(scope="module")
def demo(tmp_path_factory, plain_precision):
    """Its folder, and what it printed."""
    out = tmp_path_factory.mktemp("demo") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", io.StringIO())
        pronk("demo", "--out", out, *WORDS)
        return out, sys.stdout.getvalue()


def test_the_report_has_every_fact(demo):
    facts = json.loads((demo[0] / "report.json").read_text())
    assert {"seconds", "params", "tokens"} <= facts.keys()
    for part, names in WANTED.items():
        assert names <= facts[part].keys(), part
    assert facts["params"] > 500_000
    assert facts["tokens"] > 0
    assert {"pretrain", "sft", "align"} <= facts["seconds"].keys()
    assert all(seconds >= 0 for seconds in facts["seconds"].values())
    assert facts["pretrain"]["val_loss"] == metrics(demo[0] / "pretrain")[-1]["val_loss"]
    for part in ("sft", "align"):
        rates = {name: value for name, value in facts[part].items() if "rate" in name or "kept" in name}
        assert rates and all(0 <= value <= 1 for value in rates.values())


def test_the_page_stands_alone(demo):
    class Page(HTMLParser):
        def __init__(self, text):
            super().__init__()
            self.asked, self.pictures, self.words = [], 0, []
            self.feed(text)

        def handle_starttag(self, tag, attributes):
            found = dict(attributes)
            self.asked += [found[name] for name in ("src", "href", "srcset") if name in found]
            self.pictures += tag == "img"

        def handle_data(self, data):
            self.words.append(data)

    page = Page((demo[0] / "report.html").read_text(encoding="utf-8"))
    assert page.pictures >= 3
    assert all(address.startswith(("data:", "#")) for address in page.asked)
    words = " ".join(" ".join(page.words).split())
    assert f"pronk chat {demo[0] / 'rl' / 'model'}" in words


def test_every_stage_leaves_a_whole_folder(demo):
    for name in STAGES:
        folder = demo[0] / name
        assert {"config.toml", "metrics.jsonl", "samples.jsonl", "model", "tensorboard"} <= {
            path.name for path in folder.iterdir()
        }
        assert (folder / "model" / "model.safetensors").exists()
        assert metrics(folder)


def test_it_tells_what_it_does_and_how_to_go_on(demo):
    said = demo[1]
    titles = re.findall(r"^── (.*)$", said, re.MULTILINE)
    assert len(titles) >= 5
    assert said.rstrip().endswith(f"pronk chat {demo[0] / 'rl' / 'model'}")
    assert str(demo[0] / "report.html") in said
    for raw in ("<|", "Traceback", "nan", "None"):
        assert raw not in said


def test_a_stage_runs_again_from_its_config(demo, tmp_path):
    """The last one, which started from the folder of the one before."""
    pronk("rl", demo[0] / "rl" / "config.toml", "--out", tmp_path / "again")
    assert same_weights(demo[0] / "rl", tmp_path / "again")
    assert curve(demo[0] / "rl") == curve(tmp_path / "again")


def test_the_line_it_ends_with_talks(demo, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Tell a story.\n"))
    pronk("chat", demo[0] / "rl" / "model", "--max-tokens", 8, "--seed", 1)
    assert capsys.readouterr().out.strip()


def test_once_more_takes_what_is_done(demo, capsys):
    """The same command trains nothing again; other sizes in the same folder are refused with a cure that works."""
    before = [(demo[0] / name / "checkpoints").stat().st_mtime_ns for name in STAGES]
    facts = json.loads((demo[0] / "report.json").read_text())
    pronk("demo", "--out", demo[0], *WORDS)
    assert [(demo[0] / name / "checkpoints").stat().st_mtime_ns for name in STAGES] == before
    again = json.loads((demo[0] / "report.json").read_text())
    assert again["align"] == facts["align"]
    said = fails(capsys, "demo", "--out", demo[0], *WORDS, "--pretrain-steps", 30)
    assert "--out" in said


def test_a_person_votes_in_the_middle_and_the_demo_goes_on_with_the_votes(tmp_path):
    from pronk.feedback.simulate import Guest

    from .make import start

    process = start("demo", *WORDS, "--human", "--out", tmp_path / "out", env={**os.environ, "BROWSER": "true"})
    heard = []
    for line in process.stdout:
        heard.append(line)
        if line.startswith("feedback: the page is at "):
            break
    ada = Guest(line.split()[-1], "ada")
    for number in range(20):
        ada.answer(f"vote-{number:06d}", showing=ada.next()["id"], choice=("left", "right")[number % 2], strength=3)
    ada.post("/api/finish")
    rest = process.stdout.read()
    assert process.wait() == 0, "".join(heard)[-2000:] + rest[-3000:]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "20 votes of a person" in report["align"]["reward_kind"] and report["seconds"]["compare"] > 0
    assert len((tmp_path / "out" / "votes" / "comparisons.jsonl").read_text().splitlines()) == 20
    assert (tmp_path / "out" / "rl" / "model" / "model.safetensors").exists()
