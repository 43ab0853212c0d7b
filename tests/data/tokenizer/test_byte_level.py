"""tiktoken takes the place of Hugging Face tokenizers only where it gives the same ids."""

import json
import sysconfig
from pathlib import Path

import pytest
from hexareme.data.tokenizer.byte_level import ByteLevelEncoder
from hexareme.data.tokenizer.byte_ranks import byte_alphabet
from hexareme.data.tokenizer.huggingface import HuggingFaceTokenizer, fast_encoder
from hexareme.data.tokenizer.proof_texts import PROOF_TEXTS
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Raw
from tokenizers import models, pre_tokenizers

from .byte_level_models import END, FAMILIES, all_splits, model_of_merges, trained_model

LIBRARY = Path(sysconfig.get_path("stdlib"))
AWKWARD = [" ", "  ", "\n", "\r\n", "\t",
           "\u00a0", "\u3000", "\u0085", "'s", "'LL", "'ſ", "\u0301", "ʰ", "ǅ", "½", "٣", "12345", "中文", "，", "😀",
           "/", ".\n", "\0",
           END, "\u200b", "abc", "Xyz", "HTML", "\U00010d40", "\u1c89"]
texts = st.lists(st.sampled_from(AWKWARD) | st.text(st.characters(codec="utf-8"), max_size=4), max_size=12).map("".join)


@pytest.fixture(scope="module")
def sample() -> list[str]:
    return [(LIBRARY / f"{name}.py").read_text() for name in ("heapq", "textwrap", "shlex", "csv")] + list(PROOF_TEXTS)


@pytest.fixture(scope="module")
def trained(sample) -> dict[str, bytes]:
    return {family: trained_model(family, sample) for family in FAMILIES}


def library(model: bytes) -> Raw:
    """Their own, with special tokens taken for text."""
    raw = Raw.from_buffer(model)
    raw.encode_special_tokens = True
    return raw


def fast(model: bytes) -> ByteLevelEncoder:
    found = fast_encoder(model, proven=False)
    assert found
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_are_those_of_the_library(family, trained):
    own, ours = library(trained[family]), fast(trained[family])

    @settings(max_examples=100, deadline=None)
    @given(texts)
    @example("  \n\n  1 x")
    @example(" 12 3")
    def equal(text):
        assert ours.encode(text).tolist() == own.encode(text, add_special_tokens=False).ids

    equal()
    for name in ("argparse", "turtle"):
        text = (LIBRARY / f"{name}.py").read_text()
        assert ours.encode(text).tolist() == own.encode(text, add_special_tokens=False).ids


@pytest.mark.nightly
@pytest.mark.parametrize("family", ["gpt2", "o200k"])
def test_every_character_is_of_the_same_class(family, trained):
    own, ours = library(trained[family]), fast(trained[family])
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    for begin in range(0, len(characters), 1 << 12):
        text = "".join(f"a{character}1{character} {character}" for character in characters[begin : begin + (1 << 12)])
        assert ours.encode(text).tolist() == own.encode(text, add_special_tokens=False).ids


def test_every_split_listed_as_for_llama_3(trained):
    model = all_splits(trained["cl100k"])
    own, ours = library(model), fast(model)
    for text in [*PROOF_TEXTS, (LIBRARY / "argparse.py").read_text()]:
        assert ours.encode(text).tolist() == own.encode(text, add_special_tokens=False).ids


@st.composite
def merge_lists(draw) -> list[tuple[str, str]]:
    """Merges of tokens that there are, in any order: most such lists come from no training."""
    tokens, merges = list("abc"), []
    for _ in range(draw(st.integers(1, 9))):
        left, right = draw(st.sampled_from(tokens)), draw(st.sampled_from(tokens))
        if len(left + right) <= 8 and (left, right) not in merges:
            merges.append((left, right))
            tokens.append(left + right)
    return merges


