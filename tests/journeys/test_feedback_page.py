"""The comparing page in a real browser: what is clicked is what is exported; what a model wrote stays text."""

import json

import pytest

from pronk.data.files import Skipped
from pronk.data.records import Message
from pronk.evals.votes import draw
from pronk.feedback import desk
from pronk.feedback.app import Status, create_app
from pronk.feedback.desk import Answer, add_item
from pronk.feedback.export import judged, rows
from pronk.feedback.rule import Rule
from pronk.feedback.serving import served
from pronk.feedback.store import Store

from .browser import Page, launch

RULE = Rule(evaluation=0.0, repeat=0.0)
HOSTILE = """<script>document.title = "owned"; alert(1)</script><img src=x onerror="alert(2)">
</textarea></div><iframe srcdoc="<script>parent.alert(3)</script>"></iframe><svg onload=alert(4)>
{{7*7}} ${alert(5)} &lt;b&gt;"""


@pytest.fixture(scope="module")
def browser():
    yield from launch()


class Desk:
    """A served database of pairs."""

    def __init__(self, folder, pairs):
        self.store = Store(folder / "feedback.db")
        with self.store.writing() as connection:
            for prompt, one, other in pairs:
                add_item(connection, (Message("user", prompt),), [Answer(one, "old"), Answer(other, "new")], 0.0)
        desk.publish(self.store, "# Be fair\n\nRead *both*.")
        self.status = Status()
        self.app = create_app(self.store, RULE, draw, self.status)

    def votes(self):
        with self.store.reading() as connection:
            return list(rows(judged(connection), "votes", True, Skipped()))


def told(row):
    """The vote as it was on the screen: by sides."""
    side = {"first": "left", "second": "right"}
    if row["left"] == "second":
        side = {"second": "left", "first": "right"}
    return side.get(row["choice"], row["choice"])


def numbered(count):
    return [(f"Question {n}?", f"one {n}", f"other {n}") for n in range(count)]


KEYS = [
    (("a", "1"), ("left", 1)),
    (("A", "2"), ("left", 2)),
    (("b", "3"), ("right", 3)),
    (("a", "b", "4"), ("right", 4)),
    (("b", "4", "a", "2", "3"), ("left", 3)),
    (("t",), ("tie", 0)),
    (("a", "4", "t"), ("tie", 0)),
    (("x",), ("bad", 0)),
    (("t", "b", "1"), ("right", 1)),
]


def test_every_key_is_exported_as_it_was_pressed(browser, tmp_path):
    mine = Desk(tmp_path, numbered(30))
    with served(mine.app) as url:
        page = Page(browser, url).begin()
        seen, meant = [], []
        for keys, expected in KEYS:
            seen.append(page.shown())
            page.press(*keys)
            page.answer(lambda: page.press("Enter"))
            meant.append(("vote", *expected, "", "", ""))
        for kind, key, status, reasons in (
            ("skip", "s", "Skipped.", ("cannot judge", "the same", "makes no sense", "rather not")),
            ("flag", "f", "Flagged.", ("harmful", "personal", "broken", "other")),
        ):
            for number, reason in enumerate(reasons, 1):
                seen.append(page.shown())
                page.press(key)
                page.answer(lambda number=number: page.press(str(number)), status)
                meant.append((kind, "", 0, reason, "", ""))
        seen.append(page.shown())
        page.press("b", "2", "n")
        page.page.keyboard.type("a noted thing, with keys: a b t x s f u 1 2")
        page.press("Escape", "e")
        page.page.keyboard.press("Control+End")
        page.page.keyboard.type(" mended?")
        page.answer(lambda: page.press("Control+Enter"))
        meant.append(("vote", "right", 2, "", "a noted thing, with keys: a b t x s f u 1 2", seen[-1][2] + " mended?"))
    found = mine.votes()
    got = [(r["kind"], told(r), r["strength"], r["reason"], r["note"], r["edit"]) for r in found]
    assert got == meant
    for (prompt, left, right), row in zip(seen, found):
        texts = [answer["text"] for answer in row["answers"]]
        assert [left, right] == (texts if row["left"] == "first" else texts[::-1])
        assert prompt == [row["prompt"][0]["content"]]
    assert {row["left"] for row in found} == {"first", "second"}
    assert {row["guidelines"] for row in found} == {1} and page.troubles == []


