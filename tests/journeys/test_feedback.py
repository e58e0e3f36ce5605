"""`pronk feedback` as users type it: answers made, votes collected, given, taken, told and forgotten."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pronk.commands.feedback import Config
from pronk.config import parse
from pronk.data.read import comparisons
from pronk.feedback.simulate import Guest

from .make import fails, pronk, start, told

FEW = ("--max-tokens", 12, "--device", "cpu", "--no-open", "--port", 0)


class Both(BaseHTTPRequestHandler):
    """A stand-in for servers of a language model, which tells good stories, and of a reward model."""

    def reply(self, body):
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.reply({"data": [{"id": "storyteller"}]})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/v1/score":
            scores = [len(talk[-1]["content"]) for talk in asked["conversations"]]
            return self.reply({"data": [{"index": n, "score": float(s)} for n, s in enumerate(scores)]})
        message = {"content": sorted(told(), key=len)[asked["seed"] % 31]}
        return self.reply({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})

    def log_message(self, *words):
        pass


@pytest.fixture(scope="module")
def url():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Both)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()


@pytest.fixture(scope="module")
def collected(raised, url, tmp_path_factory):
    """Twelve votes of two simulated people on a model against itself."""
    out = tmp_path_factory.mktemp("collected")
    begin = ("feedback", "--url", url, "--prompts", raised.prompts, "--pairs", 10, *FEW)
    pronk(*begin, "--simulate", 2, "--votes", 12, "--pick.evaluation", 0.4, "--pick.repeat", 0, "--out", out)
    return out


def test_simulated_people_vote_at_the_page_and_the_files_are_left(collected):
    votes = [json.loads(line) for line in (collected / "votes.jsonl").read_text().splitlines()]
    assert len(votes) == 12 and len({row["annotator"] for row in votes}) == 2
    stats = json.loads((collected / "stats.json").read_text())
    assert stats["counts"]["votes"] == 12 and stats["counts"]["people"] == 2
    assert (collected / "feedback.db").exists()
    for name, part in (("comparisons", "train"), ("evaluation", "evaluation")):
        meant = [r for r in votes if r["part"] == part and r["strength"]]
        path = collected / f"{name}.jsonl"
        assert len(list(comparisons([path], strict=True)) if path.exists() else []) == len(meant)


def test_the_same_command_again_makes_nothing_twice(raised, url, collected, capsys):
    begin = ("feedback", "--url", url, "--prompts", raised.prompts, "--pairs", 10, *FEW)
    pronk(*begin, "--simulate", 1, "--votes", 12, "--db", collected / "feedback.db")
    assert "10 pairs, 2 people, 12 votes" in capsys.readouterr().out


def test_a_seed_says_everything(raised, tmp_path):
    said = []
    for name in ("one", "other"):
        begin = ("feedback", "--model", raised.model, "--prompts", raised.prompts, "--pairs", 6, *FEW)
        pronk(*begin, "--simulate", 2, "--votes", 5, "--out", tmp_path / name)
        rows = [json.loads(line) for line in (tmp_path / name / "votes.jsonl").read_text().splitlines()]
        names = {}  # pseudonyms are random, but who comes first is not
        hidden = ("at", "seconds", "annotator")
        said.append(
            [[names.setdefault(r["annotator"], len(names)), {k: r[k] for k in r if k not in hidden}] for r in rows]
        )
    assert said[0] == said[1]


def test_export_import_stats_and_forget(collected, tmp_path, capsys):
    db, copy = ("--db", collected / "feedback.db"), ("--db", tmp_path / "copy.db")
    for shape in ("trl", "hh", "openai", "votes"):
        pronk("feedback", "export", tmp_path / f"{shape}.jsonl", *db, "--format", shape, "--part", "all")
        pronk("feedback", "export", tmp_path / f"{shape}.parquet", *db, "--format", shape, "--part", "all")
    assert "12 rows of format votes" in capsys.readouterr().out
    pronk("feedback", "import", tmp_path / "votes.parquet", *copy)
    assert "12 new answers" in capsys.readouterr().out
    pronk("feedback", "import", tmp_path / "votes.jsonl", *copy)
    assert "0 new answers" in capsys.readouterr().out
    pronk("feedback", "export", tmp_path / "again.jsonl", *copy, "--format", "votes", "--part", "all")
    assert (tmp_path / "again.jsonl").read_text() == (tmp_path / "votes.jsonl").read_text()
    capsys.readouterr()
    pronk("feedback", "stats", *db)
    said = capsys.readouterr().out
    assert "12 votes" in said and "the left side was chosen" in said
    pronk("feedback", "import", tmp_path / "hh.jsonl", *copy)
    assert "feedback: 0 new" not in capsys.readouterr().out
    pronk("feedback", "forget", "simulated 1", *db)
    assert "simulated 1" in fails(capsys, "feedback", "forget", "simulated 1", *db)


def test_mistakes_are_told_with_their_cure(raised, tmp_path, capsys):
    db = ("--db", tmp_path / "none.db")
    assert "--model FOLDER" in fails(capsys, "feedback", *db)
    assert "--prompts" in fails(capsys, "feedback", "--model", raised.model, *db)
    assert "no such folder" in fails(capsys, "feedback", "--model", "nowhere", "--prompts", raised.prompts, *db)
    assert "no such database" in fails(capsys, "feedback", "stats", *db)
    assert "name the file" in fails(capsys, "feedback", "export", *db)
    pronk("feedback", "import", raised.prompts, *db)  # no comparisons in there
    assert "nothing to export" in fails(capsys, "feedback", "export", tmp_path / "x.jsonl", *db)
    assert "name the person" in fails(capsys, "feedback", "forget", *db)
    assert "--score" in fails(
        capsys, "feedback", "--model", raised.model, "--prompts", raised.prompts, "--pick.choose", "doubt", *db, *FEW
    )
    assert "--votes -1" in fails(capsys, "feedback", "--votes", "-1")
    assert "expected one of collect, export" in fails(capsys, "feedback", "exports", "x.jsonl", *db)
    (tmp_path / "bad.jsonl").write_text('{"prompt": "x"}\n')
    pronk("feedback", "import", tmp_path / "bad.jsonl", *db)
    assert "skipped 1 × no key 'chosen'" in capsys.readouterr().out
    begin = ("feedback", "--model", raised.model, "--prompts", raised.prompts, "--pairs", 2, "--simulate", 1, *FEW)
    assert "only 2 of 9 votes" in fails(capsys, *begin, "--votes", 9, "--db", tmp_path / "few.db")


def test_models_can_be_named_as_the_issue_writes_it():
    words = ["--model", "a", "--model", "b", "--url", "http://x/v1", "--prompts", "p.jsonl", "--db", "f.db"]
    config = parse(Config, words, bare=("settings", "action", "target"))
    assert config.model == ("a", "b") and config.url == ("http://x/v1",)
    config = parse(Config, ["export", "out.parquet", "--format", "hh"], bare=("settings", "action", "target"))
    assert (config.action, config.target, config.format) == ("export", "out.parquet", "hh")


def test_a_served_model_answers_and_reward_models_choose(raised, url, tmp_path):
    """--url asks an OpenAI-compatible server, --score asks /v1/score."""
    begin = ("feedback", "--model", raised.model, "--url", url, "--prompts", raised.prompts, "--score", url, url, *FEW)
    words = ("--pick.choose", "doubt", "--pick.evaluation", 0, "--pick.repeat", 0, "--simulate", 1, "--votes", 4)
    pronk(*begin, *words, "--out", tmp_path)
    votes = [json.loads(line) for line in (tmp_path / "votes.jsonl").read_text().splitlines()]
    assert len(votes) == 4
    for row in votes:
        assert row["answers"][1]["model"].startswith("storyteller at http://127.0.0.1")
        assert row["answers"][1]["text"] in told()
    stats = json.loads((tmp_path / "stats.json").read_text())
    assert stats["duels"] == [] == stats["standings"]  # picked by doubt: no fair sample


def test_ctrl_c_ends_the_page_calmly(raised, tmp_path):
    import signal

    begin = ("feedback", "--model", raised.model, "--prompts", raised.prompts, "--pairs", 3, *FEW)
    process = start(*begin, "--db", tmp_path / "feedback.db")
    line = process.stdout.readline()
    assert line.startswith("feedback: the page is at http://localhost:"), line
    Guest(line.split()[-1], "ada").next()  # it is there
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 0 and "everything is in" in said and "Traceback" not in said


def test_the_loop_closes(raised, collected, tmp_path, capsys):
    """Votes become a reward model and a new model, and the new one stands against the old one on the same page."""
    data = ("--model", raised.model, "--data", collected / "comparisons.jsonl")
    few = (
        "--validation",
        0.4,
        "--train.batch",
        2,
        "--train.length",
        192,
        "--train.device",
        "cpu",
        "--train.precision",
        "fp32",
    )
    pronk("reward", *data, *few, "--out", tmp_path / "reward")
    pronk("dpo", *data, *few, "--out", tmp_path / "new")
    capsys.readouterr()
    pair = ("--model", tmp_path / "new" / "model", "--model", raised.model)
    words = ("--simulate", 1, "--votes", 4, "--pick.evaluation", 0, "--pick.repeat", 0)
    pronk("feedback", *pair, "--prompts", raised.prompts, *FEW, *words, "--out", tmp_path / "again")
    assert f"{tmp_path / 'new' / 'model'} " in capsys.readouterr().out
    (duel,) = json.loads((tmp_path / "again" / "stats.json").read_text())["duels"]
    assert duel["votes"] == 4 and duel["low"] < duel["rate"] < duel["high"]