def test_any_list_of_merges_is_right_or_refused():
    """Also such as no training gives; both answers must occur."""
    taken = {True: 0, False: 0}

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(merge_lists(), st.booleans(), st.lists(st.text("abc", min_size=1, max_size=40), min_size=1, max_size=5))
    def right_or_refused(merges, ignore, words):
        model = model_of_merges(merges, ignore_merges=ignore)
        try:
            ours = ByteLevelEncoder(model, proven=False)  # by the merges alone, no text is compared
        except ValueError:
            taken[False] += 1
            return
        taken[True] += 1
        own = library(model)
        for word in [*words, *(left + right for left, right in merges)]:
            assert ours.encode(word).tolist() == own.encode(word, add_special_tokens=False).ids

    right_or_refused()
    assert min(taken.values()) > 3  # both happened; how often is chance


@pytest.mark.parametrize("ignore", [False, True])
def test_merges_that_tiktoken_would_add(ignore):
    """abc can be made of a and bc only: tiktoken would make it of ab and c, too."""
    merges = [("a", "b"), ("b", "c"), ("a", "bc")]
    with pytest.raises(ValueError, match="not a byte-level BPE"):
        ByteLevelEncoder(model_of_merges(merges, ignore_merges=ignore), proven=False)


def test_a_whole_piece_that_no_merge_makes():
    """Without merges it is found only where the library looks for whole pieces first."""
    ordinary, whole = (model_of_merges([("a", "b")], ignore_merges=ignore, more=["xyz"]) for ignore in (False, True))
    assert len(fast(ordinary).encode("xyz")) == 3 == len(library(ordinary).encode("xyz").ids)
    assert len(fast(whole).encode("xyz")) == 1 == len(library(whole).encode("xyz").ids)


def test_what_is_refused(trained):
    """Each differs from what tiktoken does, in its file."""
    def changed(**entries):
        return json.dumps(json.loads(trained["gpt2"]) | entries).encode()

    def model(**entries):
        return changed(model=json.loads(trained["gpt2"])["model"] | entries)

    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    unknown = {"type": "Split", "pattern": {"Regex": r"\w+"}, "behavior": "Isolated", "invert": False}
    after = byte_level | {"add_prefix_space": False, "use_regex": False}
    assert fast_encoder(changed(), proven=False)
    for refused in (
        changed(normalizer={"type": "Lowercase"}),
        changed(pre_tokenizer=byte_level),
        changed(pre_tokenizer=after),
        changed(pre_tokenizer={"type": "Sequence", "pretokenizers": [unknown, after]}),
        model(dropout=0.1),
        model(end_of_word_suffix="</w>"),
        model(vocab={token: place for token, place in json.loads(trained["gpt2"])["model"]["vocab"].items() if token != "!"}),
    ):
        assert fast_encoder(refused, proven=False) is None


def test_the_proof_looks_at_texts(trained, monkeypatch):
    """An encoder that is wrong for one character only is found out."""
    right = ByteLevelEncoder.encode
    monkeypatch.setattr(ByteLevelEncoder, "encode", lambda self, text: right(self, text.replace("\u1c89", "x")))
    assert fast_encoder(trained["gpt2"], proven=False) is None


def test_a_token_that_is_added_but_not_special(trained):
    """As Qwen's <tool_call>: the library finds it in texts, before everything else."""
    raw = Raw.from_buffer(trained["qwen2"])
    raw.add_tokens(["<tool_call>", "<think>"])
    model = raw.to_str().encode()
    end = raw.token_to_id(END)
    tokenizer = HuggingFaceTokenizer(model, end_of_document=end, fast=fast_encoder(model, proven=False))
    assert tokenizer.encoder == "tiktoken"
    for text in ("a <tool_call>x</tool_call>", "<think>" * 3, "plain", f"{END}<think>"):
        assert tokenizer.encode(text) == library(model).encode(text, add_special_tokens=False).ids
    some = ["a", "b <think> c", "", "d", "e"]
    assert tokenizer.encode_batch(some).ids.tolist() == [token for text in some for token in tokenizer.encode(text)]


def test_the_alphabet_of_bytes_is_the_library_s():
    assert set(byte_alphabet()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(byte_alphabet().values()) == list(range(256))
    raw = Raw(models.BPE(vocab={character: byte for character, byte in byte_alphabet().items()}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    assert raw.encode("é中\n").ids == list("é中\n".encode())
