"""Tokenizers out of other formats split texts as their own libraries do, and give the texts back."""

import base64
import re
import struct

import pytest

from pronk.errors import UserError
from pronk.folders import vocabularies
from pronk.text.bpe import WORDS, train
from pronk.world.tell import stories

STORIES = [story.text for story in stories(300, seed=2)]
HARD = [text for text in vocabularies.SAMPLES if text] + ["<s> </s> <unk>", "▁", "tab\tand\r\nreturn", "𝔘𝔫𝔦", "\u0000"]


def refuses(function, path, says):
    with pytest.raises(UserError, match=re.escape(says)):
        function(path)


def sentencepiece_file(folder, **options):
    sentencepiece = pytest.importorskip("sentencepiece")
    text = folder / "text.txt"
    text.write_text("\n".join(STORIES), encoding="utf-8")
    usual = {"model_type": "bpe", "byte_fallback": True, "vocab_size": 600, "normalization_rule_name": "identity"}
    usual |= {"remove_extra_whitespaces": False, "split_digits": True, "hard_vocab_limit": False, "num_threads": 1}
    prefix = str(folder / "tokenizer")
    sentencepiece.SentencePieceTrainer.train(input=str(text), model_prefix=prefix, minloglevel=2, **usual | options)
    return sentencepiece.SentencePieceProcessor(model_file=f"{prefix}.model")


@pytest.mark.parametrize(
    "options",
    [{}, {"add_dummy_prefix": False}, {"vocab_size": 420}],
    ids=["llama", "no prefix", "smaller"],
)
def test_sentencepiece(tmp_path, options):
    theirs = sentencepiece_file(tmp_path, **options)
    ours = vocabularies.open_any(tmp_path)
    assert ours.size == theirs.get_piece_size()
    assert (ours.bos, ours.eos) == (theirs.bos_id(), theirs.eos_id())
    assert set(ours.specials) == {"<unk>", "<s>", "</s>"}
    for text in [*STORIES[:100], *HARD]:
        ids = ours.encode(text)
        if "<" not in text and "▁" not in text:
            assert ids == theirs.encode(text), text
            assert ours.decode(ids) == text
    assert ours.encode("<s>")[-1] != ours.bos  # the name of a token in a text stays text


@pytest.mark.parametrize(
    "options",
    [{"normalization_rule_name": "nmt_nfkc_cf", "remove_extra_whitespaces": True}, {"model_type": "unigram"}],
    ids=["changes the text", "unigram"],
)
def test_sentencepiece_that_we_cannot_repeat_is_refused(tmp_path, options):
    sentencepiece_file(tmp_path, **options)
    refuses(vocabularies.open_any, tmp_path, "splits text in a way that we cannot repeat; use tokenizer.json")


def test_sentencepiece_cut_short(tmp_path):
    sentencepiece_file(tmp_path)
    file = tmp_path / "tokenizer.model"
    file.write_bytes(file.read_bytes()[:5000])
    refuses(vocabularies.open_any, tmp_path, "tokenizer.model: not a whole SentencePiece model")


def ranks():
    letters = {letter: byte for byte, letter in vocabularies._letters().items()}
    vocabulary = train(STORIES, "bytelevel", 700).definition["model"]["vocab"]
    # in the order of ids, with the bytes first, as tiktoken has them
    words = sorted(vocabulary, key=lambda word: (len(word) > 1, vocabulary[word]))
    return {bytes(letters[letter] for letter in word): rank for rank, word in enumerate(words)}


def test_tiktoken_ranks(tmp_path):
    tiktoken = pytest.importorskip("tiktoken")
    found = ranks()
    lines = [f"{base64.b64encode(token).decode()} {rank}" for token, rank in found.items()]
    (tmp_path / "tokenizer.model").write_text("\n".join(lines) + "\n")
    theirs = tiktoken.Encoding("ours", pat_str=WORDS, mergeable_ranks=found, special_tokens={})
    ours = vocabularies.open_any(tmp_path)
    assert ours.size == len(found) + 256
    assert (ours.bos, ours.eos) == (len(found), len(found) + 1)
    assert ours.specials["<|eot_id|>"] == len(found) + 9
    assert ours.specials["<|reserved_special_token_2|>"] == len(found) + 5
    assert len(ours.specials) == 256
    for text in [*STORIES[:100], *HARD]:
        assert ours.encode(text) == theirs.encode_ordinary(text), text
        assert ours.decode(ours.encode(text)) == text


def test_broken_ranks(tmp_path):
    (tmp_path / "tokenizer.model").write_text("IQ== 0\nIg== 1\nhello\n")
    refuses(vocabularies.open_any, tmp_path, "tokenizer.model:3: expected a token in base64 and its rank")
    (tmp_path / "tokenizer.model").write_text("IQ== 0\nIg== 2\n")
    refuses(vocabularies.open_any, tmp_path, "ranks are missing or come twice")


def write_bin(path, theirs):
    data = struct.pack("<i", 27)
    for i in range(theirs.get_piece_size()):
        name = {1: "\n<s>\n", 2: "\n</s>\n"}.get(i, theirs.id_to_piece(i).replace("▁", " ")).encode()
        data += struct.pack("<fi", theirs.get_score(i), len(name)) + name
    path.write_bytes(data)


def test_llama2c(tmp_path):
    theirs = sentencepiece_file(tmp_path)
    (tmp_path / "c").mkdir()
    write_bin(tmp_path / "c/tokenizer.bin", theirs)
    ours = vocabularies.open_any(tmp_path / "c")
    assert (ours.size, ours.bos, ours.eos) == (theirs.get_piece_size(), 1, 2)
    for text in STORIES[:100]:
        assert ours.encode(text) == theirs.encode(text)
    whole = (tmp_path / "c/tokenizer.bin").read_bytes()
    (tmp_path / "c/tokenizer.bin").write_bytes(whole[:-2])
    refuses(vocabularies.open_any, tmp_path / "c", f"ends or breaks within token {theirs.get_piece_size() - 1}")
    (tmp_path / "c/tokenizer.bin").write_bytes(whole[:1000])
    refuses(vocabularies.open_any, tmp_path / "c", "tokenizer.bin: ")


def test_gpt2s_two_files(tmp_path):
    from tokenizers.implementations import ByteLevelBPETokenizer

    theirs = ByteLevelBPETokenizer()
    theirs.train_from_iterator(STORIES, 600, special_tokens=["<|endoftext|>"], show_progress=False)
    theirs.save_model(str(tmp_path))
    ours = vocabularies.open_any(tmp_path)
    assert ours.bos == ours.eos == theirs.token_to_id("<|endoftext|>")
    for text in [*STORIES[:100], *HARD]:
        assert ours.encode(text) == theirs.encode(text).ids
        assert ours.decode(ours.encode(text)) == text
    (tmp_path / "merges.txt").write_text("zq xj\n")
    refuses(vocabularies.open_any, tmp_path, "vocab.json and merges.txt do not match")


def test_nothing_there(tmp_path):
    assert vocabularies.open_any(tmp_path) is None