def test_every_button_is_exported_as_it_was_clicked(browser, tmp_path):
    mine = Desk(tmp_path, numbered(20))
    with served(mine.app) as url:
        page = Page(browser, url).begin()
        click, meant = page.page.click, []
        assert page.page.is_disabled("#send") and page.page.is_disabled("#edit")
        for choice in ("left", "right"):
            for strength in range(1, 5):
                click(f"input[value={choice}]")
                assert page.page.is_disabled("#send")
                click(f"#strength input[value='{strength}']")
                page.answer(lambda: click("#send"))
                meant.append((choice, strength))
        for choice in ("tie", "bad"):
            click(f"input[value={choice}]")
            assert page.page.is_disabled("#strength input[value='1']")
            page.answer(lambda: click("#send"))
            meant.append((choice, 0))
        for name, status in (("skip", "Skipped."), ("flag", "Flagged.")):
            click(f"#{name}")
            page.answer(lambda name=name: click(f"#{name}-dialog [data-reason] >> nth=1"), status)
            meant.append(("", 0))
        before = page.shown()
        click("input[value=left]"), click("#strength input[value='2']")
        click("#add-note"), page.page.fill("#note", "why"), click("#edit")
        page.page.fill("#left textarea", "wholly new")
        page.answer(lambda: click("#send"))
        page.answer(lambda: click("#undo"), "Taken back")
        assert page.shown()[0] == before[0] and len(mine.votes()) == 12
        assert page.page.input_value("#note") == "why" and page.page.input_value("#left textarea") == "wholly new"
        page.answer(lambda: click("#send"))
        meant.append(("left", 2))
    found = mine.votes()
    assert [(told(row), row["strength"]) for row in found] == meant
    assert [row["reason"] for row in found[10:12]] == ["the same", "personal"]
    assert (found[-1]["note"], found[-1]["edit"]) == ("why", "wholly new")
    assert page.troubles == []


def test_an_edit_that_changes_nothing_or_was_put_away_is_none(browser, tmp_path):
    mine = Desk(tmp_path, numbered(3))
    with served(mine.app) as url:
        page = Page(browser, url).begin()
        page.press("a", "1", "e")
        page.answer(lambda: page.press("Control+Enter"))
        page.press("a", "1", "e")
        page.page.keyboard.type("changed ")
        page.press("Escape", "e")
        page.answer(lambda: page.press("Enter"))
        page.press("a", "1", "e")
        page.page.keyboard.type("changed ")
        page.press("Escape", "t")
        page.answer(lambda: page.press("Enter"))
    assert [row["edit"] for row in mine.votes()] == ["", "", ""]


def test_what_a_model_wrote_shows_as_text_and_does_nothing(browser, tmp_path):
    mine = Desk(tmp_path, [(HOSTILE, HOSTILE + " one", "<h1>two</h1>\u202eright to left?")])
    with served(mine.app) as url:
        page = Page(browser, url).begin(name="<b>Ada</b>")
        prompt, *answers = page.shown()
        assert prompt == [HOSTILE] and sorted(answers) == sorted([HOSTILE + " one", "<h1>two</h1>\u202eright to left?"])
        assert page.page.evaluate("document.querySelectorAll('#prompt *, div.text *').length") == 3  # turn, h2, said
        assert page.page.evaluate("document.querySelectorAll('iframe, img, svg, script[src*=x]').length") == 0
        assert page.page.title() == "Compare · pronk feedback"
        side = "a" if answers[0].startswith("<script>") else "b"
        page.press(side, "4", "e")
        page.answer(lambda: page.press("Control+Enter"))
        page.page.goto(url + "dashboard")
        page.page.wait_for_selector("#tiles li")
    assert page.troubles == [] and mine.votes()[0]["answers"][0]["text"] == HOSTILE + " one"


def test_any_script_runs_its_own_way(browser, tmp_path):
    mine = Desk(tmp_path, [("ספר לי סיפור", "היה היה פעם חתול", "从前有一只猫")])
    with served(mine.app) as url:
        page = Page(browser, url).begin()
        way = "s => getComputedStyle(document.querySelector(s)).direction"
        assert page.page.evaluate(way, "#prompt .said") == "rtl"
        directions = {page.page.evaluate(way, f"#{side} .text") for side in ("left", "right")}
        assert directions == {"rtl", "ltr"}


def test_keys_lead_around_and_help_shows_them_all(browser, tmp_path):
    mine = Desk(tmp_path, numbered(2))
    with served(mine.app) as url:
        page = Page(browser, url).begin()
        page.press("?")
        assert page.page.is_visible("#keys-dialog")
        help_text = page.page.text_content("#keys-dialog")
        page.press("Escape")
        shortcuts = page.page.evaluate(
            "[...document.querySelectorAll('[aria-keyshortcuts]')].map(x => x.ariaKeyShortcuts)"
        )
        read = "x => x.getAttribute('aria-keyshortcuts')"
        shortcuts = page.page.evaluate(f"[...document.querySelectorAll('[aria-keyshortcuts]')].map({read})")
        assert len(shortcuts) == 16 and all(key in help_text or key in "23" for key in shortcuts)
        for key, path in (("g", "guidelines"), ("d", "dashboard"), ("g", "guidelines"), ("c", "")):
            page.press(key)
            page.page.wait_for_url(url + path)
            page.page.wait_for_load_state("networkidle")
        page.page.wait_for_selector("#compare:not([hidden])")
        page.press("Control+a")  # not ours
        assert page.page.evaluate("document.querySelector('[name=choice]:checked')") is None


