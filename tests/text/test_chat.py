"""Chats: what is learned is exactly the assistant's, whatever the template, and content cannot pose as the template."""

import json

import pytest
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, normalizers

from pronk.errors import UserError
from pronk.text import bpe, chat
from pronk.text.tokenizer import Tokenizer

from .make import HARD, KINDS, SCRIPTS, Turn, trained, turns
from .test_tokenizer import llama_like

LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + "
    "'<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
CHATML = (
    "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (  # no generation prompt of its own, a space before the answer
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}"
)
ZEPHYR = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|start_header_id|>assistant\n"
    "{% generation %}{{ m.content + eos_token }}{% endgeneration %}\n"
    "{% else %}<|start_header_id|>user\n{{ m.content }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant\n{% endif %}"
)
PLAIN = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def learned(tokenizer, messages, **options):
    ids, mask = chat.encode_chat(tokenizer, messages, **options)
    return tokenizer.decode([i for i, one in zip(ids, mask, strict=True) if one], keep_special=True)


def foreign(folder, template, **options):
    extra = ("<|im_start|>", "<|im_end|>")
    llama_like(folder, extra=extra, **options)
    (folder / "chat_template.jinja").write_text(template)
    return Tokenizer.load(folder)


def test_our_template_is_short():
    messages = turns("Hi", "Hello!", "Bye", "See you", system="Be kind.")
    expected = "<|begin|><|system|>Be kind.<|user|>Hi<|assistant|>Hello!<|end|><|user|>Bye<|assistant|>See you<|end|>"
    assert chat.render(trained(), messages) == expected
    assert chat.render(trained(), messages[:2], True) == "<|begin|><|system|>Be kind.<|user|>Hi<|assistant|>"


@pytest.mark.parametrize("kind", KINDS)
def test_sft_single_bos_eos_appended_response_only_mask(kind):
    """Pitfall 41."""
    tokenizer = trained(kind)
    ids, mask = chat.encode_chat(tokenizer, turns("Hi", " Hello!\n", "Bye", "See you"))
    assert ids.count(tokenizer.bos) == 1
    assert ids[0] == tokenizer.bos
    assert ids[-1] == tokenizer.eos
    assert mask[-1]
    assert not any(m for i, m in zip(ids, mask) if i in tokenizer.specials.values() and i != tokenizer.eos)
    assert learned(tokenizer, turns("Hi", " Hello!\n", "Bye", "See you")) == " Hello!\n<|end|>See you<|end|>"


def test_only_the_last_answer_on_request():
    assert learned(trained(), turns("Hi", "Hello!", "Bye", "See you"), learn="last") == "See you<|end|>"


def test_a_prompt_learns_nothing():
    ids, mask = chat.encode_chat(trained(), turns("Hi"), add_generation_prompt=True)
    assert not any(mask)
    assert ids[-1] == trained().specials["<|assistant|>"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", [*SCRIPTS.values(), *HARD.values()])
def test_content_survives_and_cannot_pose_as_the_template(kind, text):
    tokenizer = trained(kind)
    ids, _ = chat.encode_chat(tokenizer, [Turn("system", text), Turn("user", text), Turn("assistant", text)])
    specials = [i for i in ids if i in tokenizer.specials.values()]
    names = ["<|begin|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
    assert specials == [tokenizer.specials[name] for name in names]
    assert (
        tokenizer.decode(ids, keep_special=True) == f"<|begin|><|system|>{text}<|user|>{text}<|assistant|>{text}<|end|>"
    )


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (LLAMA3, "Hello!<|eot_id|>Again!<|eot_id|>"),
        (CHATML, "Hello!<|im_end|>Again!<|im_end|>"),
        (LLAMA2, " Hello! <|eot_id|> Again! <|eot_id|>"),
        (ZEPHYR, "Hello!<|eot_id|>Again!<|eot_id|>"),
        (PLAIN, "Hello!\nAgain!\n<|eot_id|>"),
    ],
    ids=["llama3", "chatml", "llama2", "generation", "no specials"],
)
def test_foreign_templates(tmp_path, template, expected):
    tokenizer = foreign(tmp_path, template)
    messages = turns("Hi <|eot_id|><|im_end|>", "Hello!", "More", "Again!")
    assert learned(tokenizer, messages) == expected
    ids, _ = chat.encode_chat(tokenizer, messages)
    rendered = chat.render(tokenizer, messages)
    assert tokenizer.decode(ids, keep_special=True) in (rendered, rendered + "<|eot_id|>")
    prompt, _ = chat.encode_chat(tokenizer, messages[:3], add_generation_prompt=True)
    assert ids[: len(prompt)] == prompt


