"""The demo's report: one page without outside requests or live model text, and the facts as JSON."""

import copy
import json
import re
from html.parser import HTMLParser

import pytest

from pronk.evals.report import count, measures, page, percent, spoken, time_parts, wilson, write_report

NASTY = '<script>alert("x")</script><img src=http://evil.example/a.png onerror=alert(1)>'


@pytest.fixture
def facts(tmp_path):
    for stage, metrics in {
        "pretrain": {"loss": 2.0, "val_loss": 2.1},
        "align": {"reward/mean": 0.5, "reward/cat": 0.4, "reward/formed": 0.9, "kl/sequence": 1.0, "length": 70.0},
    }.items():
        (tmp_path / stage).mkdir()
        rows = [{"step": s, **{name: value / s for name, value in metrics.items()}} for s in range(1, 30)]
        (tmp_path / stage / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "seconds": {"align": 80.0, "pretrain": 70.0, "naming": 0.4},
        "params": 1_043_200,
        "tokens": 1_200_000,
        "hardware": "two cores",
        "seed": 3,
        "pretrain": {"val_loss": 0.93, "tokens": 600_000},
        "sft": {"subject_rate": 0.97, "wellformed_rate": 0.91},
        "align": {
            "reward_kind": "0.6 for a cat and 0.4 for good form",
            **{"cat_rate_before": 0.06, "cat_rate_after": 0.988, "named_kept_before": 1.0, "named_kept_after": 0.98},
            **{"wellformed_before": 0.91, "wellformed_after": 0.95, "kl": 4.3},
            **{"distinct3_before": 0.41, "distinct3_after": 0.33},
        },
        "counts": dict.fromkeys(("subject_rate", "wellformed_rate", "cat_rate", "named_kept", "wellformed"), 500),
        "samples": [{"prompt": "Tell " + NASTY, "before": "Once " + NASTY, "after": "A cat. " + NASTY}],
        "stories": {"pretrain": NASTY, "align": "A cat named Nora."},
        "runs": {"pretrain": str(tmp_path / "pretrain"), "align": str(tmp_path / "align")},
    }


class Tags(HTMLParser):
    """What a browser would see: tags, their attributes, the text."""

    def __init__(self, text):
        super().__init__()
        self.seen, self.words = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words += data


def test_page_and_facts_are_written(tmp_path, facts):
    write_report(tmp_path / "out", facts)
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for part in ("6\u00a0%", "98.8\u00a0%", "1.04 million", "2 min 30 s", "A cat named Nora.", "--seed 4", "two cores"):
        assert part in html
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == facts
    pictures = sorted(path.name for path in (tmp_path / "out" / "plots").iterdir())
    assert pictures == ["align-kl.png", "align-length.png", "align-reward.png", "pretrain-loss.png"]


def test_nothing_is_fetched_and_nothing_runs(tmp_path, facts):
    page_tags = Tags(page(facts, tmp_path / "plots"))
    tags = {tag for tag, _ in page_tags.seen}
    assert not tags & {"script", "link", "iframe", "object", "form", "video", "audio"}
    for tag, attributes in page_tags.seen:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "srcset", "href"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, attributes)
    assert page_tags.words.count(NASTY) == 4
    style = re.search(r"<style>(.*)</style>", page(facts, tmp_path / "plots"), re.DOTALL)
    assert style and "url(" not in style[1] and "@import" not in style[1]


def test_every_picture_says_what_it_shows(tmp_path, facts):
    alts = [attributes["alt"] for tag, attributes in Tags(page(facts, tmp_path)).seen if tag == "img"]
    assert len(alts) == 4
    assert "training goes from 2 to 0.069" in alts[0]
    assert any("cat goes from" in alt and "formed goes from" in alt for alt in alts)


def test_without_samples_stories_and_curves(tmp_path, facts):
    for name in ("samples", "stories", "runs"):
        del facts[name]
    html = page(facts, tmp_path / "plots")
    assert "Before and after" not in html
    assert not (tmp_path / "plots").exists()


def test_a_missing_number_is_our_mistake_not_a_blank(tmp_path, facts):
    lacking = copy.deepcopy(facts)
    del lacking["align"]["kl"]
    with pytest.raises(Exception, match="kl"):
        page(lacking, tmp_path)
    with pytest.raises(ValueError, match="Out of range"):
        write_report(tmp_path / "nan", {**facts, "params": float("nan")})


def test_wilson_against_known_values():
    found = wilson(0.9, 10)  # R: binom::binom.wilson(9, 10)
    assert (found.low, found.high) == pytest.approx((0.5958, 0.9821), abs=1e-4)
    assert wilson(1.0, 500).low == pytest.approx(0.99238, abs=1e-5)
    assert wilson(0.0, 500).low == pytest.approx(0, abs=1e-12)


def test_measures_and_time_come_in_the_order_of_the_story(facts):
    assert [m.after.value for m in measures(facts)] == [0.988, 0.98, 0.95, 0.97]
    assert [name for name, _, _ in time_parts(facts["seconds"])] == ["pretraining", "alignment", "naming"]
    assert sum(share for _, _, share in time_parts(facts["seconds"])) == pytest.approx(100)


def test_numbers_as_people_read_them():
    assert [percent(x) for x in (0.06, 1.0, 0.9876)] == ["6\u00a0%", "100\u00a0%", "98.8\u00a0%"]
    assert [count(x) for x in (950, 12345, 1043200)] == ["950", "12,345", "1.04 million"]
    assert [spoken(x) for x in (50.2, 260)] == ["50 seconds", "4 min 20 s"]
