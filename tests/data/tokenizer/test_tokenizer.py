"""Tokenizers lose nothing, agree with the libraries behind them, and never mistake a text for a special id."""

import json
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from hexareme.data.errors import DataError
from hexareme.data.tokenizer.cutting import cut
from hexareme.data.tokenizer.tokenizer import END_OF_DOCUMENT, TRAINED_KINDS, build_tokenizer, load_tokenizer, read_existing, save_tokenizer
from hexareme.data.tokenizer.training import train_tokenizer
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import Tokenizer as Raw
from tokenizers import models, pre_tokenizers, processors, trainers

VOCAB_SIZE = 600
LOSSLESS = [kind for kind in TRAINED_KINDS if kind != "wordpiece"]


def library(*names: str) -> list[str]:
    return [(Path(sysconfig.get_path("stdlib")) / f"{name}.py").read_text() for name in names]


@pytest.fixture(scope="module")
def sample() -> list[str]:
    return library("heapq", "textwrap", "shlex", "queue", "csv")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, sample) -> dict[str, Path]:
    """A folder for each trained kind."""
    folders = {}
    for kind in TRAINED_KINDS:
        model, end = train_tokenizer(kind, sample, vocab_size=VOCAB_SIZE)
        folders[kind] = tmp_path_factory.mktemp(kind) / "tokenizer"
        save_tokenizer(folders[kind], kind=kind, model=model, end_of_document=end)
    return folders


AWKWARD = [" ", "\n", "\r\n", "\t", "\u2581", "\u2585", "\ufeff", "\0", "<unk>", "<0x41>", "e\u0301", "  \n\n", "😀", END_OF_DOCUMENT]
ORDINARY = ["def f(x):\n    ", "return", "x = 1"]
texts = st.lists(st.sampled_from(AWKWARD + ORDINARY) | st.text(st.characters(codec="utf-8")), max_size=8).map("".join)


@pytest.mark.parametrize("kind", LOSSLESS)
def test_every_text_comes_back(kind, trained):
    tokenizer = load_tokenizer(trained[kind])

    @settings(max_examples=300, deadline=None)
    @given(texts)
    @example(" \u2581 \u2581\u2581")
    @example("<|endofdoc|>")
    @example("")
    def holds(text):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.end_of_document not in ids
        assert all(0 <= token < tokenizer.vocab_size for token in ids)

    holds()


@pytest.mark.parametrize("kind", TRAINED_KINDS)
def test_vocabulary_is_as_large_as_asked(kind, trained):
    assert load_tokenizer(trained[kind]).vocab_size == VOCAB_SIZE


@pytest.mark.parametrize("kind", LOSSLESS)
def test_a_small_sample_gives_a_smaller_vocabulary(kind):
    model, end = train_tokenizer(kind, ["hello hello world\n"], vocab_size=5000)
    tokenizer = build_tokenizer(kind, model, end)
    assert tokenizer.vocab_size < 400
    assert tokenizer.decode(tokenizer.encode("anything else: é")) == "anything else: é"


@pytest.mark.parametrize("kind", TRAINED_KINDS)
def test_training_twice_gives_equal_bytes(kind, trained, sample):
    file = next(path for path in trained[kind].iterdir() if path.name.startswith("tokenizer."))
    assert train_tokenizer(kind, sample, vocab_size=VOCAB_SIZE)[0] == file.read_bytes()


@pytest.mark.parametrize("kind", ["sentencepiece_bpe", "sentencepiece_unigram"])
def test_ids_are_those_of_sentencepiece(kind, trained):
    own = SentencePieceProcessor(model_file=str(trained[kind] / "tokenizer.model"))
    tokenizer = load_tokenizer(trained[kind])
    for text in library("argparse", "ast", "typing"):
        assert tokenizer.encode(text) == own.encode(text)


def test_ids_are_those_of_tokenizers(trained):
    own = Raw.from_file(str(trained["byte_bpe"] / "tokenizer.json"))
    tokenizer = load_tokenizer(trained["byte_bpe"])
    for text in library("argparse", "ast", "typing"):
        assert tokenizer.encode(text) == own.encode(text, add_special_tokens=False).ids


@settings(max_examples=200)
@given(st.text(), st.integers(2, 20))
def test_cut_loses_nothing(text, limit):
    parts = cut(text, limit)
    assert "".join(parts) == text
    assert all(len(part) <= limit for part in parts)