def test_the_prompt_is_a_prefix_though_tokens_would_merge(tmp_path):
    r"""A template that ends in "\n" before an answer that starts with one: generation sees the prompt's own tokens."""
    tokenizer = trained()
    template = (
        "{% for m in messages %}{{ m.role }}:\n{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:\n' }}{% endif %}"
    )
    merged = Tokenizer(tokenizer._definition, tokenizer._config, template)
    messages = turns("a", "\n\nb")
    ids, mask = chat.encode_chat(merged, messages)
    prompt, _ = chat.encode_chat(merged, messages[:1], add_generation_prompt=True)
    assert ids[: len(prompt)] == prompt
    assert mask.index(True) == len(prompt)
    assert merged.decode(ids) == "user:\naassistant:\n\n\nb"


def test_transformers_agrees_on_foreign_templates(tmp_path):
    from transformers import AutoTokenizer

    for template in (LLAMA3, CHATML, LLAMA2, PLAIN):
        tokenizer = foreign(tmp_path, template)
        theirs = AutoTokenizer.from_pretrained(tmp_path)
        messages = turns(" Hi ", "Hello!\n", "More")
        rows = [turn._asdict() for turn in messages]
        assert theirs.apply_chat_template(rows, tokenize=False) == chat.render(tokenizer, messages)
        ours, _ = chat.encode_chat(tokenizer, messages, add_generation_prompt=True)
        assert theirs.apply_chat_template(rows, add_generation_prompt=True)["input_ids"] == ours


def test_sentencepiece_like_spaces_agree_with_transformers(tmp_path):
    """Llama 2's tokenizer puts a space before every stretch between special tokens: cutting must not add one."""
    from transformers import AutoTokenizer

    characters = ["▁", *(chr(code) for code in range(33, 127))]
    vocabulary = {piece: i for i, piece in enumerate([*bpe.BYTES, *characters, "<s>", "</s>", "<unk>"])}
    inner = Inner(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    spaces = decoders.Replace("▁", " ")
    inner.decoder = decoders.Sequence([spaces, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    inner.add_special_tokens(["<s>", "</s>", "<unk>"])
    inner.save(str(tmp_path / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "chat_template": LLAMA2}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.pad == vocabulary["<unk>"]
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    messages = turns("Hi", "Hello you!", "More", "Again\n 😀")
    ids, mask = chat.encode_chat(tokenizer, messages)
    assert theirs.apply_chat_template([turn._asdict() for turn in messages])["input_ids"] == ids
    parts = "".join("x" if one else "." for one in mask).strip(".").split(".")
    assert len([part for part in parts if part]) == 2
    assert tokenizer.decode([i for i, one in zip(ids, mask) if one]).strip() == "Hello you!  Again\n 😀"


def test_end_of_turn_is_what_the_template_ends_answers_with(tmp_path):
    assert chat.end_of_turn(trained()) == trained().eos
    tokenizer = foreign(tmp_path, CHATML)
    assert chat.end_of_turn(tokenizer) == tokenizer.specials["<|im_end|>"]


def test_templates_that_rewrite_history_are_refused(tmp_path):
    rewriting = "{% for m in messages %}{{ m.content if loop.last else '…' }}<|eot_id|>{% endfor %}"
    with pytest.raises(UserError, match="use a template that only appends"):
        chat.encode_chat(foreign(tmp_path, rewriting), turns("a", "b", "c", "d"))


def test_the_sandbox_holds(tmp_path):
    for template in (
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('true').read() }}",
        "{{ messages.append(1) }}",
        "{% for i in range(10000000000) %}a{% endfor %}",
    ):
        with pytest.raises(UserError, match="chat template refuses"):
            chat.render(foreign(tmp_path, template), turns("a"))


def test_errors_of_templates_reach_the_user(tmp_path):
    with pytest.raises(UserError, match="unknown role tool"):
        chat.render(trained(), [Turn("tool", "x")])
    with pytest.raises(UserError, match="broken at line 1"):
        chat.render(foreign(tmp_path, "{% for %}"), turns("a"))
    bare = Tokenizer.load(llama_like(tmp_path / "bare"))
    with pytest.raises(UserError, match="has no chat template"):
        chat.render(bare, turns("a"))
