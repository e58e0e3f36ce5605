"""Rewards that must be opened first: a reward model's folder, and a judge behind a URL."""

import http.server
import json
import threading

import pytest

from pronk.commands.scoring import rewards
from pronk.data.records import Message, Prompt, Sample
from pronk.errors import UserError


def told(text):
    return Sample(Prompt((Message("user", "Tell a story."),)), text, [1], [2], [0.0], "stop")


class Judge(http.server.BaseHTTPRequestHandler):
    """Gives an answer as many points as it has words."""

    def reply(self, value):
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.reply({"data": [{"id": "judge"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        words = len(body["messages"][-1]["content"].split("<answer>\n")[1].split("\n</answer>")[0].split())
        self.reply({"choices": [{"index": 0, "message": {"content": str(words)}, "finish_reason": "stop"}]})

    def log_message(self, *rest):
        pass


def test_a_judge_by_its_url():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        word = f"0.1*judge:http://127.0.0.1:{server.server_port}"
        ((_, (weight, reward)),) = rewards([word], "cat").items()
        assert weight == 0.1
        assert reward([told("A cat."), told("one two three")]) == [2.0, 3.0]
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(UserError, match=r"127\.0\.0\.1"):
        reward([told("Nobody listens.")])
    with pytest.raises(UserError, match="no server's address"):
        rewards(["judge:somewhere"], "cat")


def test_a_reward_model_by_its_folder(tmp_path):
    from pronk.folders.huggingface import save_scorer
    from pronk.models.build import build, to_scorer
    from pronk.models.config import ModelConfig
    from pronk.text.bpe import train

    tokenizer = train(["tell a story of a cat"] * 5, "bytelevel", 300)
    scorer = to_scorer(build(ModelConfig(vocab=tokenizer.size, width=16, layers=1, heads=2, context=64), seed=0))
    save_scorer(tmp_path / "rm", scorer, tokenizer)
    ((name, (weight, reward)),) = rewards([f"2*model:{tmp_path / 'rm'}"], "cat").items()
    assert (name, weight) == ("rm", 2.0)
    one, other, again = reward([told("a cat"), told("a story"), told("a cat")])
    assert one == pytest.approx(again, abs=1e-5) and one != other
    with pytest.raises(UserError):
        rewards([f"model:{tmp_path}"], "cat")