def test_a_batch_is_as_one_by_one(trained, sample):
    for folder in trained.values():
        tokenizer = load_tokenizer(folder)
        some = [*sample, "", "a \u2581 b", END_OF_DOCUMENT]
        one_by_one = [tokenizer.encode(text) for text in some]
        encoded = tokenizer.encode_batch(some)
        assert encoded.ids.tolist() == [token for ids in one_by_one for token in ids]
        assert encoded.lengths.tolist() == [len(ids) for ids in one_by_one]
        closed = tokenizer.encode_batch(some, close=True, dtype=np.uint16)
        assert closed.ids.tolist() == [token for ids in one_by_one for token in (*ids, tokenizer.end_of_document)]
        assert closed.lengths.tolist() == [len(ids) + 1 for ids in one_by_one]
        assert closed.ids.dtype == np.uint16
        assert len(tokenizer.encode_batch([]).ids) == len(tokenizer.encode_batch([]).lengths) == 0


def test_a_folder_its_parent_and_its_file_are_one_tokenizer(trained):
    folder = trained["sentencepiece_bpe"]
    for path in (folder, folder.parent, folder / "tokenizer.model", str(folder)):
        tokenizer = load_tokenizer(path)
        kind, _, end = read_existing("sentencepiece_file", Path(path))
        assert (kind, end) == ("sentencepiece_bpe", tokenizer.end_of_document)
        assert tokenizer.decode(tokenizer.encode(" \u2581")) == " \u2581"


def huggingface_folder(folder: Path, *, end: str, special: bool) -> Path:
    """A tokenizer as others ship it: its end token in a file beside it, not always marked special."""
    raw = Raw(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=280, special_tokens=["<pad>"], initial_alphabet=alphabet, show_progress=False)
    raw.train_from_iterator(["some text, more text"], trainer)
    raw.add_special_tokens([end]) if special else raw.add_tokens([end])
    raw.post_processor = processors.TemplateProcessing(single=f"<pad> $A {end}", special_tokens=[("<pad>", 0), (end, raw.token_to_id(end))])
    raw.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": end}}))
    return folder


@pytest.mark.parametrize("special", [True, False])
def test_huggingface_end_token_in_a_text_is_only_text(tmp_path, special):
    tokenizer = load_tokenizer(huggingface_folder(tmp_path, end="<end!>", special=special))
    raw = Raw.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.end_of_document == raw.token_to_id("<end!>")
    assert tokenizer.end_of_document not in tokenizer.encode("some <end!> text <pad>")
    assert raw.token_to_id("<pad>") not in tokenizer.encode("some <end!> text <pad>")
    assert tokenizer.encode("some text") == raw.encode("some text", add_special_tokens=False).ids


def test_sentencepiece_file_is_used_as_it_is(tmp_path, sample):
    """With a dummy prefix, and an end piece of its own."""
    (tmp_path / "lines.txt").write_text("\n".join(sample))
    lines, prefix = str(tmp_path / "lines.txt"), str(tmp_path / "theirs")
    SentencePieceTrainer.train(input=lines, model_prefix=prefix, vocab_size=400, byte_fallback=True, minloglevel=2)
    own = SentencePieceProcessor(model_file=str(tmp_path / "theirs.model"))
    tokenizer = load_tokenizer(tmp_path / "theirs.model")
    text = "def f(x):  return\n\n  x \u2581 </s>"
    assert tokenizer.encode(text) == own.encode(text)
    assert tokenizer.end_of_document == own.eos_id()
    assert own.eos_id() not in tokenizer.encode(text)


def test_a_tokenizer_of_the_other_library(trained):
    with pytest.raises(DataError, match="no tokenizer of kind huggingface: it is of kind sentencepiece_bpe"):
        read_existing("huggingface", trained["sentencepiece_bpe"])


def test_no_tokenizer(tmp_path):
    with pytest.raises(DataError, match="no tokenizer at"):
        load_tokenizer(tmp_path / "nothing")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="is no tokenizer of kind huggingface"):
        load_tokenizer(tmp_path)
    (tmp_path / "x.model").write_bytes(b"junk")
    with pytest.raises(DataError, match="is no tokenizer of kind sentencepiece_file"):
        load_tokenizer(tmp_path / "x.model")


def test_a_tokenizer_without_an_end(tmp_path):
    raw = Raw(models.BPE(vocab={"a": 0, "b": 1}, merges=[]))
    raw.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match="no piece that ends a document"):
        load_tokenizer(tmp_path)


def test_a_description_that_does_not_fit_its_model(trained, tmp_path):
    for file in trained["byte_bpe"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    description = json.loads((tmp_path / "description.json").read_text())
    (tmp_path / "description.json").write_text(json.dumps(description | {"vocab_size": VOCAB_SIZE + 1}))
    with pytest.raises(DataError, match="says vocab_size=601"):
        load_tokenizer(tmp_path)


def test_too_small_a_vocabulary(sample):
    with pytest.raises(DataError, match="tokenizer.vocab_size=260 is smaller than the") as caught:
        train_tokenizer("sentencepiece_bpe", sample, vocab_size=260)
    needed = int(caught.value.do.split("at least ")[1].split(",")[0])
    train_tokenizer("sentencepiece_bpe", sample, vocab_size=needed)
