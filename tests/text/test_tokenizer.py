"""Tokenizer folders: ours open in transformers, others' open here, and broken ones say what is wrong."""

import json

import pytest
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Inner
from transformers import AutoTokenizer

from pronk.errors import UserError
from pronk.text import chat
from pronk.text.tokenizer import Tokenizer

from .make import CORPUS, HARD, KINDS, SCRIPTS, trained, turns

kinds = pytest.mark.parametrize("kind", KINDS)


@kinds
def test_save_and_load_give_the_same(kind, tmp_path):
    tokenizer = trained(kind)
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint
    assert (again.size, again.bos, again.eos, again.pad) == (
        tokenizer.size,
        tokenizer.bos,
        tokenizer.eos,
        tokenizer.pad,
    )
    assert again.encode(CORPUS[0]) == tokenizer.encode(CORPUS[0])
    assert again.template == tokenizer.template == (tmp_path / "chat_template.jinja").read_text()
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["chat_template"] == tokenizer.template


@kinds
def test_transformers_gives_the_same_ids_and_chats(kind, tmp_path):
    tokenizer = trained(kind)
    tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    ids = (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id, len(theirs))
    assert ids == (tokenizer.bos, tokenizer.eos, tokenizer.pad, tokenizer.size)
    texts = [*CORPUS[:2], *SCRIPTS.values(), *(text for name, text in HARD.items() if name != "specials")]
    for text in texts:
        mine = tokenizer.encode(text)
        assert theirs(text, add_special_tokens=False).input_ids == mine
        assert theirs.decode(mine) == text
        assert theirs(text).input_ids == [tokenizer.bos, *mine]  # what a user of transformers gets unasked
    said = turns("Hi  there\n", " Hello!\n\n", "And?", "So.", system="Be kind.")
    for messages, prompt in ((said, False), (said[:-1], True)):
        rows = [turn._asdict() for turn in messages]
        rendered = theirs.apply_chat_template(rows, tokenize=False, add_generation_prompt=prompt)
        assert rendered == chat.render(tokenizer, messages, prompt)
        encoded = theirs.apply_chat_template(rows, add_generation_prompt=prompt)["input_ids"]
        assert encoded == chat.encode_chat(tokenizer, messages, prompt)[0]


def test_resaving_by_transformers_keeps_the_fingerprint(tmp_path):
    tokenizer = trained()
    tokenizer.save(tmp_path / "ours")
    AutoTokenizer.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    assert Tokenizer.load(tmp_path / "theirs").fingerprint == tokenizer.fingerprint


def test_fingerprint_tells_tokenizers_and_templates_apart(tmp_path):
    tokenizer = trained()
    tokenizer.save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    prints = {tokenizer.fingerprint, trained("unigram").fingerprint, Tokenizer.load(tmp_path).fingerprint}
    assert len(prints) == 3


@kinds
def test_decoding_bad_bytes_is_tolerant(kind):
    tokenizer = trained(kind)
    ids = tokenizer.encode("é😀𠮷")
    for stop in range(len(ids)):
        assert isinstance(tokenizer.decode(ids[:stop]), str)
    assert "\ufffd" in tokenizer.decode(tokenizer.encode("𠮷")[:-1])


def test_decode_drops_specials_unless_kept():
    tokenizer = trained()
    ids = [tokenizer.bos, *tokenizer.encode("Hi"), tokenizer.eos]
    assert tokenizer.decode(ids) == "Hi"
    assert tokenizer.decode(ids, keep_special=True) == "<|begin|>Hi<|end|>"


def test_half_a_character_is_refused():
    with pytest.raises(UserError, match="lone surrogate"):
        trained().encode("a\ud83d")


def test_encode_batch_equals_encode():
    texts = [*SCRIPTS.values(), *HARD.values()]
    assert trained().encode_batch(iter(texts)) == [trained().encode(text) for text in texts]


def llama_like(folder, config=None, special=True, extra=()):
    """A folder as of Llama 3: byte-level words, its own special tokens after the vocabulary, no pad."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Inner(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    names = ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", *extra)
    inner.add_tokens([AddedToken(name, special=special, normalized=False) for name in names])
    folder.mkdir(exist_ok=True)
    inner.save(str(folder / "tokenizer.json"))
    config = (
        {"bos_token": "<|begin_of_text|>", "eos_token": {"__type": "AddedToken", "content": "<|eot_id|>"}}
        if config is None
        else config
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_opens_a_llama_like_folder(tmp_path):
    tokenizer = Tokenizer.load(llama_like(tmp_path))
    assert (tokenizer.bos, tokenizer.eos, tokenizer.size) == (256, 257, 260)
    assert tokenizer.decode(tokenizer.encode("Hallo 😀 <|eot_id|>")) == "Hallo 😀 <|eot_id|>"
    assert 257 not in tokenizer.encode("<|eot_id|>")
    tokenizer.save(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again").fingerprint == tokenizer.fingerprint


def test_missing_pad_and_bos_follow_the_rule(tmp_path):
    assert Tokenizer.load(llama_like(tmp_path)).pad == 257  # eos
    spare = llama_like(tmp_path, extra=("<|finetune_right_pad_id|>",))
    assert Tokenizer.load(spare).pad == 260
    only = Tokenizer.load(llama_like(tmp_path, config={"eos_token": "<|eot_id|>"}))
    assert only.bos == only.eos == 257


def test_named_tokens_are_special_even_if_the_file_does_not_say_so(tmp_path):
    tokenizer = Tokenizer.load(llama_like(tmp_path, special=False))
    assert tokenizer.eos not in tokenizer.encode("a<|eot_id|>b")
    assert tokenizer.decode([tokenizer.bos, 70, tokenizer.eos]) == tokenizer.decode([70])


def test_template_is_found_in_both_places(tmp_path):
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    folder = llama_like(tmp_path, config={"eos_token": "<|eot_id|>", "chat_template": named})
    assert Tokenizer.load(folder).template == "D"
    (folder / "chat_template.jinja").write_text("J")
    assert Tokenizer.load(folder).template == "J"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, 'names no "eos_token"'),
        ({"eos_token": "<|nowhere|>"}, "eos_token '<|nowhere|>', which tokenizer.json does not hold"),
    ],
)
def test_bad_configs_are_named(tmp_path, config, message):
    with pytest.raises(UserError) as error:
        Tokenizer.load(llama_like(tmp_path, config=config))
    assert message in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_bad_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no tokenizer\.json here"):
        Tokenizer.load(tmp_path / "nothing")
    folder = llama_like(tmp_path)
    (folder / "tokenizer_config.json").write_text('{"eos_token": ')
    with pytest.raises(UserError, match=r"tokenizer_config\.json:1: broken JSON"):
        Tokenizer.load(folder)
    (folder / "tokenizer_config.json").write_text("[]")
    with pytest.raises(UserError, match="expected a JSON object"):
        Tokenizer.load(folder)
    llama_like(tmp_path)
    (folder / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(UserError, match=r"tokenizer\.json is broken"):
        Tokenizer.load(folder)
    (folder / "tokenizer.json").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8"):
        Tokenizer.load(folder)
