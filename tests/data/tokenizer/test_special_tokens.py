"""Special tokens have stable ids, come out of no text, and stand in what a template has marked."""

import io
import json

import pytest
from hexareme.data.tokenizer import tokenizer as tokenizer_module
from hexareme.data.tokenizer.tokenizer import TRAINED_KINDS, Tokenizer, load_tokenizer, proof_beside, read_existing, save_tokenizer
from hexareme.data.tokenizer.training import train_tokenizer
from sentencepiece import SentencePieceTrainer
from transformers import PreTrainedTokenizerFast

from .byte_level_models import END, trained_model

TEXTS = ["A user asks something, the assistant answers it.\n" * 3, "Other words <|user|> here\n"]
SPECIAL = ["<|user|>", "<|assistant|>", "<|user|>2"]
CHAT = "<|user|>A user asks<|assistant|>it answers <|user|>2"


@pytest.fixture(scope="module", params=[*TRAINED_KINDS, "huggingface", "sentencepiece_file"])
def tokenizer(request, tmp_path_factory) -> Tokenizer:
    """Each kind with special tokens, saved and read again."""
    folder = tmp_path_factory.mktemp(request.param)
    kind = request.param
    if kind in TRAINED_KINDS:
        model, end = train_tokenizer(kind, TEXTS, vocab_size=400, special_tokens=SPECIAL)
    elif kind == "huggingface":
        (folder / "tokenizer.json").write_bytes(trained_model("cl100k", TEXTS, vocab_size=300))
        kind, model, end = read_existing(kind, folder)
    else:
        written = io.BytesIO()
        settings = {"vocab_size": 300, "byte_fallback": True, "hard_vocab_limit": False, "minloglevel": 2}
        SentencePieceTrainer.train(sentence_iterator=iter(TEXTS), model_writer=written, **settings)
        (folder / "their.model").write_bytes(written.getvalue())
        kind, model, end = read_existing(kind, folder / "their.model")
    save_tokenizer(folder / "saved", kind=kind, model=model, end_of_document=end, special_tokens=SPECIAL)
    return load_tokenizer(folder / "saved")


def test_they_come_out_of_no_text(tokenizer):
    ids = tokenizer.encode(CHAT)
    assert not (set(ids) - {tokenizer.unknown}) & set(tokenizer.special_tokens.values())
    assert set(SPECIAL) <= set(tokenizer.special_tokens)
    assert tokenizer.end_of_document in tokenizer.special_tokens.values()
    assert max(tokenizer.special_tokens.values()) < tokenizer.vocab_size


def test_what_a_template_marks_becomes_their_ids(tokenizer):
    ids = tokenizer.encode_marked(CHAT)
    special = [token for token in ids if token in tokenizer.special_tokens.values()]
    assert special == [tokenizer.special_tokens[name] for name in ("<|user|>", "<|assistant|>", "<|user|>2")]
    assert ids[0] == tokenizer.special_tokens["<|user|>"]
    words = tokenizer.decode(ids)
    assert "<|" not in words
    assert "asks" in words
    assert tokenizer.decode([tokenizer.special_tokens["<|user|>"]]) == ""


@pytest.mark.parametrize("kind", TRAINED_KINDS)
def test_ids_do_not_depend_on_the_sample(kind, tmp_path):
    found = []
    for number, texts in enumerate((TEXTS, ["quite another sample, with 123 numbers"])):
        model, end = train_tokenizer(kind, texts, vocab_size=320, special_tokens=SPECIAL)
        saved = save_tokenizer(tmp_path / str(number), kind=kind, model=model, end_of_document=end, special_tokens=SPECIAL)
        found.append((dict(saved.special_tokens), saved.end_of_document, saved.padding, saved.unknown))
    assert found[0] == found[1]


def test_a_proof_is_taken_over_for_the_same_bytes_alone(tmp_path, monkeypatch):
    model, end = train_tokenizer("byte_bpe", TEXTS, vocab_size=320, special_tokens=SPECIAL)
    save_tokenizer(tmp_path / "first", kind="byte_bpe", model=model, end_of_document=end)
    proof, made, prove = proof_beside(tmp_path / "first"), [], tokenizer_module.prove
    monkeypatch.setattr(tokenizer_module, "prove", lambda *given: made.append(given) or prove(*given))
    for name, taken, special, proofs in (("same", proof, [], 0), ("none", None, [], 1), ("other", {**proof, "model": "0"}, [], 2),
                                         ("more", proof, ["<|new|>"], 3)):
        save_tokenizer(tmp_path / name, kind="byte_bpe", model=model, end_of_document=end, special_tokens=special, proof=taken)
        assert len(made) == proofs, name
    assert len({(tmp_path / name / "description.json").read_text() for name in ("first", "same", "none", "other")}) == 1


def test_marked_text_has_the_ids_of_transformers(tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(trained_model("qwen2", TEXTS, vocab_size=300))
    kind, model, end = read_existing("huggingface", tmp_path)
    ours = save_tokenizer(tmp_path / "saved", kind=kind, model=model, end_of_document=end, special_tokens=SPECIAL)
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "saved" / "tokenizer.json"))
    assert ours.encode_marked(CHAT) == theirs(CHAT, add_special_tokens=False)["input_ids"]
    assert ours.encode_marked("") == []


def test_an_existing_vocabulary_grows_at_its_end(tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(trained_model("gpt2", TEXTS, vocab_size=300))
    kind, model, end = read_existing("huggingface", tmp_path)
    before = save_tokenizer(tmp_path / "before", kind=kind, model=model, end_of_document=end)
    after = save_tokenizer(tmp_path / "after", kind=kind, model=model, end_of_document=end, special_tokens=[SPECIAL[0], END, SPECIAL[1]])
    assert after.special_tokens[END] == before.end_of_document
    assert [after.special_tokens[name] for name in SPECIAL[:2]] == [before.vocab_size, before.vocab_size + 1]
    assert after.vocab_size == before.vocab_size + 2
    assert after.encode("Other words") == before.encode("Other words")


def test_the_proof_is_kept_and_asked_for(tmp_path, monkeypatch):
    """Loading does not prove again what was proven for these bytes and versions; for others it does."""
    from hexareme.data.tokenizer import tokenizer as module

    model = trained_model("gpt2", TEXTS, vocab_size=300)
    save_tokenizer(tmp_path / "saved", kind="huggingface", model=model, end_of_document=json.loads(model)["added_tokens"][0]["id"])
    asked = []
    original = module.fast_encoder
    monkeypatch.setattr(module, "fast_encoder", lambda model, *, proven: (asked.append(proven), original(model, proven=proven))[1])
    assert load_tokenizer(tmp_path / "saved").encoder == "tiktoken"
    monkeypatch.setattr(module, "versions", lambda: {"tiktoken": "0", "tokenizers": "0"})
    assert load_tokenizer(tmp_path / "saved").encoder == "tiktoken"
    assert asked == [True, False]
