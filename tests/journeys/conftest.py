"""A small folder of files and models, raised once and only read by the tests."""

from types import SimpleNamespace

import pytest

from .make import SHAPE, SMALL, pronk, steps, write_prompts, write_requests, write_stories


@pytest.fixture(scope="session")
def raised(tmp_path_factory):
    """stories, requests, prompts: files. pretrain, sft: run folders. model: the tuned model."""
    here = tmp_path_factory.mktemp("raised")
    found = SimpleNamespace(
        stories=write_stories(here), requests=write_requests(here), prompts=write_prompts(here), here=here
    )
    found.pretrain, found.sft, found.model = here / "pretrain", here / "sft", here / "sft" / "model"
    pronk("pretrain", "--data", found.stories, "--out", found.pretrain, *SMALL, *SHAPE, *steps(30))
    begin = ("--model", found.pretrain / "model", "--data", found.requests)
    pronk("sft", *begin, "--out", found.sft, *steps(20, length=192))
    return found