def test_new_guidelines_are_read_before_the_next_vote(browser, tmp_path):
    mine = Desk(tmp_path, numbered(3))
    with served(mine.app) as url:
        page = Page(browser, url).begin()
        desk.publish(mine.store, "# Be fairer")
        page.press("t", "Enter")
        page.page.wait_for_url(url + "guidelines")
        assert page.page.text_content("#guidelines h1") == "Be fairer"
        page.page.click("#read")
        page.page.wait_for_selector("#compare:not([hidden])")
        page.press("t")
        page.answer(lambda: page.press("Enter"))
    assert [row["guidelines"] for row in mine.votes()] == [2]


def test_the_goal_ends_with_thanks_undo_and_finish(browser, tmp_path):
    ended = []
    mine = Desk(tmp_path, numbered(5))
    mine.status.goal, mine.status.finished = 2, lambda: ended.append(True)
    with served(mine.app) as url:
        page = Page(browser, url).begin()
        for _ in range(2):
            page.press("t")
            page.answer(lambda: page.press("Enter"))
        assert page.page.is_visible("#finish") and "2 of 2" in page.page.text_content("#count")
        page.answer(lambda: page.press("u"), "Taken back")
        page.press("a", "1")
        page.answer(lambda: page.press("Enter"))
        page.press("Enter")
        page.page.wait_for_function("() => document.querySelector('#pause-title').textContent === 'Finished'")
    assert ended == [True] and [told(row) for row in mine.votes()] == ["tie", "left"]


def test_a_vote_waits_for_a_server_that_went_away(browser, tmp_path):
    """The page keeps it, says so, and sends it once the server is back: stored once."""
    mine = Desk(tmp_path, numbered(3))
    with served(mine.app) as url:
        page = Page(browser, url).begin()
    page.press("b", "4", "Enter")
    page.until("Not stored yet")
    assert mine.votes() == []
    with served(mine.app, int(url.rsplit(":", 1)[1].strip("/"))):
        page.until("Stored.")
        page.page.wait_for_selector("#main:not([aria-busy=true])")
    assert [(told(row), row["strength"]) for row in mine.votes()] == [("right", 4)]


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_axe_finds_nothing(browser, tmp_path, look):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    mine = Desk(tmp_path, numbered(6))
    phone = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
    options = {"light": {}, "dark": {"color_scheme": "dark"}, "phone": phone}[look]

    def check(page):
        found = axe.Axe().run(
            page.page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa", "best-practice"]}
        )
        problems = [f"{v['id']}: {node['html']}" for v in found.response["violations"] for node in v["nodes"]]
        assert problems == []
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.page.evaluate(wide) <= 0

    with served(mine.app) as url:
        page = Page(browser, url, **options)
        page.page.goto(url)
        page.page.wait_for_selector("#welcome:not([hidden])")
        check(page)
        page.page.fill("#name", "Ada")
        page.press("Enter")
        page.page.wait_for_selector("#read:not([hidden])")
        check(page)
        page.press("Enter")
        page.page.wait_for_selector("#compare:not([hidden])")
        page.press("a", "2", "n", "Escape", "e", "Escape")
        check(page)
        for key in ("s", "f", "?") if look == "light" else ():
            page.press(key)
            check(page)
            page.press("Escape")
        for _ in range(2):
            page.press("b", "1")
            page.answer(lambda: page.page.click("#send"))
        page.page.goto(url + "dashboard")
        page.page.wait_for_selector("#tiles li")
        check(page)


def test_a_simulated_annotator_votes_at_the_page(browser, tmp_path):
    """The clicks of a person whose taste is known come out of the export as that person meant them."""
    from pronk.world.annotators import Annotator
    from pronk.world.tell import requests

    asked = list(requests(24, 3))
    pairs = [(r.prompt, r.story.text, other.story.text) for r, other in zip(asked[::2], asked[1::2])]
    mine, person = Desk(tmp_path, pairs), Annotator(0)
    keys, meant = {"a": "a", "b": "b", "tie": "t", "bad": "x"}, []
    with served(mine.app) as url:
        page = Page(browser, url).begin()
        for _ in pairs:
            (prompt,), left, right = page.shown()
            verdict = person.judge(prompt, left, right)
            page.press(keys[verdict.choice], *([str(verdict.strength)] if verdict.strength else []))
            page.answer(lambda: page.press("Enter"))
            better = {"a": left, "b": right}.get(verdict.choice)
            meant.append((prompt, better, verdict.strength))
        page.page.wait_for_selector("#pause:not([hidden])")
    texts = {"first": 0, "second": 1}
    got = [
        (
            r["prompt"][0]["content"],
            r["answers"][texts[r["choice"]]]["text"] if r["choice"] in texts else None,
            r["strength"],
        )
        for r in mine.votes()
    ]
    assert got == meant
    assert json.dumps(got)
