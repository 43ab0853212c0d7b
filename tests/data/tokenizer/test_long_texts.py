"""Long texts are encoded in parts: the ids are those of the library's one call, whatever the tokenizer."""

import io
import json
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
from hexareme.data.tokenizer.cutting import PART, Cutter
from hexareme.data.tokenizer.huggingface import HuggingFaceTokenizer, fast_encoder
from hexareme.data.tokenizer.sentence_piece import SentencePieceTokenizer
from hexareme.data.tokenizer.tokenizer import build_tokenizer
from hexareme.data.tokenizer.training import train_tokenizer
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import Tokenizer as Raw
from tokenizers import models, normalizers, pre_tokenizers, trainers

from .byte_level_models import END, FAMILIES, trained_model

LIBRARY = Path(sysconfig.get_path("stdlib"))
CHINESE = "自然语言处理是人工智能的一个分支，它研究人与计算机之间的通信。模型从大量文本中学习！"
ODD = "ﷺ ﬁn ₂x²3,4 é e\u0301, ㎏ a"
TEXT = "".join((LIBRARY / f"{name}.py").read_text() for name in ("heapq", "shlex", "csv", "argparse")) + CHINESE * 20 + ODD


@pytest.fixture
def small_parts(monkeypatch):
    """Cutters of a few hundred characters, so that there are hundreds of cuts."""
    original = Cutter.__init__

    def small(self, boundary, skip="", part=150, longest=1 << 20) -> None:
        original(self, boundary, skip=skip, part=min(part, 150), longest=longest)

    monkeypatch.setattr(Cutter, "__init__", small)


def ids(model: bytes, text: str) -> list[int]:
    raw = Raw.from_buffer(model)
    raw.encode_special_tokens = True
    return raw.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("family", FAMILIES)
def test_byte_level(family, small_parts):
    model = trained_model(family, [TEXT])
    end = Raw.from_buffer(model).token_to_id(END)
    for fast in (fast_encoder(model, proven=False), None):
        tokenizer = HuggingFaceTokenizer(model, end_of_document=end, fast=fast)
        cutter = tokenizer._cut_fast if fast else tokenizer._cut_library
        assert len(list(cutter(TEXT))) > 500
        assert tokenizer.encode(TEXT) == ids(model, TEXT)


def bert(lowercase: bool) -> Callable[[], Raw]:
    def make() -> Raw:
        raw = Raw(models.WordPiece(unk_token="[UNK]"))
        raw.normalizer, raw.pre_tokenizer = normalizers.BertNormalizer(lowercase=lowercase), pre_tokenizers.BertPreTokenizer()
        return raw
    return make


def metaspace(scheme: str) -> Callable[[], Raw]:
    def make() -> Raw:
        raw = Raw(models.BPE(unk_token="[UNK]"))
        raw.normalizer, raw.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace(prepend_scheme=scheme)
        return raw
    return make


def llama_2() -> Raw:
    raw = Raw(models.BPE(unk_token="[UNK]", fuse_unk=True))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    return raw


def gemma() -> Raw:
    raw = Raw(models.BPE(unk_token="[UNK]"))
    raw.normalizer = normalizers.Replace(" ", "\u2581")
    return raw


LIBRARY_MODELS = {"bert": bert(False), "bert, lowercase": bert(True), "metaspace, always": metaspace("always"),
                  "metaspace, first": metaspace("first"), "metaspace, never": metaspace("never"), "llama 2": llama_2, "gemma": gemma}


def trained_library_model(make: Callable[[], Raw]) -> bytes:
    raw = make()
    kind = trainers.WordPieceTrainer if isinstance(raw.model, models.WordPiece) else trainers.BpeTrainer
    words = raw.pre_tokenizer is None  # no piece may then cross a space: train on words
    texts = TEXT.replace("\n", " \n ").split(" ") if words else [TEXT]
    raw.train_from_iterator(texts, kind(vocab_size=600, special_tokens=["[UNK]", "[SEP]"], show_progress=False))
    return raw.to_str().encode()


@pytest.mark.parametrize("name", LIBRARY_MODELS)
def test_other_pre_tokenizers(name, small_parts):
    model = trained_library_model(LIBRARY_MODELS[name])
    tokenizer = HuggingFaceTokenizer(model, end_of_document=1)
    assert len(list(tokenizer._cut_library(TEXT))) > 300
    assert tokenizer.encode(TEXT) == ids(model, TEXT)


