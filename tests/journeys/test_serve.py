"""`pronk serve` as users run it: in a process of its own, asked by the openai package and by our client."""

import os
import re
import signal
import socket
from contextlib import contextmanager

import httpx
import openai
import pytest
import torch

from pronk.engine.client import Client
from pronk.folders.huggingface import load, save_scorer
from pronk.models.heads import Scorer

from .make import fails, start

ASK = [{"role": "user", "content": "Tell me a story about a cat."}]


@contextmanager
def serving(folder, *words, **options):
    """A running `pronk serve`: the process, its address, and what it printed up to then."""
    process = start("serve", folder, "--port", 0, "--device", "cpu", *words, **options)
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            if "Ctrl-C" in line:
                break
        text = "".join(said)
        found = re.search(r"http://127\.0\.0\.1:\d+", text)
        assert found, text
        yield process, found[0], text
    finally:
        process.kill()
        process.wait()


def test_a_model_is_served_and_stops_calmly(raised):
    with serving(raised.model) as (process, url, said):
        assert "sft is served on" in said  # the model folder of the run named sft
        assert f"curl {url}/v1/chat/completions" in said and '"model": "sft"' in said
        api = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)
        assert [model.id for model in api.models.list().data] == ["sft"]
        how = {"model": "sft", "messages": ASK, "max_tokens": 12, "seed": 1}
        whole = api.chat.completions.create(**how, n=2, logprobs=True, top_logprobs=2)
        assert len(whole.choices) == 2 and whole.usage.completion_tokens <= 24
        chunks = list(api.chat.completions.create(**how, n=2, stream=True, stream_options={"include_usage": True}))
        for choice in whole.choices:
            mine = [c for chunk in chunks for c in chunk.choices if c.index == choice.index]
            assert "".join(c.delta.content or "" for c in mine) == choice.message.content
            assert mine[-1].finish_reason == choice.finish_reason
        assert chunks[-1].usage == whole.usage
        text = api.completions.create(
            model="sft", prompt=["Once", "One day"], max_tokens=20, seed=1, stop=[".", " the"]
        )
        assert all("." not in c.text and " the" not in c.text for c in text.choices)
        echo = api.completions.create(model="sft", prompt=[5, 6, 7], max_tokens=1, echo=True, logprobs=1, temperature=0)
        found = echo.choices[0].logprobs
        assert len(found.token_logprobs) == len(found.top_logprobs) == 4 and found.token_logprobs[0] is None
        with pytest.raises(openai.BadRequestError) as caught:
            api.chat.completions.create(model="sft", messages=ASK, max_tokens=1000)
        assert caught.value.code == "context_length_exceeded"
        with pytest.raises(openai.NotFoundError):
            api.chat.completions.create(model="gpt-4", messages=ASK)
        client = Client(url)
        assert client.health() and client.chat(ASK, max_tokens=12, seed=1)[0].text == whole.choices[0].message.content
        stream = client.chat_stream(ASK, temperature=0)
        next(stream)
        process.send_signal(signal.SIGTERM)  # in the middle of an answer
        assert process.wait(timeout=30) == 0
        rest = process.stdout.read()
        assert rest.rstrip().endswith("stopped") and "Traceback" not in rest


def test_a_reward_model_is_served(raised, tmp_path):
    model, tokenizer = load(raised.model)
    torch.manual_seed(0)
    save_scorer(tmp_path / "judge", scorer := Scorer(model, model.config.width), tokenizer)
    words = ("--name", "Judge 1", "--quiet")
    with serving(tmp_path / "judge", *words, env=os.environ | {"PRONK_API_KEY": "k"}) as (process, url, said):
        assert f"curl {url}/v1/score" in said and "Authorization: Bearer $PRONK_API_KEY" in said
        client = Client(url, key="k")
        assert client.models() == ["Judge 1"]
        asked = [[*ASK, {"role": "assistant", "content": text}] for text in ("A cat sat.", "No.")]
        found = client.score(asked)
        api = openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0, timeout=60)
        told = api.post("/score", body={"model": "Judge 1", "conversations": asked}, cast_to=dict)
        assert [row["score"] for row in told["data"]] == pytest.approx(found, abs=1e-5)
        assert httpx.get(f"{url}/health").status_code == 200
        for messages, score in zip(asked, found):
            assert client.score([messages]) == pytest.approx([score], abs=1e-5)
            ids = template_ids(tokenizer, messages)
            with torch.no_grad():
                assert scorer.eval()(torch.tensor([ids])).values[0, -1].item() == pytest.approx(score, abs=1e-5)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
        rest = process.stdout.read()
        assert "GET" not in rest and "POST" not in rest  # quiet


def template_ids(tokenizer, messages):
    """By the template itself: bos, the question, the answer, eos."""
    told = tokenizer.encode_marked("<|begin|><|user|>")
    middle = tokenizer.encode_marked("<|assistant|>")
    end = [tokenizer.eos]
    return told + tokenizer.encode(messages[0]["content"]) + middle + tokenizer.encode(messages[1]["content"]) + end


def test_mistakes(raised, capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("PRONK_API_KEY", raising=False)
    assert "no such folder" in fails(capsys, "serve", tmp_path / "none")
    assert "PRONK_API_KEY" in fails(capsys, "serve", raised.model, "--host", "0.0.0.0")
    assert "--queue must be 1 or more" in fails(capsys, "serve", raised.model, "--queue", 0)
    assert "--port must be from 0 to 65535" in fails(capsys, "serve", raised.model, "--port", 70000)
    assert "--seconds must be above 0" in fails(capsys, "serve", raised.model, "--seconds", 0)
    assert "config.json" in fails(capsys, "serve", tmp_path, "--port", 0)  # found while it loads
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = fails(capsys, "serve", raised.model, "--port", taken.getsockname()[1])
    assert "choose one with --port" in said