def test_a_tokenizer_whose_pieces_cross_spaces_gets_texts_whole(small_parts):
    model = json.loads(trained_library_model(gemma))
    vocabulary = model["model"]["vocab"]
    model["model"]["merges"].append(["e", "\u2581a"])
    for token in ("\u2581a", "e\u2581a"):
        vocabulary.setdefault(token, max(vocabulary.values()) + 1)
    tokenizer = HuggingFaceTokenizer(json.dumps(model).encode(), end_of_document=1)
    assert list(tokenizer._cut_library(TEXT)) == [TEXT]
    assert tokenizer.encode(TEXT) == ids(json.dumps(model).encode(), TEXT)


def test_an_added_token_with_a_space_inside_is_never_cut(small_parts):
    raw = Raw.from_buffer(trained_library_model(bert(False)))
    raw.add_tokens(["has a space"])
    tokenizer = HuggingFaceTokenizer(raw.to_str().encode(), end_of_document=1)
    text = "xx" + "it has a space " * 100
    assert list(tokenizer._cut_library(text)) == [text]
    assert tokenizer.encode(text) == raw.encode(text, add_special_tokens=False).ids


def sentencepiece_model(**settings) -> bytes:
    model = io.BytesIO()
    lines = [line for line in TEXT.splitlines() if line]
    fixed = {"vocab_size": 700, "hard_vocab_limit": False, "minloglevel": 2}
    SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, **fixed, **settings)
    return model.getvalue()


SENTENCEPIECE_MODELS = {
    "llama 2": {"model_type": "bpe", "remove_extra_whitespaces": False, "byte_fallback": True, "normalization_rule_name": "identity"},
    "t5": {"model_type": "bpe", "normalization_rule_name": "nmt_nfkc"},
    "no prefix": {"model_type": "bpe", "add_dummy_prefix": False, "remove_extra_whitespaces": False},
    "over spaces": {"model_type": "bpe", "add_dummy_prefix": False, "remove_extra_whitespaces": False, "split_by_whitespace": False},
    "suffix": {"model_type": "bpe", "treat_whitespace_as_suffix": True},
}


@pytest.mark.parametrize("name", SENTENCEPIECE_MODELS)
def test_sentencepiece_models_of_others(name, small_parts):
    model = sentencepiece_model(**SENTENCEPIECE_MODELS[name])
    tokenizer = SentencePieceTokenizer(model, end_of_document=2, trained_here=False)
    assert (len(list(tokenizer._cut(TEXT))) > 300) == (name not in ("over spaces", "suffix"))
    assert tokenizer.encode(TEXT) == SentencePieceProcessor(model_proto=model).encode(TEXT)


@pytest.mark.parametrize("kind", ["sentencepiece_bpe", "byte_bpe", "wordpiece"])
def test_those_trained_here(kind, small_parts):
    model, end = train_tokenizer(kind, [TEXT], vocab_size=2000)
    tokenizer = build_tokenizer(kind, model, end)
    own = SentencePieceProcessor(model_proto=model).encode if kind.startswith("sentencepiece") else lambda text: ids(model, text)
    assert tokenizer.encode(TEXT) == own(TEXT)
    assert len(list((tokenizer._cut if kind.startswith("sentencepiece") else tokenizer._cut_library)(TEXT))) > 300


MORE_RUNS = [pytest.param(run, marks=pytest.mark.nightly) for run in ("\n", " \t\n", "中", ".", "ab", "\xa0")]


@pytest.mark.parametrize("run", [" ", "a", *MORE_RUNS])
def test_runs_without_a_boundary(run):
    """Long enough for several parts, and for the stack of tiktoken's regular expressions."""
    model = trained_model("gpt2", [TEXT])
    tokenizer = HuggingFaceTokenizer(model, end_of_document=Raw.from_buffer(model).token_to_id(END), fast=fast_encoder(model, proven=False))
    text = f"x {run * (1_100_000 // len(run))}x y"
    assert tokenizer.encode(text) == ids(model, text)


def test_a_run_that_tiktoken_cannot_do_goes_to_the_library():
    model = trained_model("cl100k", [TEXT])
    fast = fast_encoder(model, proven=False)
    assert fast
    assert fast.can("x " * 1_000_000)
    assert not fast.can("x" + " " * (1 << 18))


def test_unigram_takes_a_text_whole():
    """In parts it would choose otherwise between pieces of equal score, as SentencePiece adds up those of all the text in fp32."""
    model, end = train_tokenizer("sentencepiece_unigram", [TEXT], vocab_size=2000)
    tokenizer = build_tokenizer("sentencepiece_unigram", model, end)
    text = TEXT * 10
    assert len(text) > 2 * PART
    assert tokenizer.encode(text) == SentencePieceProcessor(model_proto=model).encode(text)
